"""What a key rule does to tensors: a closed set of operations, each with its inverse.

`to_zoo(tensors, shapes)` turns the source tensors of a rule into its zoo tensors (`shapes`: those the model expects);
`to_source(tensors)` goes back, bit for bit. Both raise PatternError with a sentence when the tensors do not suit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.weights.axes import Axes
from zoo.weights.key_patterns import PatternError

Shapes = Sequence[Sequence[int]]


class Operation(Protocol):
    def to_zoo(self, tensors: list[Tensor], shapes: Shapes) -> list[Tensor]: ...

    def to_source(self, tensors: list[Tensor]) -> list[Tensor]: ...


class Rename(NamedTuple):
    """One tensor under another name, its axes rearranged if `axes` is given."""

    axes: Axes | None = None

    def to_zoo(self, tensors: list[Tensor], shapes: Shapes) -> list[Tensor]:
        return [self.axes.there(tensor) if self.axes else tensor for tensor in tensors]

    def to_source(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self.axes.back(tensor) if self.axes else tensor for tensor in tensors]


class Split(NamedTuple):
    """One source tensor cut along `dim` into several; the sizes are those of the targets. Inverse: concatenate."""

    dim: int

    def to_zoo(self, tensors: list[Tensor], shapes: Shapes) -> list[Tensor]:
        (whole,) = tensors
        return _cut(whole, self.dim, [shape[self.dim] if self.dim < len(shape) else 0 for shape in shapes])

    def to_source(self, tensors: list[Tensor]) -> list[Tensor]:
        return [_joined(tensors, self.dim)]


@dataclass(frozen=True)
class Cat:
    """Several source tensors put together along `dim`. Inverse: cut into `sizes`, or into equal parts."""

    dim: int
    count: int
    sizes: tuple[int, ...] = ()

    def to_zoo(self, tensors: list[Tensor], shapes: Shapes) -> list[Tensor]:
        whole = _joined(tensors, self.dim)
        sizes = [tensor.shape[self.dim] for tensor in tensors]
        if sizes != self._parts(whole):
            expected = list(self.sizes) if self.sizes else "equal sizes"
            raise PatternError(f"axis {self.dim} has sizes {sizes}, expected {expected}; state them as `sizes`")
        return [whole]

    def to_source(self, tensors: list[Tensor]) -> list[Tensor]:
        (whole,) = tensors
        return _cut(whole, self.dim, self._parts(whole))

    def _parts(self, whole: Tensor) -> list[int]:
        if self.sizes:
            return list(self.sizes)
        return [(whole.shape[self.dim] if self.dim < whole.ndim else 0) // self.count] * self.count


class Stack(NamedTuple):
    """Many source tensors of one shape stacked along a new axis `dim`. Inverse: take them apart."""

    dim: int

    def to_zoo(self, tensors: list[Tensor], shapes: Shapes) -> list[Tensor]:
        return [_stacked(tensors, self.dim)]

    def to_source(self, tensors: list[Tensor]) -> list[Tensor]:
        return _unstacked(tensors, self.dim)


class Unstack(NamedTuple):
    """One source tensor taken apart along its axis `dim`. Inverse: stack."""

    dim: int

    def to_zoo(self, tensors: list[Tensor], shapes: Shapes) -> list[Tensor]:
        return _unstacked(tensors, self.dim)

    def to_source(self, tensors: list[Tensor]) -> list[Tensor]:
        return [_stacked(tensors, self.dim)]


def bit_equal(a: Tensor, b: Tensor) -> bool:
    """Same shape, dtype and bits; NaN equals itself, 0.0 does not equal -0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    rests = {(t.dtype, t.ndim, *t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}
    if len(rests) > 1 or any(dim >= t.ndim for t in tensors):
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors)
        raise PatternError(f"{shapes} cannot be put together along axis {dim}")
    return torch.cat(tensors, dim)


def _cut(whole: Tensor, dim: int, sizes: list[int]) -> list[Tensor]:
    if dim >= whole.ndim or sum(sizes) != whole.shape[dim]:
        raise PatternError(f"the shape {tuple(whole.shape)} cannot be cut along axis {dim} into sizes {sizes}")
    return list(whole.split(sizes, dim))


def _stacked(tensors: list[Tensor], dim: int) -> Tensor:
    if len({(t.dtype, t.shape) for t in tensors}) > 1 or dim > tensors[0].ndim:
        shapes = sorted({f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors})
        raise PatternError(f"tensors of {' and '.join(shapes)} cannot be stacked along axis {dim}")
    return torch.stack(tensors, dim)


def _unstacked(tensors: list[Tensor], dim: int) -> list[Tensor]:
    (whole,) = tensors
    if dim >= whole.ndim or not whole.shape[dim]:
        raise PatternError(f"the shape {tuple(whole.shape)} cannot be taken apart along axis {dim}")
    return list(whole.unbind(dim))
