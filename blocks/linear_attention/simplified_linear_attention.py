"""SLAB's attention: linear, with a plain ReLU for its feature map, learned positions on the keys and a small convolution of the values.

Paper: arXiv:2405.11582 (section 3.3). Upstream: xinghaochen/SLAB.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.ops.linear_attention import linear_attention
from blocks.primitives.positions import resized_grid
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "simplified_linear_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2405.11582",
    covers=("slab", "sla"),
)
class SimplifiedLinearAttention(nn.Module):
    """y = W_o concat_h (q_h S_h / (q_h z_h + eps) + DW v_h), S = sum k v^T, z = sum k, q = relu(W_q x), k = relu(W_k x + P), v = W_v x.

    (B, C, H, W) -> (B, C, H, W), at a cost linear in the positions. P (1, H*W, C) is learned, for the one size the block was built for;
    DW, a k x k depthwise convolution with a bias, is the same for all heads. Of `num_heads` and `head_dim` one decides; with neither,
    heads are 32 wide. The sums are taken in float32. Raises ValueError when heads do not divide, and for an even kernel; SizeError for
    another size.
    """

    no_decay = ("pos_embed",)

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 5,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = True,
        linear: Linear = slot("dense"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.eps, self.input_size = eps, tuple(input_size)
        width = self.num_heads * self.head_dim
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.input_size), width))
        self.local = conv2d(self.head_dim, self.head_dim, kernel_size, padding=kernel_size // 2, groups=self.head_dim)
        self.proj = linear(width, dim, bias=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.pos_embed)

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: SimplifiedLinearAttention | None = None
    ) -> Tensor | None:
        """The positions of another image size, for this one."""
        if name != "pos_embed" or tensor.ndim != 3 or tensor.shape[-1] != expected_shape[-1]:
            return None
        return resized_grid(tensor, self.input_size, None if old is None else old.input_size)  # type: ignore[arg-type]

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """k^T v, q (k^T v) and q sum(k): L num_heads (2 head_dim^2 + head_dim); and the convolution of all heads."""
        B, _, H, W = shape
        width = self.num_heads * self.head_dim
        kernel = math.prod(self.local.kernel_size)
        return {"matmul": B * H * W * width * (2 * self.head_dim + 1), "convolution": B * H * W * width * kernel}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if tuple(x.shape[2:]) != self.input_size:
            raise SizeError(
                f"the positions of this simplified_linear_attention are for maps of size {self.input_size} and meet "
                f"{tuple(x.shape[2:])}; build the model with that input size"
            )
        q, k, v = run(self.qkv, as_tokens(x), ctx).chunk(3, -1)
        wide = torch.promote_types(x.dtype, torch.float32)
        queries, keys, values = (self._heads(part.to(wide)) for part in (F.relu(q), F.relu(k + self.pos_embed), v))
        y = linear_attention(queries, keys, values, self.eps).transpose(1, 2).flatten(2).to(v.dtype)
        y = y + as_tokens(self._mixed_values(as_stream(v, x)))
        return as_stream(run(self.proj, y, ctx), x)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, L, head_dim)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mixed_values(self, v: Tensor) -> Tensor:
        """DW v: each head's channels with the one set of kernels."""
        weight, bias = self.local.weight.repeat(self.num_heads, 1, 1, 1), self.local.bias.repeat(self.num_heads)  # type: ignore[union-attr]
        return F.conv2d(v, weight.to(v.dtype), bias.to(v.dtype), padding=self.local.padding, groups=v.shape[1])  # type: ignore[arg-type]

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.qkv.absorb_input(scale, shift))  # type: ignore[operator]
