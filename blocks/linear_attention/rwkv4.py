"""RWKV-4: an attention of weights that fade at a rate per channel, and its channel mixer. Paper: arXiv:2305.13048.

Names of the state are those of transformers' checkpoints (Apache-2.0).

The sums of exponentials are kept relative to m_t, the largest exponent so far; what m is does not change the quotients.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import channel_recurrence
from blocks.recurrent import Recurrent, State, shifted, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

FLOOR = -1e30
"""The largest exponent of a sequence that has not begun."""


@block(
    "rwkv4",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2305.13048",
    covers=("rwkv4_time_mix",),
)
class Rwkv4(Recurrent):
    """y_t = W_o (sigmoid(r_t) * (sum_{s<t} e^{k_s - w (t-1-s)} v_s + e^{u + k_t} v_t) / (the same sum with v = 1)), each channel by itself.

    r, k and v are maps of x mu + x' (1 - mu), x' the token before and mu a weight per channel of each; w = exp(time_decay),
    u = time_first. (B, L, C) -> (B, L, C). The state holds the last token (B, C), the two sums, one behind the other (B, 2 W), and the
    exponent to which they are relative (B, W), all zeros before the first token; W is the inner width, `width` or C without one.
    """

    no_decay = ("time_decay", "time_first", "time_mix_key", "time_mix_value", "time_mix_receptance")

    def __init__(self, dim: int, *, width: Annotated[int, Meta(ge=1)] | None = None, linear: Linear = slot("dense")):
        super().__init__()
        self.width = width or dim
        self.time_decay = nn.Parameter(torch.empty(self.width))
        self.time_first = nn.Parameter(torch.empty(self.width))
        self.time_mix_key = nn.Parameter(torch.empty(dim))
        self.time_mix_value = nn.Parameter(torch.empty(dim))
        self.time_mix_receptance = nn.Parameter(torch.empty(dim))
        self.key = linear(dim, self.width, bias=False)
        self.value = linear(dim, self.width, bias=False)
        self.receptance = linear(dim, self.width, bias=False)
        self.output = linear(self.width, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Rates from slow to fast over the channels, a first weight that favours the token itself, mixes evenly drawn."""
        places = torch.linspace(0, 1, self.width, device=self.time_decay.device)
        self.time_decay.copy_(-5 + 8 * places)
        nn.init.constant_(self.time_first, 0.3)
        for mix in (self.time_mix_key, self.time_mix_value, self.time_mix_receptance):
            nn.init.uniform_(mix)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """5 operations for each of the two sums."""
        B, L, _ = shape
        return {"scan": 10 * B * L * self.width}

    def state_size(self, length: int = 0) -> int:
        return self.time_mix_key.numel() + 3 * self.width

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        last, sums, top = state or (None, None, None)
        before, last = shifted(x, last, mask)
        r = run(self.receptance, torch.lerp(before, x, self.time_mix_receptance))
        wide = torch.promote_types(x.dtype, torch.float32)
        k = run(self.key, torch.lerp(before, x, self.time_mix_key)).to(wide)
        v = run(self.value, torch.lerp(before, x, self.time_mix_value)).to(wide)
        rate, first = torch.exp(self.time_decay.to(wide)), self.time_first.to(wide)
        sums = k.new_zeros(k.shape[0], 2 * self.width) if sums is None else sums.to(wide)
        top = k.new_zeros(k.shape[0], self.width) if top is None else top.to(wide)
        tops = largest_so_far(k, rate, top.masked_fill(unbegun(sums), FLOOR))
        earlier, m = tops[:, :-1], tops[:, 1:]
        written = zero_padding(torch.exp(k - m), mask)
        log_decay = zero_padding(earlier - m - rate, mask)
        after, kept = channel_recurrence(
            torch.cat([written * v, written], -1), torch.cat([log_decay, log_decay], -1), sums
        )
        values, weights = torch.cat([sums.unsqueeze(1), after[:, :-1]], 1).chunk(2, -1)
        high = torch.maximum(earlier, k + first).detach()
        past, own = torch.exp(earlier - high), torch.exp(k + first - high)
        y = (past * values + own * v) / (past * weights + own)
        y = run(self.output, r.sigmoid() * y.to(x.dtype))
        ends = mask.sum(1) if mask is not None else torch.full_like(last[:, 0], x.shape[1], dtype=torch.int64)
        top = tops.gather(1, ends[:, None, None].expand(-1, 1, self.width)).squeeze(1)
        return y, (last, kept, top.masked_fill(unbegun(kept), 0))


def unbegun(sums: Tensor) -> Tensor:
    """(B, 2 W) -> (B, W): where no token has been read, as the second sum, all of whose terms are positive, is 0."""
    return sums.chunk(2, -1)[1] == 0


@torch.no_grad()
def largest_so_far(k: Tensor, rate: Tensor, top: Tensor) -> Tensor:
    """m (B, L + 1, W) with m_t = max(m_{t-1} - rate, k_t) for k (B, L, W), `top` (B, W) being the m before the first token."""
    steps = torch.arange(k.shape[1] + 1, device=k.device, dtype=k.dtype).view(1, -1, 1) * rate
    lifted = torch.cat([top.to(k.dtype).unsqueeze(1), k + steps[:, 1:]], 1)
    return lifted.cummax(1).values - steps


@block(
    "rwkv4_channel_mix",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2305.13048",
)
class Rwkv4ChannelMix(Recurrent):
    """y = sigmoid(W_r x_r) * W_v relu(W_k x_k)^2, x_k and x_r being x mu + x' (1 - mu) with weights mu of their own, x' the token before.

    (B, L, C) -> (B, L, C). The hidden width is `hidden_dim`, or int(ratio * C) without one. The state is the last token (B, C).
    """

    no_decay = ("time_mix_key", "time_mix_receptance")

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        hidden_dim: Annotated[int, Meta(ge=1)] | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim = hidden_dim or int(dim * ratio)
        self.time_mix_key = nn.Parameter(torch.empty(dim))
        self.time_mix_receptance = nn.Parameter(torch.empty(dim))
        self.key = linear(dim, hidden_dim, bias=False)
        self.receptance = linear(dim, dim, bias=False)
        self.value = linear(hidden_dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.time_mix_key)
        nn.init.uniform_(self.time_mix_receptance)

    def state_size(self, length: int = 0) -> int:
        return self.time_mix_key.numel()

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        before, last = shifted(x, None if state is None else state[0], mask)
        k = run(self.key, torch.lerp(before, x, self.time_mix_key), ctx)
        r = run(self.receptance, torch.lerp(before, x, self.time_mix_receptance), ctx)
        return r.sigmoid() * run(self.value, F.relu(k).square(), ctx), (last,)
