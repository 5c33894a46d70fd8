"""Ops of sequences as nets of named tensors, and how they are recorded and run: shared by the tests of graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import blocks.ops
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.long_conv import long_conv
from blocks.ops.selective_scan import selective_scan
from tests.ops import test_long_conv, test_recurrences, test_selective_scan
from zoo.exporting.onnx import write_onnx
from zoo.exporting.ports import Port, Ports

LENGTHS = [1, 7, 64, 257]
RECORDED = 7
"""Steps of what is recorded for any length."""

Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """An op, its inputs by length, and for each input which axis is the time."""

    op: Callable[..., Any]
    inputs: Callable[[int], Inputs]
    time: dict[str, int]


def _recurrence(kind: str) -> Case:
    def op(**inputs: Tensor) -> Any:
        return test_recurrences.OPS[kind](**inputs, return_final_state=True)

    names = test_recurrences.arguments(kind, 1)
    still = {"initial_state", "bonus"}
    return Case(
        op, lambda length: test_recurrences.arguments(kind, length), {name: 1 for name in names if name not in still}
    )


def _scan(**inputs: Tensor) -> Any:
    return selective_scan(**inputs, delta_softplus=True, return_final_state=True)


def _short(length: int) -> Inputs:
    draw = torch.Generator().manual_seed(length)
    shapes = {"x": (2, 5, length), "weight": (5, 4), "bias": (5,), "initial_state": (2, 5, 3)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def _without(inputs: Callable[[int], Inputs], *names: str) -> Callable[[int], Inputs]:
    return lambda length: {name: x for name, x in inputs(length).items() if name not in names}


SCAN_TIME = {"u": 2, "delta": 2, "B": 3, "C": 3, "z": 2}
CASES: dict[str, Case] = {
    **{kind: _recurrence(kind) for kind in test_recurrences.OPS},
    "scan": Case(_scan, test_selective_scan.arguments, SCAN_TIME),
    "scan from nothing": Case(_scan, _without(test_selective_scan.arguments, "initial_state", "z"), SCAN_TIME),
    "long": Case(lambda **x: long_conv(**x), test_long_conv.arguments, {"x": 2, "kernel": 1, "kernel_back": 1}),
    "short": Case(lambda **x: causal_conv1d(**x, act="silu"), _short, {"x": 2}),
    "short from nothing": Case(lambda **x: causal_conv1d(**x, act="silu"), _without(_short, "initial_state"), {"x": 2}),
}
for kind in ("decay per head", "decay per key", "gated delta", "low rank"):
    whole = CASES[kind]
    CASES[f"{kind}, from nothing"] = whole._replace(inputs=_without(whole.inputs, "initial_state"))


class Net(nn.Module):
    """An op as a net: tensors in the order of their names in, a flat tuple of tensors out."""

    def __init__(self, case: Case):
        super().__init__()
        self.case, self.names = case, tuple(case.inputs(RECORDED))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = self.case.op(**dict(zip(self.names, tensors, strict=True)))
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def exact(case: Case, length: int) -> tuple[Tensor, ...]:
    """The outputs of the reference in float64."""
    with blocks.ops.backend("reference"), torch.no_grad():
        return Net(case)(*(x.double() for x in case.inputs(length).values()))


def error(found: Any, right: tuple[Tensor, ...]) -> float:
    """The largest |found - right| / |right| over the outputs."""
    assert len(found) == len(right)
    return max(_error(torch.as_tensor(y), exact) for y, exact in zip(found, right, strict=True))


def _error(found: Tensor, right: Tensor) -> float:
    assert found.shape == right.shape
    return float((found.double() - right).norm() / right.double().norm().clamp_min(1e-30))


def graph_of(case: Case, folder: Path, dynamic: bool = True, length: int = RECORDED) -> onnx.ModelProto:
    """The op as an ONNX graph, for any length where `dynamic`."""
    inputs, net = case.inputs(length), Net(case)
    free = {name: {axis: "length"} for name, axis in case.time.items() if dynamic}
    ports = tuple(Port(name, x, free.get(name, {})) for name, x in inputs.items())
    outputs = tuple(f"output_{index}" for index in range(len(net(*inputs.values()))))
    return onnx.load(str(write_onnx(net, Ports(ports, outputs), folder / "recorded.onnx", force=True, check=False)))


def run_onnxruntime(model: onnx.ModelProto, inputs: Inputs) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {one.name for one in session.get_inputs()}
    return session.run(None, {name: x.numpy() for name, x in inputs.items() if name in known})  # type: ignore[no-any-return]


def run_openvino(model: onnx.ModelProto, folder: Path) -> Callable[[Inputs], list[Any]]:
    """What runs a graph in OpenVINO, in float32; the graph goes through a file of the folder."""
    import openvino

    onnx.save(model, str(folder / "graph.onnx"))
    compiled = openvino.Core().compile_model(
        openvino.convert_model(str(folder / "graph.onnx")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(inputs: Inputs) -> list[Any]:
        feeds = {name: inputs[name].numpy() for port in compiled.inputs for name in port.get_names() & inputs.keys()}
        found = compiled(feeds)
        return [found[index].copy() for index in range(len(compiled.outputs))]

    return run
