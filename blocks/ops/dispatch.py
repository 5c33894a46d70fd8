"""Which implementation of an op runs: `eager` unless another is forced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from blocks.errors import BlockError, Problem, listed, nearest

DEFAULT = "eager"

Implementation = TypeVar("Implementation", bound=Callable[..., Any])

_known: dict[str, dict[str, Callable[..., Any]]] = {}
_forced: ContextVar[str | None] = ContextVar("blocks.ops.backend", default=None)


def implements(op: str, backend: str) -> Callable[[Implementation], Implementation]:
    """Decorator: the function is what `backend` runs for `op`. All functions of one op take and return the same."""

    def register(function: Implementation) -> Implementation:
        _known.setdefault(op, {})[backend] = function
        return function

    return register


def implementation(op: str) -> Callable[..., Any]:
    """What runs for `op` here and now. Raises BlockError when the forced backend does not have it.

    While torch.compile traces, that is the default: a compiled graph is no place for a choice that ends with a `with`.
    """
    name = DEFAULT if torch.compiler.is_dynamo_compiling() else _forced.get() or DEFAULT
    if name not in _known[op]:
        raise BlockError(f"op `{op}`", Problem("", listed(sorted(_known[op])), f"the forced backend `{name}`"))
    return _known[op][name]


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces one backend for every op called inside. Raises BlockError for a name that no op has."""
    names = sorted({backend for backends in _known.values() for backend in backends})
    if name not in names:
        raise BlockError("blocks.ops.backend", Problem("", listed(names), f"`{name}`", nearest(name, names)))
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)
