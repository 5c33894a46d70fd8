"""Mixers that go through a sequence step by step and can stop anywhere: what ctx asks of them, reduced to one method.

Padding, on whichever side, is moved behind the tokens of each sample; packed sequences are mixed one by one; states are
read from and left in `ctx.state`. A mixer is left with `mix`, which continues a sequence whose samples may end early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.ops.causal_conv1d import causal_conv1d, conv_state
from blocks.ops.masks import token_mask
from blocks.ops.sequences import checked_borders, lengths_of

State = tuple[Tensor, ...]
"""What a mixer keeps of the past, each tensor (B, …)."""


class Recurrent(nn.Module):
    """Base of causal mixers with a state.

    (B, L, C) -> (B, L, C). `ctx.mask` may lie anywhere and keeps padding out of outputs and state; `ctx.state` continues
    sequences; `ctx.cu_seqlens` are the borders of sequences packed into one sample, each with a state of its own. Raises
    ValueError for packed sequences with a mask or in more than one sample.
    """

    path = ""

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        """(outputs, the state after the last token). `mask` (B, L): the tokens of each sample, padding behind them."""
        raise NotImplementedError  # each mixer has its own; this class is their common part

    def state_size(self, length: int = 0) -> int:
        """Numbers that `ctx.state` holds per sequence after `length` tokens."""
        raise NotImplementedError  # each mixer has its own; this class is their common part

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return stepwise(self.mix, self.mix_packed, self.path, x, ctx)

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        """`mix` for sequences packed into one sample (1, L, C), of which `state` has one each."""
        return one_by_one(self.mix, x, state, borders, ctx)


def stepwise(
    mix: Callable[..., Any], mix_packed: Callable[..., Any], path: str, x: Tensor, ctx: Context | None
) -> Tensor:
    """The outputs of `mix` for what ctx asks: padding anywhere, packed sequences, the state at `path`, read and left.

    `mix` and `mix_packed` are those of `Recurrent`; to both `ctx.mask` is of the tokens as they meet them.
    """
    if ctx is None:
        return mix(x, None, None, None)[0]
    state = ctx.state.get(path) if ctx.state is not None else None
    mask = token_mask(x, ctx, packed=True)
    if ctx.cu_seqlens is not None:
        if mask is not None or x.shape[0] != 1:
            raise ValueError(
                f"packed sequences (ctx.cu_seqlens) are one sample without ctx.mask; found {x.shape[0]} samples"
            )
        borders = checked_borders(ctx.cu_seqlens, x, 1, x.shape[1], "x")
        y, state = mix_packed(x, state, borders, ctx)
    elif mask is None:
        y, state = mix(x, state, None, ctx)
    else:
        order = tokens_first(mask)
        mask = mask.gather(1, order)
        y, state = mix(zero_padding(_at(x, order), mask), state, mask, replace(ctx, mask=mask))
        y = _at(y, order.argsort(1))
    if ctx.state is not None:
        ctx.state[path] = state
    return y


def tokens_first(mask: Tensor) -> Tensor:
    """(B, L): where the tokens of each sample stand, in their order, and behind them where its padding does."""
    return mask.logical_not().to(torch.uint8).argsort(dim=1, stable=True)


def one_by_one(
    mix: Callable[..., Any], x: Tensor, state: State | None, borders: Tensor, ctx: Context
) -> tuple[Tensor, State]:
    """Each packed sequence by itself, with its own part of what other blocks have left in `ctx.slots` for each token."""
    lengths = lengths_of(x, borders)
    states = [None if state is None else tuple(part[i : i + 1] for part in state) for i in range(len(lengths))]
    inner = [Context() for _ in lengths]
    for slot, values in ctx.slots.items():
        for path, value in values.items():
            parts = value.split(lengths, 1) if value.shape[:2] == x.shape[:2] else [value] * len(lengths)
            for context, part in zip(inner, parts, strict=True):
                context.write(slot, path, part)
    mixed = zip(x.split(lengths, 1), states, inner, strict=True)
    outputs, after = zip(*(mix(part, before, None, context) for part, before, context in mixed), strict=True)
    for slot, values in inner[0].slots.items():
        for path, first in values.items():
            if first.shape[:2] == (1, lengths[0]):
                ctx.write(slot, path, torch.cat([context.slots[slot][path] for context in inner], 1))
    return torch.cat(outputs, 1), tuple(map(torch.cat, zip(*after, strict=True)))


def samples(
    mix: Callable[..., Any], x: Tensor, state: State | None, borders: Tensor, ctx: Context
) -> tuple[Tensor, State]:
    """Packed sequences as samples of different lengths, so that what is kept of them is one tensor."""
    parts = x[0].split(lengths_of(x, borders))
    rows = nn.utils.rnn.pad_sequence(parts, True)
    mask = nn.utils.rnn.pad_sequence([part.new_ones(len(part), dtype=torch.bool) for part in parts], True)
    y, state = mix(rows, state, mask, ctx)
    return y[mask].unsqueeze(0), state


def _at(x: Tensor, order: Tensor) -> Tensor:
    """x (B, L, C) with its tokens in the given order (B, L)."""
    return x.gather(1, order.unsqueeze(-1).expand_as(x))


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, L, …) with zeros where `mask` (B, L) is False: keys that write nothing, logarithms of decays that are none."""
    return x if mask is None else x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0)


