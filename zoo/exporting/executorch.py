"""ExecuTorch: the program of a net for phones and small devices, by XNNPACK on their CPUs."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from blocks.packing import unpacked
from zoo.exporting.formats import Format
from zoo.exporting.ports import Ports, flat
from zoo.exporting.proof import Run
from zoo.exporting.torch_formats import program


def record(net: nn.Module, ports: Ports, path: Path) -> None:
    """Writes the program as ExecuTorch's runtimes read it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    plain = copy.deepcopy(unpacked(net)).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # its passes take weights for NCHW
    lowered = to_edge_transform_and_lower(program(plain, ports), partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def opened(path: Path, ports: Ports) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda inputs: flat(method.execute(list(inputs)))


INSTALL = 'pip install "blockzoo[executorch]"'
EXECUTORCH = Format("executorch", "ExecuTorch", ".pte", {"executorch": INSTALL}, record, opened)
