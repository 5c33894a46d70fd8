"""HGRN: a recurrence per channel whose forget gates have a lower bound that grows with depth. Paper: arXiv:2311.04823.

Names of the state are those of fla-org/flash-linear-attention (MIT) and of ridgerchu/matmulfreellm (Apache-2.0), whose mixer it is
with `bit_linear` maps.
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
from blocks.recurrent import Recurrent, State, gated_norm, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

LOWER_BOUNDS = "hgrn.lower_bounds"
"""The slot in which the bounds of all layers stand, (layers, C)."""


@block(
    "hgrn",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2311.04823",
    covers=("hgrn1", "matmul_free"),
)
class Hgrn(Recurrent):
    """y = W_o (norm(W_g x) silu(h)), h_t = f_t h_{t-1} + (1 - f_t) silu(W_i x), f = b + (1 - b) sigmoid(W_f x), each channel by itself.

    (B, L, C) -> (B, L, C). b is the row `depth_index` of what a `lower_bounds` block has left in ctx, and 0 without one. The norm stands
    on the gate and the swish on the state, as in MatMul-free language models. The state is h (B, C).
    """

    reads = LOWER_BOUNDS

    def __init__(
        self,
        dim: int,
        *,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = False,
        linear: Linear = slot("dense"),
        depth_index: int = 0,
    ):
        super().__init__()
        self.depth_index = depth_index
        self.i_proj = linear(dim, dim, bias=bias)
        self.f_proj = linear(dim, dim, bias=bias)
        self.g_proj = linear(dim, dim, bias=bias)
        self.g_norm = nn.RMSNorm(dim, eps=eps)
        self.o_proj = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """5 operations of the recurrence for each channel."""
        B, L, C = shape
        return {"scan": 5 * B * L * C}

    def state_size(self, length: int = 0) -> int:
        return int(self.g_norm.weight.numel())

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        wide = torch.promote_types(x.dtype, torch.float32)
        raw = run(self.f_proj, x).to(wide)
        kept, log_decay = torch.sigmoid(-raw), F.logsigmoid(raw)
        bound = self._bound(ctx)
        if bound is not None:
            kept = (1 - bound.to(wide)) * kept
            log_decay = torch.log1p(-kept)
        written = zero_padding(F.silu(run(self.i_proj, x).to(wide)) * kept, mask)
        h, last = channel_recurrence(written, zero_padding(log_decay, mask), None if state is None else state[0])
        y = gated_norm(run(self.g_proj, x), h, self.g_norm)
        return run(self.o_proj, y.to(x.dtype)), (last,)

    def _bound(self, ctx: Context | None) -> Tensor | None:
        written = list(ctx.read(LOWER_BOUNDS).values()) if ctx is not None else []
        return written[-1][self.depth_index] if written else None


@block(
    "lower_bounds",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2311.04823",
)
class LowerBounds(nn.Module):
    """y = x, and the lower bounds of all `hgrn` of a model stand in ctx: B_l = sum_{0 < i <= l} softmax_layers(lower_bounds)_i.

    (B, L, C) -> the same. `lower_bounds` (layers, C) starts at 0: bounds of even steps, 0 in the first layer.
    """

    path = ""

    def __init__(self, dim: int, *, layers: Annotated[int, Meta(ge=1)] = 2):
        super().__init__()
        self.lower_bounds = nn.Parameter(torch.zeros(layers, dim))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.lower_bounds)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None:
            shares = self.lower_bounds.to(torch.promote_types(x.dtype, torch.float32)).softmax(0)
            ctx.write(LOWER_BOUNDS, self.path, shares.cumsum(0) - shares[0])
        return x
