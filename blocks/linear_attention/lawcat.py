"""LAWCAT: the maps of a trained attention in a gated linear attention, with convolutions across time and a norm. Paper: arXiv:2509.18467.

The authors' code cannot be reached; what the public text leaves open is chosen here: the gate is GLA's, phi is elu + 1, and the kernels begin as the
identity, so that the maps of the attention that is replaced begin as they are. H is the number of heads, K the width of one.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides, split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, depthwise, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


@block(
    "lawcat",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2509.18467",
    covers=("linear_attention_with_convolution_across_time",),
)
class Lawcat(Recurrent):
    """y = W_o (S_t^T phi(q_t) / z_t^T phi(q_t)), S_t = diag(a_t) S_{t-1} + phi(k_t) v_t^T, z_t = diag(a_t) z_{t-1} + phi(k_t), per head.

    q = conv(W_q x), k = conv(W_k x), v = W_v x, of which each key and value serves num_heads / num_kv_heads neighbouring heads;
    a = sigmoid(W_2 W_1 x + b)^(1 / `gate_root`). So y is a weighted mean of the values at any length. (B, L, C) -> (B, L, C). The state holds the
    last inputs of the two convolutions and [S | z] (B, H, K, K + 1). Raises ValueError when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        kernel_size: Count = 4,
        gate_rank: Count = 16,
        gate_root: Positive = 16.0,
        bias: bool = False,
        eps: Positive = 1e-6,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_kv_heads = num_kv_heads or self.num_heads
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        self.gate_root, self.eps = gate_root, eps
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = linear(dim, width, bias=bias)
        self.k_proj = linear(dim, kv_width, bias=bias)
        self.v_proj = linear(dim, kv_width, bias=bias)
        self.q_conv1d, self.k_conv1d = depthwise(width, kernel_size), depthwise(kv_width, kernel_size)
        self.gk_proj = nn.Sequential(nn.Linear(dim, gate_rank, bias=False), nn.Linear(gate_rank, width))
        self.o_proj = linear(width, dim, bias=bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for conv in (self.q_conv1d, self.k_conv1d):
            conv.weight.zero_()[..., -1] = 1.0

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The convolutions, and 5 L num_heads K (K + 1) operations: writing the state, reading it, and its decay."""
        B, L, _ = shape
        convolved = short_conv_macs(B, L, self.q_conv1d, self.k_conv1d)
        return {"convolution": convolved, "scan": 5 * B * L * self.num_heads * self.head_dim * (self.head_dim + 1)}

    def state_size(self, length: int = 0) -> int:
        kept = (self.num_heads + self.num_kv_heads) * self.head_dim * (self.q_conv1d.kernel_size[0] - 1)
        return kept + self.num_heads * self.head_dim * (self.head_dim + 1)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q_conv, k_conv, S = state or (None, None, None)
        q, q_conv = short_conv(run(self.q_proj, x, ctx), self.q_conv1d, q_conv, mask, act=None)
        k, k_conv = short_conv(run(self.k_proj, x, ctx), self.k_conv1d, k_conv, mask, act=None)
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (part.to(wide).unflatten(-1, (-1, self.head_dim)) for part in (q, k, run(self.v_proj, x, ctx)))
        k, v = (part.repeat_interleave(self.num_heads // self.num_kv_heads, 2) for part in (k, v))
        log_decay = F.logsigmoid(self.gk_proj(x).to(wide)).unflatten(-1, (self.num_heads, -1)) / self.gate_root
        y, S = linear_recurrence(
            F.elu(q) + 1,
            zero_padding(F.elu(k) + 1, mask),
            torch.cat([v, torch.ones_like(v[..., :1])], -1),
            zero_padding(log_decay, mask),
            initial_state=S,
            return_final_state=True,
        )
        y = y[..., :-1] / (y[..., -1:] + self.eps)
        return run(self.o_proj, y.flatten(2).to(x.dtype), ctx), (q_conv, k_conv, S)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.o_proj.absorb_output(scale, shift))  # type: ignore[operator]
