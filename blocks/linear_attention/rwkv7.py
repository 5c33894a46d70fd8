"""RWKV-7 (Goose): a delta rule that reads with one key and writes with another, of which the strength is learned per channel.

Paper: arXiv:2503.14456. Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K
the width of a key and of a value.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.lora import Lora
from blocks.linear_attention.rwkv6 import head_norm
from blocks.ops.delta_rule import diagonal_plus_low_rank
from blocks.recurrent import Recurrent, State, shifted, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

FIRST_VALUES = "first_values"
"""The slot of ctx in which the first layer leaves its values, for the later ones to mix with theirs."""
MOST_FORGOTTEN = -math.exp(-0.5)
"""The logarithm of the strongest decay."""


@block(
    "rwkv7",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2503.14456",
    covers=("goose", "rwkv7_time_mix"),
)
class Rwkv7(Recurrent):
    """y = W_o (g (norm_h(S_t^T r_t) + (sum r_k r k) v)), S_t = (diag(w) + (a κ) (-κ)^T) S_{t-1} + k v^T.

    r, k, v = W x_r, W x_k, W x_v with x_i = x + (x' - x) mu_i, x' the token before; log w = -e^(-1/2) sigmoid(lora x_w),
    a = sigmoid(lora x_a), g = lora x_g; κ = k k_k made of length 1, k <- k (1 + (a - 1) k_a). v of a later layer goes
    sigmoid(lora x_v) of the way to that of the first, which `ctx` carries. (B, L, C) -> (B, L, C). Without a value
    `first` is whether the layer is the spec's first. The state holds the last token (B, C) and S (B, H, K, K). Raises
    ValueError when heads do not divide, and for a later layer without a first one before it.
    """

    no_decay = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "r_k")
    x_r: nn.Parameter
    x_w: nn.Parameter
    x_k: nn.Parameter
    x_v: nn.Parameter
    x_a: nn.Parameter
    x_g: nn.Parameter

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        decay_rank: Count = 64,
        gate_rank: Count = 128,
        a_rank: Count = 64,
        v_rank: Count = 16,
        first: bool | None = None,
        linear: Linear = slot("dense"),
        depth_index: int = 0,
    ):
        super().__init__()
        self.dim, (self.num_heads, self.head_dim) = dim, split_heads(dim, num_heads, head_dim)
        self.first = depth_index == 0 if first is None else first
        self.reads = None if self.first else FIRST_VALUES
        for name in "rwkvag":
            self.register_parameter(f"x_{name}", nn.Parameter(torch.empty(1, 1, dim)))
        width = self.num_heads * self.head_dim
        self.k_k = nn.Parameter(torch.empty(width))
        self.k_a = nn.Parameter(torch.empty(width))
        self.r_k = nn.Parameter(torch.empty(self.num_heads, self.head_dim))
        self.r_proj = linear(dim, width, bias=False)
        self.k_proj = linear(dim, width, bias=False)
        self.v_proj = linear(dim, width, bias=False)
        self.o_proj = linear(width, dim, bias=False)
        self.w_lora = Lora(dim, width, decay_rank, "tanh")
        self.v_lora = None if self.first else Lora(dim, width, v_rank)
        self.a_lora = Lora(dim, width, a_rank)
        self.g_lora = Lora(dim, width, gate_rank, "sigmoid", bias=False)
        self.g_norm = nn.GroupNorm(self.num_heads, width, eps=self.head_dim * 1e-5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name in "rwkvag":
            nn.init.uniform_(getattr(self, f"x_{name}"))
        nn.init.constant_(self.k_k, 0.85)
        nn.init.ones_(self.k_a)
        nn.init.normal_(self.r_k, std=0.1)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """14 L num_heads K^2 operations: a step is two of the delta rule."""
        B, L, _ = shape
        return {"scan": 14 * B * L * self.num_heads * self.head_dim**2}

    def state_size(self, length: int = 0) -> int:
        return self.dim + self.num_heads * self.head_dim**2

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        last, S = state or (None, None)
        before, last = shifted(x, last, mask)
        difference = before - x
        r = run(self.r_proj, torch.addcmul(x, difference, self.x_r))
        k = run(self.k_proj, torch.addcmul(x, difference, self.x_k))
        v = self._values(torch.addcmul(x, difference, self.x_v), ctx)
        a = self.a_lora(torch.addcmul(x, difference, self.x_a)).sigmoid()
        gate = self.g_lora(torch.addcmul(x, difference, self.x_g))
        rate = self.w_lora(torch.addcmul(x, difference, self.x_w)).to(torch.promote_types(x.dtype, torch.float32))
        log_decay = MOST_FORGOTTEN * rate.sigmoid()
        kappa, k = k * self.k_k, k * (1 + (a - 1) * self.k_a)
        r, k, v, a, kappa, log_decay = (
            part.unflatten(-1, (self.num_heads, -1)) for part in (r, k, v, a, kappa, log_decay)
        )
        kappa = F.normalize(kappa, dim=-1)
        y, S = diagonal_plus_low_rank(
            r,
            zero_padding(k, mask),
            v,
            -kappa,
            zero_padding(kappa * a, mask),
            zero_padding(log_decay, mask),
            initial_state=S,
            return_final_state=True,
        )
        present = (r * k * self.r_k).sum(-1, keepdim=True) * v
        y = (head_norm(y.to(x.dtype), self.g_norm) + present.flatten(2)) * gate
        return run(self.o_proj, y), (last, S)

    def _values(self, x: Tensor, ctx: Context | None) -> Tensor:
        v = run(self.v_proj, x)
        if self.v_lora is None:
            if ctx is not None:
                ctx.write(FIRST_VALUES, self.path, v)
            return v
        firsts = [] if ctx is None else list(ctx.read(FIRST_VALUES).values())
        if not firsts:
            raise ValueError(
                "a later rwkv7 mixes its values with those of a first one, and ctx carries none; set `first`"
            )
        if firsts[-1].shape != v.shape:
            raise ValueError(
                f"the first rwkv7 leaves values {tuple(firsts[-1].shape)} and here they are {tuple(v.shape)}; "
                "set `first` where the size or the width changes"
            )
        return torch.lerp(v, firsts[-1], self.v_lora(x).sigmoid())
