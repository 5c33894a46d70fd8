"""The axes of a tensor, rearranged by a pattern like `o i 1 1 -> o i`: permuted, merged and cut apart, and axes of size 1 put in or out."""

from __future__ import annotations

import math
import re

from torch import Tensor

from zoo.weights.key_patterns import PatternError

NAME = r"(?:1|[a-z][a-z0-9_]*(?:=[1-9][0-9]{0,5})?)"
GROUP = re.compile(rf"\(\s*({NAME}(?:\s+{NAME})+)\s*\)|({NAME})")
AXIS = re.compile(r"\([^()]*\)|[^\s()]+|[()]")


class Axes:
    """y = rearrange(x): the same values, so `back` undoes `there` bit for bit.

    `(h w)` is one axis made of two, the first the slower. It comes apart where all but one of its sizes are stated, as in `(h=2 w)`, on
    either side of the arrow; else it is a square.
    """

    def __init__(self, text: str):
        sides = [AXIS.findall(side) for side in text.split("->")]
        if len(sides) != 2 or not all(GROUP.fullmatch(axis) for side in sides for axis in side):
            raise PatternError(
                f"shape `{text}` is not like `o i 1 1 -> o i`: names, 1s and groups `(h w)` on both sides"
            )
        self.text, self.sizes = text, dict[str, int]()
        self._source, self._zoo = (self._axes(side) for side in sides)
        source, zoo = (_named(side) for side in (self._source, self._zoo))
        if sorted(source) != sorted(zoo) or len(set(source)) < len(source):
            raise PatternError(f"shape `{text}` must name each axis once on both sides")

    def _axes(self, side: list[str]) -> list[list[str]]:
        """Each axis as the names that it is made of; sizes that are stated are kept."""
        axes = []
        for axis in side:
            words = [word.partition("=") for word in axis.strip("()").split()]
            axes.append([name for name, _, _ in words])
            self.sizes |= {name: int(size) for name, _, size in words if size}
        return axes

    def there(self, tensor: Tensor) -> Tensor:
        """Source -> zoo. Raises PatternError if the tensor does not have these axes."""
        return self._rearranged(tensor, self._source, self._zoo)

    def back(self, tensor: Tensor) -> Tensor:
        return self._rearranged(tensor, self._zoo, self._source)

    def _rearranged(self, tensor: Tensor, old: list[list[str]], new: list[list[str]]) -> Tensor:
        apart = [self._apart(axis, size) for axis, size in zip(old, tensor.shape, strict=False)]
        if len(old) != tensor.ndim or None in apart:
            raise PatternError(f"the shape {tuple(tensor.shape)} does not read `{_shown(old)}` (rule `{self.text}`)")
        sizes = {name: size for sizes in apart if sizes for name, size in sizes.items()}
        names = _named(old)
        moved = tensor.reshape([sizes[name] for name in names]).permute([names.index(name) for name in _named(new)])
        return moved.reshape([math.prod(sizes.get(name, 1) for name in axis) for axis in new])

    def _apart(self, axis: list[str], size: int) -> dict[str, int] | None:
        """The size of each name of an axis; None where they cannot make `size`."""
        known = {name: self.sizes[name] for name in axis if name in self.sizes}
        rest, left = [name for name in axis if name != "1" and name not in known], math.prod(known.values())
        if len(rest) == 2:
            known[rest.pop(0)] = max(1, math.isqrt(size // left))
            left = math.prod(known.values())
        known |= dict.fromkeys(rest[:1], size // left)
        return known if len(rest) < 2 and math.prod(known.values()) == size else None


def _named(axes: list[list[str]]) -> list[str]:
    return [name for axis in axes for name in axis if name != "1"]


def _shown(axes: list[list[str]]) -> str:
    return " ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in axes)
