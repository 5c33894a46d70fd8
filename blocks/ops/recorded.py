"""What is recorded, and for whom: a graph of the lengths of one call, or for any length.

Under torch.jit a size is a tensor, so that it can be free; `fixed` gives it as a number all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

FREE = False
"""Whether lengths are free now. One for all threads, since compilers read it as a constant: where another thread runs a net meanwhile, that
computes the same in the form for any length."""


@contextmanager
def free_lengths(free: bool) -> Iterator[None]:
    """Whether lengths that are recorded inside hold for other inputs too."""
    global FREE
    before, FREE = FREE, free
    try:
        yield
    finally:
        FREE = before


def lengths_are_free() -> bool:
    """Whether what is recorded now has to hold for other lengths."""
    return FREE


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
