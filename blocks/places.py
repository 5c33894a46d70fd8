"""What ctx says of positions, padding and the borders of packed sequences, and which blocks may be left alone with it.

Every block obeys both or refuses them with a sentence; none ignores them in silence. Pointwise blocks obey without knowing. Blocks
whose `forward` names ctx answer for themselves, with `token_mask` or `refuse_places`. The others are refused where they are run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeGuard

from torch import nn

from blocks.context import Context
from blocks.registry.words import short_name


def has_places(ctx: Context | None) -> TypeGuard[Context]:
    """Whether ctx says which tokens are padding, or where packed sequences begin."""
    return ctx is not None and (ctx.mask is not None or ctx.cu_seqlens is not None)


def without_places(ctx: Context | None) -> Context | None:
    """ctx for what no longer stands at the positions of a sequence: rows sorted by expert, slots, pooled vectors."""
    return replace(ctx, mask=None, cu_seqlens=None) if has_places(ctx) else ctx


def is_pointwise(kind: Any) -> bool:
    """Whether the blocks of a class look at no other position than that of their output.

    Those that declare both `causal` and `noncausal` do so, since the conformance checks of both hold for nothing else;
    activations and linear maps do so by their kind.
    """
    declared = {"causal", "noncausal"} <= set(kind.abilities)
    return declared or kind.kind in ("act", "linear")


def check_places(module: nn.Module, ctx: Context) -> None:
    """Raises ValueError when a block would ignore what ctx says of positions.

    Masks and borders speak of tokens: blocks of images, whose neighbours stand in rows and columns, cannot obey them.
    """
    kind: Any = type(module)
    if not hasattr(kind, "block_id") or getattr(kind, "row_by_row", False):
        return
    if getattr(kind, "pointwise_in_eval", False) and not module.training:
        return
    answers = kind.takes_ctx and kind.layout not in ("BCHW", "BCTHW")
    counts = (
        kind.kind == "embed" and not kind.takes_ctx and ctx.cu_seqlens is not None
    )  # its positions would go on into the next sequence
    if counts or not (answers or is_pointwise(kind)):
        refuse_places(module, ctx)


def refuse_places(module: nn.Module, ctx: Context | None) -> None:
    """Refuses what ctx says of positions, for a block that mixes them and is given ctx for the sake of its parts. Raises ValueError."""
    if not has_places(ctx):
        return
    name = short_name(type(module).block_id)  # type: ignore[attr-defined]
    if ctx.mask is not None:
        raise ValueError(
            f"block `{name}` cannot keep padding (ctx.mask) out; give it sequences of one length, without a mask"
        )
    raise ValueError(
        f"block `{name}` cannot keep packed sequences (ctx.cu_seqlens) apart; pad them, or give it one by one"
    )
