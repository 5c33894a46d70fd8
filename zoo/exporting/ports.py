"""What goes into an exported net and what comes out: named tensors, and which of their axes are free."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import InputError, Problem, listed

FREE = ("batch", "size")
"""What may be left open in the graph of an image model: how many pictures there are, and of how many rows and columns."""
AXES = ("batch", "channels", "height", "width")


class Port(NamedTuple):
    """One tensor that goes in: its name, an example, and {axis: its name} of the axes that are free."""

    name: str
    example: Tensor
    free: dict[int, str]


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
        return any(set(port.free) - {0} for port in self.inputs)

    def others(self) -> Iterator[tuple[Tensor, ...]]:
        """Inputs of other sizes along the free axes: one more sample, and maps that are no squares, of even and of odd sides."""
        if self.is_free:
            yield tuple(_other(port, (1, 32, 64)) for port in self.inputs)
        if self.lengths_are_free:
            yield tuple(_other(port, (0, -11, 5)) for port in self.inputs)


def image_ports(net: nn.Module, example: Tensor, dynamic: Collection[str] = ()) -> Ports:
    """The ports of a net that reads images, of which `example` (B, C, H, W) is one batch.

    `dynamic` names what is free: `batch`, `size`, or both. Outputs are called as the net calls them, or `logits`, or `map_0`, `map_1`, …
    where it gives feature maps. Raises InputError for another word in `dynamic`."""
    unknown = [word for word in dynamic if word not in FREE]
    if unknown:
        raise InputError("export", Problem("dynamic", "`batch`, `size`, both or neither", listed(unknown)))
    free = {0: AXES[0]} if "batch" in dynamic else {}
    free |= {2: AXES[2], 3: AXES[3]} if "size" in dynamic else {}
    with torch.no_grad():
        outputs = net(example)
    count = len(flat(outputs))
    names = ("logits",) if count == 1 else tuple(f"map_{i}" for i in range(count))
    names = tuple(outputs) if isinstance(outputs, dict) else names
    return Ports((Port("image", example, free),), names)


def ports_of(net: nn.Module, signature: Ports | Tensor, dynamic: Collection[str] = ()) -> Ports:
    """Ports as they are, or those of an example image."""
    return signature if isinstance(signature, Ports) else image_ports(net, signature, dynamic)


def flat(outputs: Any) -> tuple[Tensor, ...]:
    """What a net returns, one tensor or several, by name or not, as a tuple of tensors."""
    if isinstance(outputs, Tensor):
        return (outputs,)
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return tuple(tensor for part in parts for tensor in flat(part))


class Flat(nn.Module):
    """A net whose outputs are a flat tuple of tensors, as graphs have them."""

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
    shape, seed = list(port.example.shape), 1
    for axis in port.free:
        shape[axis] = max(1, shape[axis] + (more[0] if axis == 0 else more[1 + axis % 2]))
    if port.example.is_floating_point():
        return image_like(shape, seed).to(port.example.dtype)
    most = int(port.example.max()) + 1 if port.example.numel() else 1
    drawn = torch.randint(0, max(most, 1), shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(port.example.dtype)
