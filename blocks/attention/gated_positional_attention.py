"""ConViT's attention: each head begins as a convolution's tap and learns, by a gate, how far it attends to content instead.

Paper: arXiv:2103.10697. Upstream: facebookresearch/convit (Apache-2.0). Differs from upstream: rows of the attention, which add up to 1,
are not divided by their sum; maps need not be square.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]


@block(
    "gated_positional_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2103.10697",
    covers=("convit", "gpsa"),
)
class GatedPositionalAttention(nn.Module):
    """y = W_o concat_h ((1 - s_h) softmax(q_h k_h^T / sqrt(head_dim)) + s_h softmax(P_h)) v_h, s = sigmoid(gate), [q | k] = W_qk x, v = W_v x.

    (B, C, H, W) -> (B, C, H, W). P_h of a pair of positions is w_h . (dx, dy, dx^2 + dy^2) + b_h of what lies between them, in columns and
    rows. At first W_v is the identity and head h looks at one position of a square of floor(sqrt(heads))^2 around its own, the more
    sharply the larger `locality` is; heads beyond that square begin at random. Of `num_heads` and `head_dim` one decides; with neither,
    heads are 32 wide. Raises ValueError when heads do not divide C.
    """

    elsewhere: Table | None = None
    """What lies between positions of the last map that had another size than `input_size`."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        locality: Annotated[float, Meta(gt=0)] = 1.0,
        bias: bool = False,
        linear: Linear = slot("dense"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.locality = locality
        self.qk = linear(dim, 2 * width, bias=bias)
        self.v = linear(dim, width, bias=bias)
        self.pos_proj = Dense(3, self.num_heads)
        self.gate = nn.Parameter(torch.empty(self.num_heads))
        self.proj = linear(width, dim, bias=True)
        self.between = Table(displacements, tuple(input_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.ones_(self.gate)
        if isinstance(self.v, nn.Linear):
            nn.init.eye_(self.v.weight)
        side = math.isqrt(self.num_heads)
        weight = self.pos_proj.weight
        weight[: side**2] = self.locality * taps(side).to(weight)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 num_heads head_dim."""
        B, _, H, W = shape
        return {"matmul": 2 * B * (H * W) ** 2 * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        tokens, heads = as_tokens(x), (self.num_heads, self.head_dim)
        q, k = run(self.qk, tokens, ctx).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        v = run(self.v, tokens, ctx).unflatten(-1, heads).transpose(1, 2)
        content = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(-1)
        position = self._position(tuple(x.shape[2:]), ctx).to(content)
        attention = torch.lerp(content, position, self.gate.sigmoid().to(content).view(-1, 1, 1))  # (B, heads, L, L)
        y = (attention.to(v) @ v).transpose(1, 2).flatten(2)
        return as_stream(run(self.proj, y, ctx), x)

    def _position(self, size: tuple[int, ...], ctx: Context | None) -> Tensor:
        """(heads, L, L): how far each position looks at each, by where they stand alone."""
        table = self.between
        if size != table.arguments:
            if self.elsewhere is None or self.elsewhere.arguments != size:
                self.elsewhere = Table(displacements, size)
            table = self.elsewhere
        return run(self.pos_proj, table.like(self.gate), ctx).permute(2, 0, 1).softmax(-1)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.qk.absorb_input(scale, shift) and self.v.absorb_input(scale, shift))  # type: ignore[operator]


def displacements(height: int, width: int) -> Tensor:
    """(L, L, 3): columns and rows from the first position of a pair to the second, and the square of their distance."""
    rows, columns = torch.arange(height), torch.arange(width)
    y, x = rows[:, None].expand(height, width).flatten(), columns.expand(height, width).flatten()
    dx, dy = x - x[:, None], y - y[:, None]
    return torch.stack([dx, dy, dx**2 + dy**2], -1).float()


def taps(side: int) -> Tensor:
    """(side^2, 3): the weights of heads that each look at one position of a side x side square, whose score there is the largest."""
    offsets = torch.arange(side) - (side - 1) / 2 if side % 2 == 0 else torch.arange(side) - float(side // 2)
    dx, dy = offsets[:, None].expand(side, side).flatten(), offsets.expand(side, side).flatten()
    return torch.stack([2 * dx, 2 * dy, torch.full_like(dx, -1)], -1)  # -(d - offset)^2 but for a constant
