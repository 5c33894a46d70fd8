"""Mixers that go through a sequence step by step and can stop anywhere: what ctx asks of them, reduced to one method.

Padding, on whichever side, is moved behind the tokens of each sample; packed sequences are mixed one by one; states are
read from and left in `ctx.state`. A mixer is left with `mix`, which continues a sequence whose samples may end early.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.masks import token_mask
from blocks.ops.selective_scan.steps import lengths_of

State = tuple[Tensor, ...]
"""What a mixer keeps of the past, each tensor (B, …)."""


class Recurrent(nn.Module):
    """Base of causal mixers with a state.

    (B, L, C) -> (B, L, C). `ctx.mask` may lie anywhere and keeps padding out of outputs and state; `ctx.state` continues
    sequences; `ctx.cu_seqlens` are the borders of sequences packed into one sample. Raises ValueError for packed sequences
    with a state or a mask.
    """

    path = ""

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        """(outputs, the state after the last token). `mask` (B, L): the tokens of each sample, padding behind them."""
        raise NotImplementedError

    def state_size(self, length: int = 0) -> int:
        """Numbers that `ctx.state` holds per sequence after `length` tokens."""
        raise NotImplementedError

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is None:
            return self.mix(x, None, None, None)[0]
        if ctx.cu_seqlens is not None:
            return self._mix_packed(x, ctx, ctx.cu_seqlens)
        state = ctx.state.get(self.path) if ctx.state is not None else None
        mask = token_mask(x, ctx)
        if mask is None:
            y, state = self.mix(x, state, None, ctx)
        else:
            order = mask.logical_not().to(torch.uint8).argsort(1, stable=True)  # tokens first, in their order
            y, state = self.mix(_at(x, order), state, mask.gather(1, order), ctx)
            y = _at(y, order.argsort(1))
        if ctx.state is not None:
            ctx.state[self.path] = state
        return y

    def _mix_packed(self, x: Tensor, ctx: Context, borders: Tensor) -> Tensor:
        """Each sequence by itself, with its own part of what other blocks have left in `ctx.slots`."""
        if ctx.state is not None or ctx.mask is not None:
            raise ValueError("packed sequences (ctx.cu_seqlens) have neither ctx.state nor ctx.mask: unpack them to continue")
        if len(x) != 1:
            raise ValueError(f"packed sequences (ctx.cu_seqlens) are one sample; found {len(x)}")
        lengths = lengths_of(x, borders)
        written = {(slot, path): value for slot, values in ctx.slots.items() for path, value in values.items()}
        parts = {key: value.split(lengths, 1) for key, value in written.items()}
        outputs, inner = [], []
        for index, part in enumerate(x.split(lengths, 1)):
            inner.append(Context())
            for (slot, path), values in parts.items():
                inner[-1].write(slot, path, values[index])
            outputs.append(self.mix(part, None, None, inner[-1])[0])
        for slot, values in inner[0].slots.items():
            for path in values:
                ctx.write(slot, path, torch.cat([one.slots[slot][path] for one in inner], 1))
        return torch.cat(outputs, 1)


def _at(x: Tensor, order: Tensor) -> Tensor:
    """x (B, L, C) with its tokens in the given order (B, L)."""
    return x.gather(1, order.unsqueeze(-1).expand_as(x))


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, L, …) with zeros where `mask` (B, L) is False: keys that write nothing, logarithms of decays that are none."""
    return x if mask is None else x * mask.view(*mask.shape, *[1] * (x.ndim - 2))


def last_steps(x: Tensor, count: int, state: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(x (B, L, C) with `count` steps before it: those of `state` or zeros; the last `count` tokens of each sample)."""
    before = x.new_zeros(len(x), count, x.shape[-1]) if state is None else state.to(x.dtype)
    joined = torch.cat([before, x], 1)
    if mask is None:
        return joined, joined[:, joined.shape[1] - count :].clone()
    ends = mask.sum(1, keepdim=True) + torch.arange(count, device=x.device)
    return joined, joined.gather(1, ends.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def short_conv(x: Tensor, conv: nn.Conv1d, state: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(silu of the causal depthwise convolution of x (B, L, C), its last inputs (B, k - 1, C)), padding behind the tokens."""
    joined, after = last_steps(x, conv.kernel_size[0] - 1, state, mask)
    y = causal_conv1d(joined.transpose(1, 2), conv.weight, conv.bias)[..., joined.shape[1] - x.shape[1] :]
    return nn.functional.silu(y.transpose(1, 2)), after


def depthwise(channels: int, kernel_size: int, bias: bool = False) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=bias)


def gated_norm(y: Tensor, gate: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """weight y / sqrt(mean y^2 + eps) silu(gate), over the last axis, in the dtype of y or float32 at least."""
    wide = torch.promote_types(y.dtype, torch.float32)
    y = nn.functional.rms_norm(y.to(wide), weight.shape, weight.to(wide), eps)
    return y if gate is None else y * nn.functional.silu(gate.to(wide))
