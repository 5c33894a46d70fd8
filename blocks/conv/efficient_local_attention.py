"""Efficient local attention: every pixel weighed by what stands in its row and in its column.

Paper: arXiv:2403.01123. Upstream: Xuwei86/ELA_Code (Apache-2.0), whose names the parameters have.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.registry import block
from blocks.registry.slots import Act, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "efficient_local_attention",
    kind="channel_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2403.01123",
    covers=("ela", "efficient_localization_attention"),
)
class EfficientLocalAttention(nn.Module):
    """y(i, j) = x(i, j) a(i) b(j), a = gate(GN(w * row means)), b = gate(GN(w * column means)): one convolution w along both sides.

    (B, C, H, W) -> (B, C, H, W). `group_dim` neighbouring channels are mixed by w, of k = `kernel_size` taps with zeros beyond both ends;
    `groups` are those of the group norm GN. The paper's T has 5 taps, a group_dim of 1 and 32 groups, B 7, 1 and 16, S 5, 8 and 16,
    L 7, 8 and 16. Raises ValueError for an even kernel, which has no centre, and when `group_dim` or `groups` do not divide C.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 7,
        group_dim: Count = 8,
        groups: Count = 16,
        gate: Act = slot("sigmoid"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        check_divides("group_dim", group_dim, "dim", dim)
        check_divides("groups", groups, "dim", dim)
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim // group_dim, bias=False)
        self.gn = nn.GroupNorm(groups, dim)
        self.gate = gate(dim)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        down, across = self._weights(x.mean(3)), self._weights(x.mean(2))
        return x * down.unsqueeze(3) * across.unsqueeze(2)

    def _weights(self, means: Tensor) -> Tensor:
        """(B, C, L) means of rows or columns -> their weights."""
        return run(self.gate, self.gn(self.conv(means)))
