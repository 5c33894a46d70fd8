"""torch's own formats: a program of its operators (`torch-export`), one compiled for this machine (`aot`), and TorchScript."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blocks.ops.graph.loops import Loops
from blocks.packing import unpacked
from zoo.errors import InputError, Problem
from zoo.exporting.archives import write_archive
from zoo.exporting.formats import Format
from zoo.exporting.ports import Flat, Port, Ports, flat
from zoo.exporting.proof import Run
from zoo.exporting.recurrences import recorded_ops

TORCH_OWN = ("aten", "prim", "prims", "higher_order", "_operator", "builtins", "math")
"""Whose operators are there wherever torch is."""


class Whole(Flat):
    """A net that gives one tensor, or a tuple of them, and whose inputs have the names of ports."""

    def __init__(self, net: nn.Module, ports: Ports):
        super().__init__(net)

        def forward(*inputs: Tensor) -> Any:
            outputs = flat(self.net(*inputs))
            return outputs[0] if len(outputs) == 1 else outputs

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = [inspect.Parameter(name, kind) for name in arguments_of(ports)]
        forward.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
        self.forward = forward  # type: ignore[method-assign]


def arguments_of(ports: Ports) -> list[str]:
    """The names of what goes in, as Python writes them."""
    return [port.name.replace(".", "_") for port in ports.inputs]


def record_program(net: nn.Module, ports: Ports, path: Path) -> None:
    """Writes the program as `torch.export.load` reads it."""
    made = program(net, ports)
    write_archive(path, lambda file: torch.export.save(made, file))


def record_compiled(net: nn.Module, ports: Ports, path: Path) -> None:
    """Writes a package of compiled code and weights, as `torch._inductor.aoti_load_package` reads it."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        raise InputError("export", Problem("to aot", "a C++ compiler", "none", next="install g++ or clang"))
    torch._inductor.aoti_compile_and_package(program(net, ports), package_path=str(path))


def record_script(net: nn.Module, ports: Ports, path: Path) -> None:
    """Writes a trace as `torch.jit.load` reads it."""
    with torch.no_grad(), recorded_ops("script", ports.lengths_are_free):
        traced = torch.jit.trace(Whole(unpacked(net), ports), ports.examples, check_trace=False, strict=False)
    _refuse_foreign(node.kind() for node in traced.inlined_graph.nodes() if "::" in node.kind())
    write_archive(path, lambda file: torch.jit.save(traced, file))


def program(net: nn.Module, ports: Ports) -> Any:
    """The exported program of a net, which runs where torch is and the zoo is not. Its inputs have the names of the ports."""
    free = {
        name: dict.fromkeys(port.free, torch.export.Dim.AUTO) or None
        for name, port in zip(arguments_of(ports), ports.inputs, strict=True)
    }
    examples = tuple(_at_least_two(port) for port in ports.inputs)
    loops: Loops = "scan" if ports.lengths_are_free else "unrolled"
    with torch.no_grad(), recorded_ops(loops, ports.lengths_are_free):
        found = torch.export.export(Whole(unpacked(net), ports), examples, dynamic_shapes=free)
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # where on this machine the code lies
    _refuse_foreign(str(node.target) for node in found.graph.nodes if node.op == "call_function")
    return found


def _at_least_two(port: Port) -> Tensor:
    """An example with two samples where their number is free: of a size of 1 torch takes that it stays so."""
    x = port.example
    axis = next((axis for axis, name in port.free.items() if name == "batch" and x.shape[axis] == 1), None)
    return x if axis is None else torch.cat([x, x], axis)


def _refuse_foreign(names: Any) -> None:
    """Raises InputError for an operator that is there only where the zoo is."""
    for name in names:
        home = name.replace("::", ".").partition(".")[0]
        if home in ("zoo", "blocks"):
            raise InputError("export", Problem("", "operators that torch has", f"`{name}`"))


def run_program(path: Path, ports: Ports) -> Run:
    net = torch.export.load(str(path)).module()
    return lambda inputs: flat(net(*inputs))


def run_compiled(path: Path, ports: Ports) -> Run:
    net: Any = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: flat(net(*inputs))


def run_script(path: Path, ports: Ports) -> Run:
    net = torch.jit.load(str(path))
    return lambda inputs: flat(net(*inputs))


PROGRAM = Format("torch-export", "torch.export", ".pt2", {}, record_program, run_program)
AOT = Format("aot", "AOTInductor", ".pt2", {}, record_compiled, run_compiled)
SCRIPT = Format("torchscript", "TorchScript", "", {}, record_script, run_script)
