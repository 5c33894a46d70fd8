"""Feature levels: the maps that a model shows between stem and head, and what is known of them.

A net of several stages has a level behind each stage, or behind each part that its family names; a net of one stage, a plain transformer,
has one behind each layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.build.symbolic import called
from zoo.errors import InputError, Problem
from zoo.specs.scalars import is_count, plain

Indices = int | Sequence[int] | None
FORMATS = ("NCHW", "NLC")


class FeatureInfo:
    """Width, stride and module of each feature level, as timm tells them. `index` picks levels; without it, the chosen ones."""

    def __init__(self, rows: Sequence[dict[str, Any]], out_indices: Sequence[int]):
        self.rows, self.out_indices = list(rows), tuple(out_indices)

    def get(self, key: str, index: int | Sequence[int] | None = None) -> Any:
        """The value of `key` at one level, or a list of them."""
        if isinstance(index, int):
            return self.rows[index][key]
        return [self.rows[i][key] for i in (self.out_indices if index is None else index)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, index: int | Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """The rows, or some of their keys."""
        chosen = [index] if isinstance(index, int) else self.out_indices if index is None else index
        return [{key: self.rows[i][key] for key in keys or self.rows[i]} for i in chosen]

    def channels(self, index: int | Sequence[int] | None = None) -> Any:
        return self.get("num_chs", index)

    def reduction(self, index: int | Sequence[int] | None = None) -> Any:
        return self.get("reduction", index)

    def module_name(self, index: int | Sequence[int] | None = None) -> Any:
        return self.get("module", index)

    @property
    def multiple(self) -> int:
        """The least number of which rows and columns of a picture must be multiples so that no chosen level is rounded."""
        return math.lcm(*self.reduction())

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)


def chosen_levels(indices: Indices, count: int) -> list[int]:
    """Levels from 0: all for None, the last n for an int n, else those named, negative ones from the end.

    Raises InputError for a level that is not there.
    """
    if not count:
        raise InputError(
            "feature levels", Problem("", "a net with stages, each of which is a level", "one of a graph alone")
        )
    if indices is None:
        return list(range(count))
    found = plain(indices)
    if isinstance(found, (list, tuple)):
        wrong = not found or any(not is_count(index, -count) or index >= count for index in found)
        chosen = [] if wrong else [index % count for index in found]
    else:
        wrong = not is_count(found, 1) or found > count
        chosen = [] if wrong else list(range(count - found, count))
    if wrong:
        found = list(found) if isinstance(found, tuple) else found
        expected = f"the number of last levels, 1 to {count}, or levels from {-count} to {count - 1}"
        raise InputError("feature levels", Problem("indices", expected, f"{found}"))
    return chosen


def as_format(level: Tensor, output_fmt: str) -> Tensor:
    """A level as a map (B, C, H, W), or with its positions in a row, (B, H*W, C). Raises InputError for another format."""
    if output_fmt not in FORMATS:
        raise InputError("feature levels", Problem("output_fmt", "`NCHW` or `NLC`", f"`{output_fmt}`"))
    if output_fmt == "NLC" and level.ndim == 4:
        return level.flatten(2).transpose(1, 2)
    return level


def padded(x: Tensor, multiple: int, value: float = 0.0) -> Tensor:
    """(..., H, W) -> (..., H', W') with `value` below and to the right: the next multiples. x itself where nothing is missing."""
    below, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, below), value=value) if below or right else x


def square_of(tokens: Tensor) -> Tensor:
    """(B, N + H*W, C) -> (B, C, H, W), H*W the largest square: tokens that flow between stages, without the N that stand before the grid."""
    side = math.isqrt(tokens.shape[1])
    return tokens[:, tokens.shape[1] - side**2 :].unflatten(1, (side, side)).permute(0, 3, 1, 2)


def shown(view: nn.Module | None, x: Tensor, memo: Any) -> Tensor:
    """What a layer inside a view left, as a map: tokens beside the image's own (a class token) are left out."""
    if view is None:
        return x
    return called(view, "grid" if hasattr(view, "grid") else "exit", x, memo)  # type: ignore[no-any-return]
