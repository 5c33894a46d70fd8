"""LowFormer's attention: on a map that one convolution makes smaller and another makes large again.

Paper: arXiv:2409.03460. Upstream: altair199797/LowFormer (Apache-2.0). Differs from upstream: the map of the heads back to the channels
is always part of the transposed convolution, as in the published models.
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
    "conv_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2409.03460",
    covers=("lowformer", "lowtention"),
)
class ConvAttention(nn.Module):
    """y = U^T concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h, [q_h | k_h | v_h]_h = W norm(DW_k x): DW_k with `stride`, U its counterpart.

    (B, C, H, W) -> (B, C, H, W), attention between ceil(H / stride) ceil(W / stride) positions. U^T is a transposed convolution of all
    channels whose kernel is twice the stride, 3 x 3 for stride 1, cut off at H and W. Of `num_heads` and `head_dim` one decides, both may;
    with neither, heads are 32 wide. Raises ValueError when heads do not divide C, and for an even kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 5,
        stride: Count = 2,
        norm: Norm | None = slot("batch_norm"),
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width, size = self.num_heads * self.head_dim, 2 * stride if stride > 1 else 3
        self.conv = DepthwiseConv(dim, kernel_size=kernel_size, stride=stride, bias=norm is None, norm=norm)
        self.qkv = linear(dim, 3 * width, bias=False)
        self.up = nn.ConvTranspose2d(width, dim, size, stride, padding=size // 4 if stride > 1 else 1)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 num_heads head_dim of the L positions of the smaller map."""
        (B, _, *sides), stride = shape, self.conv.conv.stride[0]
        length = -(-sides[0] // stride) * -(-sides[1] // stride)
        return {"attention": 2 * B * length**2 * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        H, W = x.shape[2:]
        small = self.conv(x)
        heads = run(self.qkv, as_tokens(small), ctx).unflatten(-1, (self.num_heads, 3, self.head_dim))
        q, k, v = heads.permute(3, 0, 2, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.up(as_stream(y, small))[..., :H, :W]
