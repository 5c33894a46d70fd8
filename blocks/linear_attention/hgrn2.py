"""HGRN2: a linear recurrence whose keys are what its decays leave to forget. Paper: arXiv:2404.07904.

Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K the width of a key, V
that of a value. Differs from upstream: the lower bound of the decays is a parameter of the spec, where upstream learns one
per layer outside of its layers.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, gated_norm, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "hgrn2",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2404.07904",
)
class Hgrn2(Recurrent):
    """y = W_o norm(S_t^T q_t / sqrt(K)), S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T, f = b + (1 - b) sigmoid(W_f x).

    q = silu(W_q x), v = W_i x. (B, L, C) -> (B, L, C). K is `expand_ratio`, and there are C / K heads; b is `lower_bound`, which
    grows with depth in the paper. The norm is over all channels. The state is S (B, H, K, V). Raises ValueError when
    `expand_ratio` does not divide C.
    """

    def __init__(
        self,
        dim: int,
        *,
        expand_ratio: Count = 16,
        lower_bound: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
        bias: bool = False,
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        check_divides("expand_ratio", expand_ratio, "dim", dim)
        self.num_heads, self.expand_ratio, self.lower_bound = dim // expand_ratio, expand_ratio, lower_bound
        self.q_proj = linear(dim, dim, bias=bias)
        self.f_proj = linear(dim, dim, bias=bias)
        self.i_proj = linear(dim, dim, bias=bias)
        self.g_norm = nn.RMSNorm(dim, eps=eps)
        self.o_proj = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """5 L num_heads K^2 operations: writing the state, reading it, and its decay."""
        B, L, _ = shape
        return {"scan": 5 * B * L * self.num_heads * self.expand_ratio**2}

    def state_size(self, length: int = 0) -> int:
        return self.num_heads * self.expand_ratio**2

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        raw = run(self.f_proj, x).to(torch.promote_types(x.dtype, torch.float32))
        log_decay, k = F.logsigmoid(raw), torch.sigmoid(-raw)
        if self.lower_bound:
            k = k * (1 - self.lower_bound)
            log_decay = torch.log1p(-k)
        q, k, v, log_decay = (
            part.unflatten(-1, (self.num_heads, -1))
            for part in (F.silu(run(self.q_proj, x)), k, run(self.i_proj, x), log_decay)
        )
        y, S = linear_recurrence(
            q,
            zero_padding(k, mask),
            v,
            zero_padding(log_decay, mask),
            scale=q.shape[-1] ** -0.5,
            initial_state=None if state is None else state[0],
            return_final_state=True,
        )
        return run(self.o_proj, gated_norm(y.flatten(2), None, self.g_norm).to(x.dtype)), (S,)
