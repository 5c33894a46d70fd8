"""The Mesa layer: linear attention that answers each query by the least-squares fit of all values to all keys. Paper: arXiv:2506.05233.

Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K and V the widths of a key and
a value, k the kernel of the short convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.delta_net import of_length_one
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, depthwise, gated_norm, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]

START = 1.0
"""Lambda at the start of training."""


@block(
    "mesa",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2506.05233",
    covers=("mesa_net", "mesa_layer"),
)
class Mesa(Recurrent):
    """y = W_o norm_h(G_t^T (H_t + diag(Lambda))^-1 q_t), G_t = a_t G_{t-1} + b_t k_t v_t^T, H_t = a_t H_{t-1} + b_t k_t k_t^T.

    a = sigmoid(W_a x + c), b = sigmoid(W_b x) for each head; q and k are silu(conv(W x)) of length 1, v = W_v x;
    Lambda = bound + softplus(l) for each channel of the keys, at least `bound`. (B, L, C) -> (B, L, C). The system is solved by
    `cg_steps` steps of conjugate gradients, each of which asks H for one product: a linear recurrence whose values are its keys.
    The state holds the last inputs of the two convolutions (B, width, k - 1), H (B, H, K, K) and G (B, H, K, V). Raises ValueError
    when heads do not divide.
    """

    no_decay = ("lambda_params",)

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        kernel_size: Count = 4,
        cg_steps: Annotated[int, Meta(ge=1, le=256)] = 30,
        bound: Positive = 0.25,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.cg_steps, self.bound = cg_steps, bound
        width = self.num_heads * self.head_dim
        self.q_proj = linear(dim, width, bias=False)
        self.k_proj = linear(dim, width, bias=False)
        self.v_proj = linear(dim, width, bias=False)
        self.a_proj = nn.Linear(dim, self.num_heads)
        self.b_proj = nn.Linear(dim, self.num_heads)
        self.lambda_params = nn.Parameter(torch.empty(width))
        self.q_conv1d = depthwise(width, kernel_size)
        self.k_conv1d = depthwise(width, kernel_size)
        self.o_norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.o_proj = linear(width, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.lambda_params, math.log(math.expm1(max(START - self.bound, self.bound))))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Two convolutions, and 5 L num_heads K^2 operations for each step of the solver, the first product and the answer."""
        B, L, _ = shape
        scans = 5 * B * L * self.num_heads * self.head_dim**2
        convolved = short_conv_macs(B, L, self.q_conv1d, self.k_conv1d)
        return {"convolution": convolved, "scan": (self.cg_steps + 1) * scans}

    def state_size(self, length: int = 0) -> int:
        width = self.num_heads * self.head_dim
        return 2 * width * (self.q_conv1d.kernel_size[0] - 1) + 2 * width * self.head_dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q_conv, k_conv, H, G = state or (None,) * 4
        q, q_conv = short_conv(run(self.q_proj, x), self.q_conv1d, q_conv, mask)
        k, k_conv = short_conv(run(self.k_proj, x), self.k_conv1d, k_conv, mask)
        q, k = (of_length_one(part.unflatten(-1, (self.num_heads, -1))) for part in (q, k))
        v = run(self.v_proj, x).unflatten(-1, (self.num_heads, -1)).to(q.dtype)
        log_decay = zero_padding(F.logsigmoid(self.a_proj(x).to(q.dtype)), mask)
        written = k * zero_padding(self.b_proj(x).to(q.dtype).sigmoid(), mask).unsqueeze(-1)
        regular = (self.bound + F.softplus(self.lambda_params.to(q.dtype))).view(self.num_heads, -1)
        kept: list[Tensor] = []

        def product(p: Tensor) -> Tensor:
            """(H_t + diag(Lambda)) p_t of every token."""
            y, last = linear_recurrence(p, written, k, log_decay, initial_state=H, return_final_state=True)
            kept[:] = [last]
            return y + regular * p

        answer = conjugate_gradients(product, q, self.cg_steps)
        y, G = linear_recurrence(answer, written, v, log_decay, initial_state=G, return_final_state=True)
        y = gated_norm(y, None, self.o_norm)
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (q_conv, k_conv, kept[0], G)


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """x with product(x) = b along the last axis, after `steps` steps from 0; product is symmetric and positive definite.

    Where nothing of the residual is left, it stays as it is.
    """
    x, r = torch.zeros_like(b), b
    p, rr = r, (r * r).sum(-1, keepdim=True)
    tiny = torch.finfo(b.dtype).tiny
    for _ in range(steps):
        Ap = product(p)
        step = rr / (p * Ap).sum(-1, keepdim=True).clamp_min(tiny)
        x, r = x + step * p, r - step * Ap
        before, rr = rr, (r * r).sum(-1, keepdim=True)
        p = r + rr / before.clamp_min(tiny) * p
    return x
