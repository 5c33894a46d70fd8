"""A net in a folder, for the runtimes of torch: spec and weights, of which the zoo makes the net again, and an exported program, which
runs where the zoo is not installed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from zoo.artifacts.record import Made
from zoo.build.builder import build
from zoo.build.deploy import fused
from zoo.catalog.external import External
from zoo.errors import InputError, Problem, ProblemsError, listed
from zoo.exporting.archives import write_archive
from zoo.exporting.recurrences import recorded_ops
from zoo.runtimes.drawing import drawn
from zoo.runtimes.net import Flat
from zoo.runtimes.quiet import refusing
from zoo.runtimes.signature import Signature
from zoo.specs.model import description_of
from zoo.specs.read import family_of, read_json
from zoo.specs.resolve import resolve
from zoo.system.folders import write_whole
from zoo.weights.load import expected_header, load_state, read_tensors, save_weights

NET, WEIGHTS, PROGRAM = "net.json", "model.safetensors", "program.pt2"
STANDARD = ("aten", "prims", "prim", "higher_order", "_operator", "builtins", "math")
"""Namespaces of what torch alone can compute."""


class NetRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`net.json`: how a deploy form is made, but for its tensors. `spec`, or the name of what a plugin's code builds, with its options."""

    name: str
    made: Made = Made()
    spec: dict[str, Any] | None = None
    options: dict[str, Any] = {}
    tag: str = ""


def write_net(net: nn.Module, folder: Path) -> bool:
    """Spec and weights of a deploy form; nothing, and False, where no spec says how it is made. Raises WeightsError, InputError."""
    record = _record_of(net)
    if record is None:
        return False
    save_weights(net, folder / WEIGHTS)
    write_whole(folder / NET, msgspec.json.encode(record))
    return True


def read_net(folder: Path) -> nn.Module:
    """The deploy form that `write_net` wrote, in eval mode, its layers not packed. Raises InputError, SpecError and WeightsError."""
    subject = str(folder / NET)
    try:
        record = msgspec.convert(read_json((folder / NET).read_bytes(), subject), NetRecord)
    except OSError as error:
        raise InputError(subject, Problem("", "how the net is made", error.strerror or str(error))) from None
    except msgspec.ValidationError as error:
        raise InputError(subject, Problem("", "how the net is made", str(error))) from None
    net = _made(record)
    load_state(net, read_tensors(folder / WEIGHTS), record.name)
    return net.requires_grad_(False).eval()


def _record_of(net: Any) -> NetRecord | None:
    """How a net is made, where what is made like that has the same tensors."""
    described = description_of(net)
    if described is None:
        return None
    if described.factory is not None:
        record = NetRecord(described.name, options=described.factory.options, tag=described.factory.tag)
    else:
        levels = None if net.out_indices is None else tuple(net.out_indices)
        made = Made("deploy", net.head is None and levels is None, levels)
        record = NetRecord(described.name, made, described.plain())
    try:
        return record if expected_header(_made(record)) == expected_header(net) else None
    except (ProblemsError, RuntimeError):  # what was pruned by hand may not even be built
        return None


def _made(record: NetRecord) -> nn.Module:
    """The deploy form on meta."""
    if record.spec is None:
        net: Any = build(External(record.name, record.options, record.tag))
        return fused(net)
    spec = resolve(family_of(record.spec, record.name), "")
    spec.name = record.name
    net = build(spec)
    if record.made.out_indices is not None:
        net.out_indices = tuple(net.prune_intermediate_layers(list(record.made.out_indices)))
    elif record.made.headless:
        net.head = None
    return fused(net)


