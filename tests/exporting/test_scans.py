"""Recurrences and convolutions of sequences as graphs: equal to the reference in every form, at lengths that were not recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from blocks.ops.graph import exporting
from blocks.ops.graph import recurrences as graph_forms
from blocks.ops.linear_recurrence import INCLUSIVE, reference
from blocks.registry.errors import BlockError
from tests.exporting.scans import CASES, LENGTHS, RECORDED, Net, error, exact, graph_of, run_onnxruntime, run_openvino

BOUND = 1e-4
QUICK = ("decay per head", "scan")
"""The cases of which torch.export records a program in every run of the tests: with a loop it takes long."""
every_case = pytest.mark.parametrize("name", CASES)
quick_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)


@every_case
@pytest.mark.parametrize("length", LENGTHS)
def test_graph_equals_the_reference(name: str, length: int) -> None:
    case = CASES[name]
    for dynamic in (False, True):
        with exporting("unrolled", dynamic), torch.no_grad():
            found = Net(case)(*case.inputs(length).values())
        assert error(found, exact(case, length)) <= BOUND / 10


@every_case
def test_onnx_holds_standard_operators_and_takes_any_length(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], graph_of(CASES[name], tmp_path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    for length in LENGTHS:
        assert error(run_onnxruntime(model, case.inputs(length)), exact(case, length)) <= BOUND


@quick_case
def test_onnx_of_one_length_equals_the_reference(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = run_onnxruntime(graph_of(case, tmp_path, dynamic=False, length=70), case.inputs(70))
    assert error(found, exact(case, 70)) <= BOUND


@pytest.mark.slow
@every_case
def test_openvino_takes_the_graph_at_any_length(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    run = run_openvino(graph_of(case, tmp_path), tmp_path)
    for length in LENGTHS:
        assert error(run(case.inputs(length)), exact(case, length)) <= BOUND


@quick_case
def test_torchscript_loops_for_any_length(name: str) -> None:
    case = CASES[name]
    with exporting("script", dynamic=True), torch.no_grad():
        traced = torch.jit.trace(Net(case), tuple(case.inputs(RECORDED).values()), check_trace=False)
    assert not any("zoo::" in node.kind() for node in traced.inlined_graph.nodes())
    for length in LENGTHS:
        assert error(traced(*case.inputs(length).values()), exact(case, length)) <= BOUND


ALONE = """
import sys
for name in ("zoo", "blocks"):
    sys.modules[name] = None
import torch
program = torch.export.load(sys.argv[1]).module()
cases = torch.load(sys.argv[2])
for inputs, right in cases:
    for y, exact in zip(program(*inputs), right, strict=True):
        error = float((y.double() - exact).norm() / exact.norm())
        assert error <= 1e-4, error
print("equal", len(cases))
"""


@quick_case
def test_program_of_torch_export_runs_without_the_zoo(name: str, tmp_path: Path) -> None:
    case, lengths = CASES[name], [2, 7, 64, 257]
    inputs = case.inputs(33)
    free = tuple({case.time[key]: torch.export.Dim.AUTO} if key in case.time else None for key in inputs)
    with exporting("scan", dynamic=True), torch.no_grad():
        program = torch.export.export(Net(case), tuple(inputs.values()), dynamic_shapes={"tensors": free})
    assert not [node for node in program.graph.nodes if "zoo" in str(node.target)]
    torch.export.save(program, tmp_path / "op.pt2")
    torch.save([(tuple(case.inputs(n).values()), exact(case, n)) for n in lengths], tmp_path / "cases.pt")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "op.pt2"), str(tmp_path / "cases.pt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": ""})
    assert done.stdout == f"equal {len(lengths)}\n", done.stderr[-2000:]


@pytest.mark.parametrize("length", [1, 63, 130])
def test_a_recurrence_of_channels_equals_the_reference(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    v, decay = (torch.randn(2, length, 3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    one, state = v.new_ones(2, length, 1, 1), torch.randn(2, 3, 1, 5, dtype=torch.float64, generator=generator)
    for start in (None, state):
        given = (one, one, v, -decay.abs(), start, INCLUSIVE, False, True)
        torch.testing.assert_close(graph_forms.linear_recurrence(*given), reference(*given), rtol=1e-12, atol=1e-12)


def test_a_decay_of_zero_cuts_the_sequence() -> None:
    case = CASES["decay per key"]
    inputs = case.inputs(70)
    inputs["log_decay"][:, 40] = -torch.inf
    with exporting(), torch.no_grad():
        whole, _ = Net(case)(*inputs.values())
        rest, _ = Net(case)(*(inputs[key][:, 40:] if key in case.time else inputs[key] * 0 for key in inputs))
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(whole[:, 40:], rest, rtol=1e-4, atol=1e-5)


def test_an_unknown_form_of_loops_is_refused() -> None:
    with pytest.raises(BlockError) as caught, exporting("scam"):  # type: ignore[arg-type]
        pass
    assert "expected `unrolled`, `onnx`, `script` or `scan`; found `scam`; nearest `scan`" in str(caught.value)
