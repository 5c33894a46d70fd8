"""Which candidates a wish leaves, and how wrong wishes are refused; with runtimes that answer what a test says."""

from __future__ import annotations

import pytest

import zoo
from zoo.runtimes import candidates
from zoo.runtimes.candidates import PLAIN, Candidate, plan_for
from zoo.runtimes.registered import Row

ROWS = [
    Row("torch", "torch", "2.13", ("float32", "bfloat16"), ""),
    Row("compile", "torch", "2.13", ("float32", "bfloat16"), ""),
    Row("onnxruntime", "onnxruntime", "1.32", ("float32",), ""),
    Row("openvino", "openvino", "", (), 'it does not import; next: pip install "blockzoo[openvino]"'),
]


@pytest.fixture(autouse=True)
def _rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def runtime(name: str) -> Row:
        row = next(row for row in ROWS if row.name == name)
        if row.missing:
            raise zoo.InputError(
                "deploy", zoo.errors.Problem(f"runtime `{name}`", "a runtime that is installed", row.missing)
            )
        return row

    monkeypatch.setattr(candidates, "rows", lambda: ROWS)
    monkeypatch.setattr("zoo.catalog.runtimes.names", lambda: [row.name for row in ROWS])
    monkeypatch.setattr(candidates, "runtime", runtime)


def test_auto_tries_all_that_are_installed_torch_first_and_what_is_slow_to_make_last() -> None:
    plan = plan_for(["auto"], "auto")
    assert plan.candidates == plan.eligible
    assert plan.candidates == [
        PLAIN, Candidate("onnxruntime", "float32"), Candidate("torch", "bfloat16"), Candidate("compile", "float32"),
        Candidate("compile", "bfloat16"),
    ]  # fmt: skip
    (row,) = plan.left_out
    assert (row.runtime, row.outcome) == ("openvino", "missing") and "pip install" in row.reason


def test_one_runtime_in_float32_has_nothing_beside_it() -> None:
    assert plan_for(["onnxruntime"], "float32").candidates == [Candidate("onnxruntime", "float32")]


def test_a_lower_precision_is_compared_with_the_deploy_form_of_torch() -> None:
    plan = plan_for(["compile"], "bfloat16")
    assert plan.candidates == [PLAIN, Candidate("compile", "bfloat16")]
    assert plan.eligible == [Candidate("compile", "bfloat16")]


def test_runtimes_that_lack_the_precision_are_rows() -> None:
    plan = plan_for(["auto"], "bfloat16")
    assert [one.runtime for one in plan.eligible] == ["torch", "compile"]
    assert [(row.runtime, row.reason) for row in plan.left_out][1:] == [
        ("onnxruntime", "it does not compute in bfloat16 on this machine")
    ]


def test_several_runtimes_may_be_named() -> None:
    plan = plan_for(["torch", "onnxruntime"], "float32")
    assert plan.candidates == [PLAIN, Candidate("onnxruntime", "float32")]


@pytest.mark.parametrize(
    ("runtimes", "precision", "message"),
    [
        (["onnx-runtime"], "float32", "found `onnx-runtime`; nearest `onnxruntime`"),
        (["auto"], "bf16", "expected `auto`, `float32`, `bfloat16`, `float16` or `int8`; found `bf16`"),
        (["onnxruntime"], "bfloat16", "expected one in which it computes on this machine: float32; found `bfloat16`"),
        (["openvino"], "float32", 'pip install "blockzoo[openvino]"'),
        ([], "float32", "found none"),
    ],
)
def test_wrong_wishes_are_refused_with_what_there_is(runtimes: list[str], precision: str, message: str) -> None:
    with pytest.raises(zoo.InputError) as caught:
        plan_for(runtimes, precision)
    assert message in str(caught.value)
