"""The axes of a tensor, rearranged by a pattern like `o i 1 1 -> o i`: permuted, and axes of size 1 put in or out."""

from __future__ import annotations

import re

from torch import Tensor

from zoo.weights.key_patterns import PatternError

SIDE = re.compile(r"\s*((?:1|[a-z][a-z0-9_]*)(?:\s+(?:1|[a-z][a-z0-9_]*))*)?\s*")


class Axes:
    """y = rearrange(x): the same values, so `back` undoes `there` bit for bit."""

    def __init__(self, text: str):
        sides = text.split("->")
        if len(sides) != 2 or not all(SIDE.fullmatch(side) for side in sides):
            raise PatternError(f"shape `{text}` is not like `o i 1 1 -> o i`: names and 1s on both sides")
        self.text = text
        self._source, self._zoo = (side.split() for side in sides)
        source, zoo = ([axis for axis in side if axis != "1"] for side in (self._source, self._zoo))
        if sorted(source) != sorted(zoo) or len(set(source)) < len(source):
            raise PatternError(f"shape `{text}` must name each axis once on both sides")

    def there(self, tensor: Tensor) -> Tensor:
        """Source -> zoo. Raises PatternError if the tensor has another number of axes, or a 1 meets another size."""
        return _rearrange(tensor, self._source, self._zoo, self.text)

    def back(self, tensor: Tensor) -> Tensor:
        return _rearrange(tensor, self._zoo, self._source, self.text)


def _rearrange(tensor: Tensor, old: list[str], new: list[str], text: str) -> Tensor:
    if tensor.ndim != len(old) or any(axis == "1" and size != 1 for axis, size in zip(old, tensor.shape, strict=True)):
        raise PatternError(f"the shape {tuple(tensor.shape)} does not read `{' '.join(old)}` (rule `{text}`)")
    named = [axis for axis in old if axis != "1"]
    bare = tensor.reshape([size for axis, size in zip(old, tensor.shape, strict=True) if axis != "1"])
    moved = bare.permute([named.index(axis) for axis in new if axis != "1"])
    sizes = iter(moved.shape)
    return moved.reshape([1 if axis == "1" else next(sizes) for axis in new])
