"""What a caller says of its tokens beside their values: the modality of each, the task of each example."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.context import Context
from blocks.moe.routing import shape_of


def given_key(ctx: Context | None, key: str, x: Tensor, count: int) -> Tensor:
    """(T,) numbers below `count` for the tokens of `x`, read from the slot `key` of ctx as (B,) or (B, L); zeros without it.

    Raises ValueError when the shape fits neither the batch nor its tokens.
    """
    tokens = shape_of(x)
    written = list(ctx.read(key).values()) if ctx is not None else []
    if not written:
        return torch.zeros(tokens, dtype=torch.int64, device=x.device).flatten()
    numbers = written[-1].to(x.device)
    if numbers.shape not in (tokens[:1], tokens):
        raise ValueError(
            f"`{key}` in ctx has shape {tuple(numbers.shape)}; it should number the examples, ({tokens[0]},), "
            f"or the tokens, {tokens}, from 0 to {count - 1}"
        )
    return (numbers.unsqueeze(-1).expand(tokens) if numbers.ndim == 1 else numbers).flatten()
