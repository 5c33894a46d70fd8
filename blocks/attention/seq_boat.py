"""SeqBoat: a moving average of every token, and attention among those tokens alone that it makes active. Paper: arXiv:2306.11197.

Names of the state are those of renll/SeqBoat (MIT). C is the width, Z = `z_dim` that of queries and keys, N = `state_dim` the averages of a
channel.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.cache import look_back, seen_before
from blocks.attention.rotary import positions_after
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import channel_recurrence
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import State, samples, stepwise, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

LAPLACE = 0.707107, 0.282095
"""Mean and deviation of the Laplace attention, with the six digits of the authors' code."""


class MovingAverage(nn.Module):
    """m_t = omega x_t + sum_n gamma_n / sqrt(N) sum_{s <= t} p_n beta_n q_n^(t - s) x_s, p = sigmoid(delta), q = 1 - p sigmoid(alpha).

    Of each channel; with `both` the same again over the tokens behind, with parameters of its own, lag 0 counting in both.
    """

    def __init__(self, dim: int, state_dim: int, both: bool):
        super().__init__()
        rows = 2 * dim if both else dim
        self.delta = nn.Parameter(torch.empty(rows, state_dim, 1))
        self.alpha = nn.Parameter(torch.empty(rows, state_dim, 1))
        self.beta = nn.Parameter(torch.empty(rows, state_dim, 1))
        self.gamma = nn.Parameter(torch.empty(rows, state_dim))
        self.omega = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.delta, std=0.2)
        nn.init.normal_(self.alpha, std=0.2)
        sign = torch.ones_like(self.beta)
        sign[:, 1::2] = -1
        self.beta.copy_(sign + 0.02 * torch.randn_like(self.beta))
        nn.init.normal_(self.gamma)
        nn.init.normal_(self.omega)

    def averaged(self, x: Tensor, h: Tensor | None, way: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(the sum over lags (B, L, C), the averages after the last token (B, C N)) of the direction `way`, 0 or 1."""
        part = slice(way * x.shape[2], (way + 1) * x.shape[2])
        p, alpha = self.delta[part, :, 0].to(x.dtype).sigmoid(), self.alpha[part, :, 0].to(x.dtype).sigmoid()
        written = (x.unsqueeze(-1) * (p * self.beta[part, :, 0].to(x.dtype))).flatten(2)
        log_decay = torch.log1p(-p * alpha).flatten().expand_as(written)
        h, last = channel_recurrence(zero_padding(written, mask), zero_padding(log_decay, mask), h)
        weights = self.gamma[part].to(x.dtype) * p.shape[1] ** -0.5
        return (h.unflatten(2, p.shape) * weights).sum(-1), last


@block(
    "seq_boat",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "step", "any_resolution", "1d"),
    paper="arXiv:2306.11197",
    covers=("sparse_modular_activation", "sma"),
)
class SeqBoat(nn.Module):
    """y = silu(x + s + a W_h(attention(q, k, v) * r)), with the residual sum within: a unit and not a branch.

    m = silu(average(norm x)); [u | s] = W_hx m; a = softmax(u / exp(temp))_1 for tokens that are active, where a > 1/2, and 0 for the others.
    [z | r | v] = silu(W_mx m); q and k are z gamma + beta, two rows. Attention is among the active tokens alone: `softmax` of q k^T / sqrt(Z),
    or `laplace`, (1 + erf((q k^T / n - 0.707107) / (0.282095 sqrt 2))) / 2 with n the active tokens that a query sees; a learned number
    for each distance, up to `max_positions` - 1, is added to the scores. Decisions have the gradient of a. (B, L, C) -> (B, L, C). What is
    not active is hidden here, which costs what attention costs. The state of a causal unit holds the averages (B, C N), keys, values,
    whether they are active, and positions (B, M, ...), and the number of tokens (B,); after padding also which of the M are tokens
    (B, M). Raises ValueError for a state or packed sequences where `causal` is false.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        z_dim: Count = 16,
        hidden_dim: Count | None = None,
        state_dim: Count = 4,
        scores: Literal["softmax", "laplace"] = "softmax",
        max_positions: Count = 1024,
        causal: bool = False,
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim = hidden_dim or dim
        self.sizes, self.scores, self.max_positions, self.causal = (
            (z_dim, hidden_dim, hidden_dim),
            scores,
            max_positions,
            causal,
        )
        self.state_dim = state_dim
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.move = MovingAverage(dim, state_dim, not causal)
        self.hx_proj = linear(dim, 2 + dim, bias=True)
        self.mx_proj = linear(dim, sum(self.sizes), bias=True)
        self.h_proj = linear(hidden_dim, dim, bias=True)
        self.gamma = nn.Parameter(torch.empty(2, z_dim))
        self.beta = nn.Parameter(torch.empty(2, z_dim))
        self.temp = nn.Parameter(torch.empty(1))
        self.rel_pos_bias = nn.Parameter(torch.empty(2 * max_positions - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.gamma, std=0.02)
        nn.init.zeros_(self.beta)
        nn.init.constant_(self.temp, math.log(0.3 * math.sqrt(len(self.norm.weight))))
        nn.init.normal_(self.rel_pos_bias, std=0.02)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """5 C N operations of the averages in each direction; scores and sums of all pairs."""
        B, L, C = shape
        ways = 1 if self.causal else 2
        return {"scan": 5 * ways * B * L * C * self.state_dim, "matmul": B * L * L * (self.sizes[0] + self.sizes[2])}

    def state_size(self, length: int = 0) -> int:
        return len(self.norm.weight) * self.state_dim + length * (self.sizes[0] + self.sizes[2] + 2) + 1

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.causal:
            return stepwise(self.mix, self.mix_packed, self.path, x, ctx)
        refuse_state(ctx, "that needs a seq_boat with `causal`")
        mask = token_mask(x, ctx)
        normed = zero_padding(self._wide(self.norm(x)), mask)
        m, _ = self.move.averaged(normed, None, 0, None)
        back, _ = self.move.averaged(normed.flip(1), None, 1, None)
        where, _ = positions_after(x, None, None)
        shown = None if mask is None else mask[:, None, :]
        q, k, v, r, skip, active = self._maps(m + back.flip(1), normed, x.dtype, mask)
        return self._joined(x, skip, active, q, k, v, r, active > 0, where, where, shown)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        averages, rest = (None, None) if state is None else (state[0], state[1:])
        normed = self._wide(self.norm(x))
        m, averages = self.move.averaged(normed, averages, 0, mask)
        where, after = positions_after(x, seen_before(rest), mask)
        q, k, v, r, skip, active = self._maps(m, normed, x.dtype, mask)
        held = k, v, (active > 0).to(k.dtype).unsqueeze(-1), where.to(k.dtype).unsqueeze(-1)
        (k, v, is_active, at), visible, _, rest = look_back(held, where, after, rest, mask, None)
        L, M = x.shape[1], k.shape[1]
        if visible is None:
            visible = torch.ones(1, 1, L, M, dtype=torch.bool, device=x.device).tril(M - L)
        y = self._joined(x, skip, active, q, k, v, r, is_active[..., 0] > 0, where, at[..., 0].long(), visible[:, 0])
        return y, (averages, *rest)

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return samples(self.mix, x, state, borders, ctx)

    def _wide(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def _maps(self, m: Tensor, normed: Tensor, dtype: torch.dtype, mask: Tensor | None) -> tuple[Tensor, ...]:
        """q, k, v, r, s of all tokens, and how active each is (B, L), 0 where it is not."""
        m = F.silu(m + normed * self.move.omega.to(normed.dtype)).to(dtype)
        choice, skip = run(self.hx_proj, m).split([2, m.shape[2]], -1)
        share = (choice / self.temp.exp()).softmax(-1)
        active = share[..., 1] * (share[..., 1] > share[..., 0])
        z, r, v = F.silu(run(self.mx_proj, m)).split(self.sizes, -1)
        q, k = (z.unsqueeze(2) * self.gamma + self.beta).unbind(2)
        return q, k, v, r, skip, active if mask is None else active * mask

    def _joined(
        self, x: Tensor, skip: Tensor, active: Tensor, q: Tensor, k: Tensor, v: Tensor, r: Tensor,
        keys_active: Tensor, where: Tensor, at: Tensor, visible: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The unit's output from its maps; `visible` (B or 1, L, M): which keys a query may see, if they are active."""
        seen = keys_active.unsqueeze(1).expand(-1, q.shape[1], -1)
        seen = seen if visible is None else seen & visible
        lag = (at.unsqueeze(1) - where.unsqueeze(2)).clamp(1 - self.max_positions, self.max_positions - 1)
        bias = self.rel_pos_bias[lag + self.max_positions - 1]
        if self.scores == "softmax":
            scores = (q * q.shape[-1] ** -0.5) @ k.mT + bias
            weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) * seen
        else:
            mean, deviation = LAPLACE
            scores = (q / seen.sum(-1, keepdim=True).clamp_min(1)) @ k.mT + bias
            weights = (1 + torch.erf((scores - mean) / (deviation * math.sqrt(2)))) / 2 * seen
        o = run(self.h_proj, weights @ v * r) * active.unsqueeze(-1)
        return F.silu(x + skip + o)
