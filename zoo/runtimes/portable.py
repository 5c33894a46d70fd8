"""From a net to the portable file of another runtime, of the widest shapes that its graph really takes.

An exporter follows one pass, and may write sizes of the example into the graph without a word. So every graph that is said to take other
sizes is run at others, and what it answers is held against the net; where it is something else, it is written again for fewer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from zoo.artifacts import compiled
from zoo.errors import InputError
from zoo.exporting.lowering import Layout
from zoo.exporting.onnx import write_onnx
from zoo.exporting.ports import Port, Ports
from zoo.runtimes.drawing import drawn
from zoo.runtimes.identity import key_of
from zoo.runtimes.net import ANOTHER, Flat
from zoo.runtimes.protocol import Runtime, Session
from zoo.runtimes.record import SIGNATURE
from zoo.runtimes.signature import Input, Signature, Sizes, signature_from
from zoo.runtimes.torch_files import examples_of
from zoo.system.strict_json import parse_json

ONNX = "model.onnx"
WRONG = 0.02
"""A share of the largest output: what is further off at another size is another computation, not rounding."""

MORE: tuple[dict[str, int], ...] = (
    {},
    {"batch": 1, "height": ANOTHER[0], "width": ANOTHER[1], "length": 5, "points": 5},
    {"height": -11, "width": 5, "length": -3, "points": -3},
)
"""The steps by which free sizes differ from the example where a graph is tried, by what they count."""

Open = Callable[[Signature], Session]


def widest(net: nn.Module, signature: Signature, write: Callable[[Signature], None], open: Open) -> Session:
    """The session of the widest signature whose graph computes what the net does at other sizes, too. Raises InputError."""
    flat, refusal = Flat(net, signature).eval(), None
    for candidate in _narrower(signature):
        try:
            write(candidate)
            session = open(candidate)
            if not candidate.is_dynamic or _agrees(flat, session, candidate):
                return session
            session.close()
        except InputError as error:
            refusal = refusal or error
    assert refusal is not None  # the last candidate takes the example alone, and is returned or refused
    raise refusal


def _narrower(signature: Signature) -> Iterator[Signature]:
    """As asked for; the batch alone free; nothing free. The state of a language model goes with the length."""
    yield signature
    free = {one.axis(index) for one in signature.inputs for index, size in enumerate(one.shape) if size is None}
    if "batch" in free and len(free) > 1:
        inputs = tuple(msgspec.structs.replace(one, shape=_batch_alone(one)) for one in signature.inputs)
        yield msgspec.structs.replace(signature, inputs=inputs, state=())
    if signature.is_dynamic:
        yield msgspec.structs.replace(signature.fixed(), state=())


def _batch_alone(one: Input) -> Sizes:
    """The shape of an input of which no size is free but the number of samples."""
    sizes = enumerate(zip(one.shape, one.example, strict=True))
    return tuple(None if free is None and one.axis(index) == "batch" else size for index, (free, size) in sizes)


def _agrees(flat: Flat, session: Session, signature: Signature) -> bool:
    """Whether graph and net say the same at the example and at sizes that are all others, even and odd ones."""
    try:
        with torch.no_grad():
            tried = (_tensors(signature, more) for more in MORE)
            return all(_close(session(*tensors), flat(*tensors)) for tensors in tried if tensors)
    except Exception:  # a graph that holds sizes of the example fails at others, each runtime in its own way
        return False


def _tensors(signature: Signature, more: dict[str, int]) -> tuple[Tensor, ...]:
    """Drawn inputs whose free sizes are those of the example and so many more; () for sizes that are not taken."""
    sizes = {
        one.axis(index): size + more[one.axis(index)]
        for one in signature.inputs
        for index, (free, size) in enumerate(zip(one.shape, one.example, strict=True))
        if free is None and one.axis(index) in more
    }
    fits = all(one.takes(one.sized(**sizes)) for one in signature.inputs)
    return drawn(signature, 0, **sizes) if fits else ()


def _close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> bool:
    return all(
        y.shape == z.shape and (y.double() - z.double()).abs().max() <= WRONG * z.double().abs().max() + 1e-6
        for y, z in zip(found, wanted, strict=True)
        if z.numel()
    )


def written_before(
    runtime: Runtime, net: nn.Module, signature: Signature, threads: int, folder: Path
) -> Signature | None:
    """Copies the graph of the same net, which is one for all precisions, from where it was compiled in float32, and returns what it takes;
    None where it was not."""
    place = compiled.folder() / key_of(net, runtime, signature, "float32", threads)
    if compiled.fault(place):  # as of the folder that is just being filled
        return None
    try:
        for path in place.glob("model.*"):
            shutil.copyfile(path, folder / path.name)
        return signature_from(parse_json((place / SIGNATURE).read_bytes()), str(place))
    except OSError:  # another process has just removed it
        return None


def write_graph(net: nn.Module, signature: Signature, path: Path, prefers: Layout) -> None:
    """The net as one ONNX file, laid out as its runtime prefers; what it computes, `widest` looks at. Raises InputError."""
    ports = tuple(
        Port(one.name, example, {axis: one.axis(axis) for axis, size in enumerate(one.shape) if size is None})
        for one, example in zip(signature.tensors, examples_of(signature), strict=True)
    )
    flat = Flat(net, signature).eval() if signature.state else net
    write_onnx(flat, Ports(ports, signature.output_names), path, force=True, check=False, prefers=prefers)
