"""Random tensors of the form that a signature asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.runtimes.net import first_state
from zoo.runtimes.signature import Input, Signature


def drawn(signature: Signature, seed: int, **sizes: int) -> tuple[Tensor, ...]:
    """Random tensors for every input and leaf of the state: normal numbers as normalised pictures have them, numbers within their span,
    numbers of tokens, masks that hide nothing; a state that has not begun.

    `sizes` are those of axes by their names, where they are to be others than the example's: `batch=8`."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [_drawn(one, one.sized(**sizes), generator) for one in signature.inputs]
    return (*inputs, *first_state(signature.state, sizes.get("batch", signature.samples)))


def _drawn(one: Input, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, one.dtype)
    if dtype is torch.bool:
        return torch.ones(shape, dtype=dtype)
    if not dtype.is_floating_point:
        low, high = int(one.low), int(one.high)
        return torch.randint(low, high if high > low else low + 256, shape, generator=generator, dtype=dtype)
    x = torch.rand(shape, generator=generator) * one.span if one.span else torch.randn(shape, generator=generator)
    return x.to(dtype)
