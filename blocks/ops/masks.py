"""What sequence mixers read of ctx beside their state, and what those that lack a feature refuse rather than ignore."""

from __future__ import annotations

from torch import Tensor

from blocks.context import Context


def token_mask(x: Tensor, ctx: Context | None, packed: bool = False) -> Tensor | None:
    """`ctx.mask` (B, L) for tokens `x` (B, L, C), True at real tokens; None when all are real.

    Raises ValueError when the mask has another shape than the tokens, and for packed sequences unless the caller knows
    `packed` ones.
    """
    if ctx is None:
        return None
    if ctx.cu_seqlens is not None and not packed:
        raise ValueError("packed sequences (ctx.cu_seqlens) are not supported here; pad them and give ctx.mask")
    if ctx.mask is not None and ctx.mask.shape != x.shape[:2]:
        raise ValueError(
            f"ctx.mask has shape {tuple(ctx.mask.shape)}; the tokens here are (B, L) = {tuple(x.shape[:2])}"
        )
    return ctx.mask


def refuse_state(ctx: Context | None, reason: str) -> None:
    """Raises ValueError with the reason when ctx carries a state to be continued."""
    if ctx is not None and ctx.state is not None:
        raise ValueError(f"a sequence cannot be continued here (ctx.state): {reason}")


def mean_over(values: Tensor, real: Tensor | None) -> Tensor:
    """(T, …) -> (…): the mean over the tokens that are `real` (T,), all without it; 0 where there are none."""
    if real is None:
        return values.mean(0) if values.shape[0] else values.sum(0)
    padding = ~real.view(-1, *[1] * (values.ndim - 1))
    return values.masked_fill(padding, 0).sum(0) / real.sum().clamp_min(1)
