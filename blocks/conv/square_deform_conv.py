"""A depthwise convolution whose reach differs from pixel to pixel. Paper: arXiv:2006.08357 (CoDeNet). Upstream: Zhen-Dong/CoDeNet (MIT).

Its taps stay a square around the pixel, so that hardware can fetch rows of them: one number for each pixel, not two for each tap.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.conv.conv import conv2d
from blocks.folding import scale_output
from blocks.registry import block
from blocks.tables import Table


def taps(kernel_size: int) -> Tensor:
    """(k,) from -(k - 1) / 2 to (k - 1) / 2: where the taps of a kernel stand."""
    return torch.arange(kernel_size) - (kernel_size - 1) / 2


@block(
    "square_deform_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2006.08357",
    covers=("codenet", "deformable_conv"),
)
class SquareDeformConv(nn.Module):
    """y_c(p) = sum_t W_c(t) x_c(p + s(p) t) with s = clamp(w . x + b, 1 - bound, bound), t the taps of a k x k kernel.

    (B, C, H, W) -> (B, C, H, W). Between pixels x is bilinear, beyond the border zero. At first s = 1: a plain depthwise convolution.
    Raises ValueError for an even kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=15)] = 3,
        bound: Annotated[float, Meta(ge=1)] = 8.0,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.kernel_size, self.bound = kernel_size, bound
        self.scale = conv2d(dim, 1, 1)
        self.conv = conv2d(dim, dim, kernel_size, stride=kernel_size, groups=dim, bias=False)
        self.taps = Table(taps, (kernel_size,))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale(x).clamp(1 - self.bound, self.bound)[:, 0]  # (B, H, W)
        return self.conv(self._sampled(x, scale))  # type: ignore[no-any-return]

    def _sampled(self, x: Tensor, scale: Tensor) -> Tensor:
        """(B, C, k H, k W): for each pixel a cell of what its taps meet."""
        _, _, H, W = x.shape
        reach = self.taps.like(x)
        rows = torch.arange(H, device=x.device, dtype=x.dtype)[:, None, None] + scale[..., None] * reach  # (B, H, W, k)
        columns = torch.arange(W, device=x.device, dtype=x.dtype)[:, None] + scale[..., None] * reach
        shape = (*scale.shape, self.kernel_size, self.kernel_size)
        grid = torch.stack(
            (
                ((2 * columns + 1) / W - 1)[..., None, :].expand(shape),
                ((2 * rows + 1) / H - 1)[..., None].expand(shape),
            ),
            -1,
        )  # (B, H, W, k, k, 2)
        grid = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        y = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return y.contiguous(memory_format=torch.channels_last)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        scale_output(self.conv, scale, shift)
        return True
