"""RWKV-6 (Finch): token shift that depends on the data, decays per channel, and a bonus for the present token.

Paper: arXiv:2404.05892. Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads,
K and V the widths of a key and a value.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides, split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.lora import Lora
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, shifted, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

MIXED = 5
"""Receptance, decay, key, value and gate each see their own mix of a token with the one before it."""


@block(
    "rwkv6",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2404.05892",
    covers=("finch", "rwkv6_time_mix"),
)
class Rwkv6(Recurrent):
    """y = W_o (norm_h((S_{t-1} + diag(u) k_t v_t^T)^T r_t) silu(g_t)), S_t = diag(w_t) S_{t-1} + k_t v_t^T, w = exp(-exp(lora x_w)).

    r, k, v and g are linear maps of x + (x' - x) m, with x' the token before, and m of each made of x by a low-rank map.
    (B, L, C) -> (B, L, C). Keys are `expand_k` C and values `expand_v` C wide over all heads. The state holds the last token
    (B, C) and S (B, H, K, V). Raises ValueError when heads do not divide.
    """

    no_decay = ("bonus", "x_bias", "mu")

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        expand_k: Annotated[float, Meta(gt=0)] = 1.0,
        expand_v: Annotated[float, Meta(gt=0)] = 1.0,
        shift_rank: Count = 32,
        decay_rank: Count = 64,
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.dim, (self.num_heads, _) = dim, split_heads(dim, num_heads, head_dim)
        keys, values = int(expand_k * dim), int(expand_v * dim)
        check_divides("num_heads", self.num_heads, "expand_k * dim", keys)
        check_divides("num_heads", self.num_heads, "expand_v * dim", values)
        self.head_dims = keys // self.num_heads, values // self.num_heads
        self.x_proj = nn.Sequential(
            LerpLinear(dim, MIXED * shift_rank), nn.Tanh(), nn.Linear(MIXED * shift_rank, dim, bias=False)
        )
        self.x_bias = nn.Parameter(torch.empty(MIXED, dim))
        self.r_proj = linear(dim, keys, bias=False)
        self.w_proj = Lora(dim, keys, decay_rank, "tanh")
        self.k_proj = linear(dim, keys, bias=False)
        self.v_proj = linear(dim, values, bias=False)
        self.g_proj = linear(dim, values, bias=False)
        self.bonus = nn.Parameter(torch.empty(self.num_heads, keys // self.num_heads))
        self.g_norm = nn.GroupNorm(self.num_heads, values, eps=eps)
        self.o_proj = linear(values, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.x_bias)
        nn.init.uniform_(self.bonus)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The second map of the token shift, L rank C for each of five, and 5 L num_heads K V operations of the recurrence."""
        B, L, _ = shape
        keys, values = self.head_dims
        second: Any = self.x_proj[2]
        return {"matmul": B * L * int(second.weight.numel()), "scan": 5 * B * L * self.num_heads * keys * values}

    def state_size(self, length: int = 0) -> int:
        keys, values = self.head_dims
        return self.dim + self.num_heads * keys * values

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        last, S = state or (None, None)
        before, last = shifted(x, last, mask)
        difference = before - x
        of_r, of_w, of_k, of_v, of_g = torch.addcmul(x, difference, self._mixes(x, difference))
        r, k, v = (
            run(part, part_input).unflatten(-1, (self.num_heads, -1))
            for part, part_input in ((self.r_proj, of_r), (self.k_proj, of_k), (self.v_proj, of_v))
        )
        rate = torch.exp(self.w_proj(of_w).to(torch.promote_types(x.dtype, torch.float32)))
        y, S = linear_recurrence(
            r,
            zero_padding(k, mask),
            v,
            zero_padding(-rate.unflatten(-1, (self.num_heads, -1)), mask),
            bonus=self.bonus,
            initial_state=S,
            return_final_state=True,
        )
        y = head_norm(y.to(x.dtype), self.g_norm) * F.silu(run(self.g_proj, of_g))
        return run(self.o_proj, y), (last, S)

    def _mixes(self, x: Tensor, difference: Tensor) -> Tensor:
        """(5, B, L, C): how far each of the five looks back, a low-rank map each of what one map gives them all."""
        parts: Any = self.x_proj
        first, act, second = parts
        hidden = act(first(x, difference)).unflatten(-1, (MIXED, -1))
        weights = second.weight.unflatten(1, (MIXED, -1))
        return torch.einsum("blmr,dmr->mbld", hidden, weights) + self.x_bias[:, None, None]


class LerpLinear(nn.Module):
    """W (x + (x' - x) mu), with a mu per channel."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, out_dim, bias=False)
        self.mu = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.mu)

    def forward(self, x: Tensor, difference: Tensor) -> Tensor:
        y: Tensor = self.linear(torch.addcmul(x, difference, self.mu))
        return y


def head_norm(y: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, L, H, V) -> (B, L, H * V), each token's heads standardised one by one."""
    rows = y.flatten(2)
    return norm(rows.flatten(0, 1)).view(rows.shape)  # type: ignore[no-any-return]
