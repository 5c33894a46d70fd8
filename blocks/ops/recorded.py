"""What is recorded, and for whom: a graph of the lengths of one call, or for any length.

Under torch.jit a size is a tensor, so that it can be free; `fixed` gives it as a number all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_free: ContextVar[bool] = ContextVar("blocks.ops.recorded.free_lengths", default=False)


@contextmanager
def free_lengths(free: bool) -> Iterator[None]:
    """Whether lengths that are recorded inside hold for other inputs too."""
    token = _free.set(free)
    try:
        yield
    finally:
        _free.reset(token)


def lengths_are_free() -> bool:
    """Whether what is recorded now has to hold for other lengths."""
    return _free.get()


def fixed(x: Tensor) -> tuple[int, ...]:
    """The shape in plain numbers, also while torch.jit records, whose sizes are tensors. Not for sizes that are free."""
    if not torch.jit.is_tracing():
        return tuple(x.shape)
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return tuple(x.shape)
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
