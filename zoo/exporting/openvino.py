"""OpenVINO: the graph of a net as an `.xml` and, beside it, its weights as a `.bin`. It is made of the same graph as the ONNX file."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.exporting.formats import Format, write
from zoo.exporting.onnx import record as record_onnx
from zoo.exporting.ports import Ports
from zoo.exporting.proof import Run


def write_openvino(
    net: nn.Module,
    signature: Ports | Tensor,
    path: str | os.PathLike[str],
    dynamic: Collection[str] = (),
    force: bool = False,
    check: bool = True,
) -> Path:
    """Writes a net in eval mode as OpenVINO's `.xml` and `.bin`, in float32, and returns the path of the first. As `write_onnx`."""
    return write(OPENVINO, net, signature, path, dynamic, force, check).path


def without_telemetry() -> Any:
    """The package `openvino`, which tells nobody that it was imported, and converts."""
    name = "openvino_telemetry"
    if "openvino" not in sys.modules and name not in sys.modules:
        sys.modules[name] = None  # type: ignore[assignment]  # as where it is not installed
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[name]
    return importlib.import_module("openvino")


def record(net: nn.Module, ports: Ports, path: Path) -> None:
    """Writes both files."""
    openvino = without_telemetry()
    graph = path.with_suffix(".onnx")
    record_onnx(net, ports, graph, prefers="tokens")
    openvino.save_model(openvino.convert_model(str(graph)), str(path), compress_to_fp16=False)
    graph.unlink()


def opened(path: Path, ports: Ports) -> Run:
    """What runs the files on the CPU, in float32."""
    openvino = without_telemetry()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = compiled([x.numpy() for x in inputs])
        return tuple(torch.from_numpy(found[i].copy()) for i in range(len(found)))

    return run


INSTALL = 'pip install "blockzoo[openvino]"'
OPENVINO = Format("openvino", "OpenVINO", ".xml", {"openvino": INSTALL, "onnx": INSTALL}, record, opened)
