"""What goes into an exported net and what comes out: named tensors, and which of their axes are free."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.build.inputs import drawn_inputs
from zoo.errors import InputError, Problem, listed
from zoo.specs.inputs import (
    AnyInput,
    FramesInput,
    Ids,
    Named,
    Numbers,
    NumbersInput,
    Places,
    SeriesInput,
    SpectrogramInput,
    TokenInput,
    VideoInput,
)

FREE = ("batch", "size")
"""What may be left open in a graph: how many samples there are, and how large they are: rows and columns, the length, the number of points."""
SIZES = ("height", "width", "length", "points")
"""The axes that are free with `size`."""
IMAGE = ("batch", "channels", "height", "width")


class Port(NamedTuple):
    """One tensor that goes in: its name, an example, and {axis: its name} of the axes that are free.

    `span`: between which numbers others like the example lie, the upper left out; normal ones and the example's kinds without it."""

    name: str
    example: Tensor
    free: dict[int, str]
    span: tuple[float, float] | None = None


class Ports(NamedTuple):
    """All that goes into a net, in order, and the names of all that comes out, flat."""

    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]

    @property
    def examples(self) -> tuple[Tensor, ...]:
        """What the net is traced with."""
        return tuple(port.example for port in self.inputs)

    @property
    def is_free(self) -> bool:
        """Whether any axis is free."""
        return any(port.free for port in self.inputs)

    @property
    def lengths_are_free(self) -> bool:
        """Whether an axis is free that is not the batch: of pictures their sides, of sequences their lengths."""
        return any(set(port.free.values()) - {"batch"} for port in self.inputs)

    def others(self) -> Iterator[tuple[Tensor, ...]]:
        """Inputs of other sizes along the free axes: one more sample, and maps that are no squares, of even and of odd sides."""
        if self.is_free:
            yield tuple(_other(port, (1, 32, 64)) for port in self.inputs)
        if self.lengths_are_free:
            yield tuple(_other(port, (0, -11, 5)) for port in self.inputs)

    def like(self, inputs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
        """Other inputs of the same sizes."""
        return tuple(_drawn(port, x.shape, seed) for port, x in zip(self.inputs, inputs, strict=True))


def ports_of(net: nn.Module, signature: Ports | Tensor | Sequence[Tensor], dynamic: Collection[str] = ()) -> Ports:
    """Ports as they are, or those of an example: of one tensor for each input that the model declares, else of a batch of images (B, C, H, W).

    `dynamic` names what is free: `batch`, `size`, or both. Outputs are called as the net calls them, or `logits`, or `map_0`, `map_1`, …
    where there are several without a name. Raises InputError for another word in `dynamic`, and for another number of tensors."""
    if isinstance(signature, Ports):
        return signature
    unknown = [word for word in dynamic if word not in FREE]
    if unknown:
        raise InputError("export", Problem("dynamic", "`batch`, `size`, both or neither", listed(unknown)))
    examples = (signature,) if isinstance(signature, Tensor) else tuple(signature)
    spec = getattr(net, "spec", None)
    first, beside = (None, ()) if spec is None else (spec.input, spec.inputs)
    if len(examples) != 1 + len(beside):
        wanted = " and ".join(f"`{name}`" for name in (name_of(first), *(each.name for each in beside)))
        raise InputError("export", Problem("example", f"a tensor for {wanted} each", str(len(examples))))
    axes = axes_of(first)
    words = (*dynamic, *(SIZES if "size" in dynamic else ()))
    free = {axis: name for axis, name in enumerate(axes) if name in words}
    ports = [Port(name_of(first), examples[0], free)]
    for declared, example in zip(beside, examples[1:], strict=True):
        shared = {axis: name for axis, name in free.items() if name != "batch" and axis < example.ndim}
        along = {axis: name for axis, name in shared.items() if example.shape[axis] == examples[0].shape[axis]}
        batch = {axis: "batch" for axis, size in enumerate(declared.shape) if size == "batch" and "batch" in dynamic}
        ports.append(Port(declared.name, example, along | batch, _span(declared)))
    with torch.no_grad():
        outputs = net(*examples)
    return Ports(tuple(ports), names_of(outputs))


def name_of(first: AnyInput | None) -> str:
    """What the first input is called in a graph: by its kind."""
    return "image" if first is None else first.kind


def axes_of(first: AnyInput | None) -> tuple[str, ...]:
    """What the axes of the first input are."""
    if isinstance(first, TokenInput):
        return ("batch", "length")
    if isinstance(first, SpectrogramInput):
        return ("batch", "features", "length")
    if isinstance(first, SeriesInput):
        return ("batch", "length", "features")
    if isinstance(first, NumbersInput):
        if "batch" not in first.shape:
            return ("points", *(["features"] * (len(first.shape) - 1)))
        inner = ["length" if len(first.shape) > 2 and axis == 1 else "features" for axis in range(len(first.shape))]
        return tuple("batch" if size == "batch" else name for size, name in zip(first.shape, inner, strict=True))
    if isinstance(first, FramesInput):
        return ("batch", "frames", *IMAGE[1:])
    if isinstance(first, VideoInput):
        return (*IMAGE[:2], "frames", *IMAGE[2:])
    return IMAGE


def _span(declared: Named) -> tuple[float, float] | None:
    """Between which numbers an input beside the first lies, as `drawn_inputs` draws it."""
    if isinstance(declared, Ids):
        return (0, declared.count)
    if isinstance(declared, Numbers):
        return (0, declared.span if isinstance(declared, Places) else 1)
    return None


def example_of(net: Any) -> tuple[Tensor, ...]:
    """One sample of each input that a model declares, the same each time."""
    return tuple(x.contiguous() for x in drawn_inputs(net.spec))


def names_of(outputs: Any) -> tuple[str, ...]:
    """The names of what a net returns, in the order of `flat`."""
    if isinstance(outputs, Mapping):
        counts = {name: len(flat(part)) for name, part in outputs.items()}
        parts = ([name] if count == 1 else [f"{name}_{i}" for i in range(count)] for name, count in counts.items())
        return tuple(name for part in parts for name in part)
    count = len(flat(outputs))
    return ("logits",) if count == 1 else tuple(f"map_{i}" for i in range(count))


def flat(outputs: Any) -> tuple[Tensor, ...]:
    """What a net returns, one tensor or several, by name or not, as a tuple of tensors."""
    if isinstance(outputs, Tensor):
        return (outputs,)
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    return tuple(tensor for part in parts for tensor in flat(part))


class Flat(nn.Module):
    """A net whose outputs are a flat tuple of tensors, as graphs have them.

    It is what exporters record, of every net: the modules that torch makes of a program have a `graph` of their own, which the net may
    have as a part."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return flat(self.net(*inputs))


def image_like(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Normal numbers of a shape, the same each time."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def _other(port: Port, more: tuple[int, int, int]) -> Tensor:
    """An example with so many more samples, rows and columns, along the free axes."""
    shape = list(port.example.shape)
    for axis, name in port.free.items():
        shape[axis] = max(1, shape[axis] + (more[0] if name == "batch" or axis == 0 else more[1 + axis % 2]))
    return _drawn(port, shape, 1)


def _drawn(port: Port, shape: Sequence[int], seed: int) -> Tensor:
    """An input of a shape like the example. A mask hides the last third of each of its rows."""
    example, generator = port.example, torch.Generator().manual_seed(seed)
    if example.dtype == torch.bool:
        real = torch.arange(shape[-1]) < shape[-1] - shape[-1] // 3
        return real.expand(tuple(shape)).contiguous()
    if example.is_floating_point():
        if port.span is None:
            return image_like(shape, seed).to(example.dtype)
        return torch.empty(tuple(shape), dtype=example.dtype).uniform_(*port.span, generator=generator)
    most = int(port.span[1]) if port.span else int(example.max()) + 1 if example.numel() else 1
    return torch.randint(0, max(most, 1), tuple(shape), generator=generator).to(example.dtype)