def shifted(x: Tensor, state: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(of each token of x (B, L, C) the one before it, `state` or zeros before the first; the last token (B, C))."""
    before = x.new_zeros(x.shape[0], x.shape[2]) if state is None else state.to(x.dtype)
    joined = torch.cat([before.unsqueeze(1), x], 1)
    return joined[:, :-1], _last(joined.transpose(1, 2), 1, mask).squeeze(-1)


def short_conv(
    x: Tensor,
    conv: nn.Conv1d,
    state: Tensor | None,
    mask: Tensor | None,
    act: Literal["silu"] | None = "silu",
) -> tuple[Tensor, Tensor]:
    """(act of the causal depthwise convolution of x (B, L, C); its last inputs (B, C, k - 1)), padding behind the tokens."""
    by_channel = x.transpose(1, 2)
    y = causal_conv1d(by_channel, conv.weight, conv.bias, state, act).transpose(1, 2)
    if mask is None:
        return y, conv_state(by_channel, conv.kernel_size[0], state)
    before = x.new_zeros(x.shape[0], x.shape[2], conv.kernel_size[0] - 1) if state is None else state.to(x.dtype)
    return y, _last(torch.cat([before, by_channel], -1), conv.kernel_size[0] - 1, mask)


def _last(x: Tensor, count: int, mask: Tensor | None) -> Tensor:
    """The last `count` tokens of x (B, C, count + L), of which `mask` (B, L) tells how many each sample has."""
    if mask is None:
        return x[..., x.shape[-1] - count :].clone()
    ends = mask.sum(1, keepdim=True) + torch.arange(count, device=x.device)
    return x.gather(2, ends.unsqueeze(1).expand(-1, x.shape[1], -1))


def depthwise(channels: int, kernel_size: int, bias: bool = False) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=bias)


def short_conv_macs(batch: int, length: int, *convs: nn.Conv1d) -> int:
    """Taps times outputs of depthwise convolutions, with the k - 1 positions beyond the end that torch computes, too."""
    return sum(batch * (length + conv.kernel_size[0] - 1) * conv.weight.numel() for conv in convs)


def gated_norm(y: Tensor, gate: Tensor | None, norm: nn.RMSNorm) -> Tensor:
    """norm(y) silu(gate), over the last axis, in the dtype of y or float32 at least."""
    wide = torch.promote_types(y.dtype, torch.float32)
    y = nn.functional.rms_norm(y.to(wide), norm.normalized_shape, norm.weight.to(wide), norm.eps)
    return y if gate is None else y * nn.functional.silu(gate.to(wide))
