"""FLOPs of ops that torch's counter cannot know, and the class of each: `scan` and `fft` are reported beside matmuls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from torch.utils.flop_counter import register_flop_formula

Kind = Literal["scan", "fft"]
Formula = TypeVar("Formula", bound=Callable[..., int])

_kinds: dict[str, Kind] = {}


def flop_formula(op: Any, kind: Kind) -> Callable[[Formula], Formula]:
    """Decorator: the function gives FLOPs of `torch.ops.<...>` from the shapes of its arguments, counted as `kind`."""

    def register(formula: Formula) -> Formula:
        _kinds[str(op)] = kind
        register_flop_formula(op)(formula)
        return formula

    return register


def kind_of(op: Any) -> Kind | None:
    """The class of an op that a FlopCounterMode has seen; None for those that torch counts by itself."""
    return _kinds.get(str(op))
