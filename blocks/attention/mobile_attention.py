"""MobileNetV4's attention: all heads share one key and one value, which are made of a smaller map.

Paper: arXiv:2404.10518 (section 4). Upstream: tensorflow/models (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.conv.conv import DepthwiseConv
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "mobile_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2404.10518",
    covers=("mobile_mqa", "mobilenetv4_hybrid"),
)
class MobileAttention(nn.Module):
    """y = W_o concat_h softmax(q_h k^T / sqrt(head_dim)) v, q = W_q x, k = W_k norm(DW_k x), v = W_v norm(DW_v x), DW with `stride`.

    (B, C, H, W) -> (B, C, H, W); keys and values stand at ceil(H / stride) ceil(W / stride) positions, one of each for all heads. With a
    stride of 1 they are made of x itself. Of `num_heads` and `head_dim` one decides, both may; with neither, heads are 32 wide.
    Raises ValueError when heads do not divide C, and for an even kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        stride: Count = 2,
        norm: Norm | None = slot("batch_norm"),
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.q = linear(dim, self.num_heads * self.head_dim, bias=False)
        self.stride = stride
        for name in ("k", "v"):
            if stride > 1:
                conv = DepthwiseConv(dim, kernel_size=kernel_size, stride=stride, bias=norm is None, norm=norm)
                self.add_module(f"{name}_conv", conv)
            self.add_module(name, linear(dim, self.head_dim, bias=False))
        self.proj = linear(self.num_heads * self.head_dim, dim, bias=False)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L M num_heads head_dim, M the positions of the smaller map."""
        (B, _, H, W), stride = shape, self.stride
        return {"attention": 2 * B * H * W * -(-H // stride) * -(-W // stride) * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        q = run(self.q, as_tokens(x), ctx).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        k, v = (self._of_smaller_map(name, x, ctx) for name in ("k", "v"))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
        return as_stream(run(self.proj, y, ctx), x)

    def _of_smaller_map(self, name: str, x: Tensor, ctx: Context | None) -> Tensor:
        """The one key or value of all heads, (B, 1, M, head_dim)."""
        small = x if self.stride == 1 else self._modules[f"{name}_conv"](x)  # type: ignore[misc]
        return run(self._modules[name], as_tokens(small), ctx).unsqueeze(1)  # type: ignore[arg-type]

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]