def examples_of(signature: Signature, least: int = 1) -> tuple[Tensor, ...]:
    """A tensor for each input and leaf of the state, of the sizes of the example, or of `least` where a free size is less: drawn ones, and
    zeros for the state, which has as many samples as the inputs."""
    small = {
        one.axis(index): least
        for one in signature.inputs
        for index, (free, size) in enumerate(zip(one.shape, one.example, strict=True))
        if free is None and size < least
    }
    inputs = drawn(signature, 0, **small)[: len(signature.inputs)]
    batch = small.get("batch", signature.samples)
    leaves = (
        torch.zeros(
            [batch, *(max(size, least) if free is None else size for size, free in zip(leaf.first[1:], leaf.shape[1:], strict=True))],
            dtype=getattr(torch, leaf.dtype),
        )
        for leaf in signature.state
    )  # fmt: skip
    return (*inputs, *leaves)


def exported(
    net: nn.Module, signature: Signature, runtime: str, precision: str = "float32", alone: bool = False
) -> torch.export.ExportedProgram:
    """The net as a program of torch.export with flat tensors; `alone` in operators of torch, without the zoo's. Raises InputError."""
    flat = Flat(net, signature).eval()
    count, drawn_ones = len(signature.inputs), examples_of(signature, least=2)
    inputs = (x.to(getattr(torch, precision)) if x.is_floating_point() else x for x in drawn_ones[:count])
    examples = [*inputs, *drawn_ones[count:]]
    free = [
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(one.shape) if size is None}
        for one in signature.tensors
    ]
    is_long = signature.lengths_are_free
    ops = recorded_ops("scan" if is_long else "unrolled", is_long) if alone else contextlib.nullcontext()
    with refusing(runtime, "a net that torch.export can follow"), torch.no_grad(), ops:
        program = torch.export.export(flat, tuple(examples), dynamic_shapes={"tensors": tuple(free)}, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where on this machine the code lies
    return program


def narrowed(signature: Signature, program: torch.export.ExportedProgram) -> Signature:
    """The signature with the sizes that the program leaves free."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    shapes = [tuple(nodes[name].meta["val"].shape) for name in names]  # type: ignore[index]
    count = len(signature.inputs)
    inputs = [
        msgspec.structs.replace(one, shape=_sizes(one.shape, shape), example=_fitted(one.example, one.shape, shape))
        for one, shape in zip(signature.inputs, shapes[:count], strict=True)
    ]
    leaves = [
        msgspec.structs.replace(leaf, shape=_sizes(leaf.shape, shape))
        for leaf, shape in zip(signature.state, shapes[count:], strict=True)
    ]
    return msgspec.structs.replace(signature, inputs=tuple(inputs), state=tuple(leaves))


def _sizes(wanted: tuple[int | None, ...], found: tuple[Any, ...]) -> tuple[int | None, ...]:
    return tuple(
        size if size is not None else int(other) if isinstance(other, int) else None
        for size, other in zip(wanted, found, strict=True)
    )


def _fitted(example: tuple[int, ...], wanted: tuple[int | None, ...], found: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(
        int(other) if free is None and isinstance(other, int) else size
        for size, free, other in zip(example, wanted, found, strict=True)
    )


def write_program(net: nn.Module, signature: Signature, folder: Path, runtime: str, precision: str) -> None:
    """The exported program of a net in the dtype of its precision. Raises InputError where it holds operators that torch alone lacks."""
    program = exported(net, signature, runtime, precision, alone=True)
    foreign = sorted({_operator(node.target) for node in program.graph.nodes if node.op == "call_function"} - {""})
    if foreign:
        raise InputError("deploy", Problem("program", "operators of torch alone", listed(foreign)))
    with refusing(runtime, "a place for the program"):
        write_archive(folder / PROGRAM, lambda file: torch.export.save(program, file))


def _operator(target: Any) -> str:
    """The name of an operator that others registered, "" for one of torch."""
    name = str(target)
    home = getattr(target, "namespace", "") or getattr(target, "__module__", "").partition(".")[0]
    return "" if home in STANDARD or home == "torch" else name


def read_program(folder: Path, runtime: str) -> nn.Module:
    """The module of an exported program. Raises InputError."""
    with refusing(runtime, f"an exported program in {folder / PROGRAM}"):
        return torch.export.load(folder / PROGRAM).module()
