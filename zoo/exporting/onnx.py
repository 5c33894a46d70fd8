"""ONNX: the graph of a net in one file, in operators that runtimes fuse.

The graph is recorded by torch's exporter that traces: its graphs run as fast as those of the other, and take a sixth of the time to write.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.exporting.formats import Format, write
from zoo.exporting.functions import WrittenOut
from zoo.exporting.lowering import Layout, lowered
from zoo.exporting.ports import Flat, Port, Ports
from zoo.exporting.proof import Run
from zoo.exporting.recurrences import recorded_ops, with_loops

OPSET = 20
"""The newest that torch's tracing exporter writes: gelu and layer norms are operators in it."""


def write_onnx(
    net: nn.Module,
    signature: Ports | Tensor,
    path: str | os.PathLike[str],
    dynamic: Collection[str] = (),
    force: bool = False,
    check: bool = True,
    prefers: Layout = "image",
) -> Path:
    """Writes a net in eval mode as one ONNX file in float32, and returns its path. The net is not changed.

    `signature`: an example of the images that go in, whose `batch` and `size` are free where `dynamic` names them; or `Ports`.
    With `check` the file is run by onnxruntime and compared with the net in float64, at the sizes of the
    example and at others that are free. `prefers` says what runs faster where a part could run on both, images (in ONNX Runtime) or tokens
    (in OpenVINO). Raises InputError for a file that is there, unless `force`; for an operator that ONNX has not,
    with its name; and for outputs that differ."""
    made = ONNX._replace(record=functools.partial(record, prefers=prefers))
    return write(made, net, signature, path, dynamic, force, check).path


def record(net: nn.Module, ports: Ports, path: Path, prefers: Layout = "image") -> None:
    """Writes the graph of a net as it is laid out for runtimes."""
    axes = {port.name: port.free for port in ports.inputs if port.free}
    if (along := ports.inputs[0].free.get(0)) is not None:
        axes |= {name: {0: along} for name in ports.outputs}
    graph = Flat(lowered(net, prefers))
    with torch.no_grad(), WrittenOut(), recorded_ops("onnx", ports.lengths_are_free, ports.is_free):
        torch.onnx.export(
            graph,
            ports.examples,
            str(path),
            input_names=[port.name for port in ports.inputs],
            output_names=list(ports.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    _finish(path, net, ports)


def opened(path: Path, ports: Ports) -> Run:
    """What runs a graph in onnxruntime, on the CPU and with its usual settings."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in ports.inputs]

    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(y) for y in session.run(None, feeds))

    return run


def _finish(path: Path, net: nn.Module, ports: Ports) -> None:
    """Writes loops out, says in the file whose it is, and takes out where on this machine the code lies that recorded it. Inputs that nothing
    reads, which torch's exporter leaves out, are inputs all the same."""
    import onnx

    model: Any = with_loops(onnx.load(str(path)))
    read = {one.name: onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in model.graph.input}
    del model.graph.input[:]
    model.graph.input.extend(read.get(port.name) or _unread(port) for port in ports.inputs)
    for node in model.graph.node:
        node.ClearField("doc_string")
    model.producer_name = "blockzoo"
    spec = getattr(net, "spec", None)
    facts = {"name": getattr(spec, "name", ""), "digest": getattr(spec, "digest", "")}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in facts.items() if value})
    onnx.save(model, str(path))


def _unread(port: Port) -> Any:
    """What a graph says of an input."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(port.example.numpy().dtype)
    return helper.make_tensor_value_info(
        port.name, kind, [port.free.get(axis, size) for axis, size in enumerate(port.example.shape)]
    )


INSTALL = 'pip install "blockzoo[onnxruntime]"'
ONNX = Format("onnx", "ONNX", "", {"onnx": INSTALL, "onnxruntime": INSTALL}, record, opened)
