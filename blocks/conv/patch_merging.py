"""The downsampling of EfficientViT and EfficientViM: an inverted bottleneck of stride 2 with squeeze and excite.

Papers: arXiv:2305.07027, arXiv:2411.15241. Upstream: microsoft/Cream/EfficientViT, mlvlab/EfficientViM (MIT).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from blocks.chain import Chain
from blocks.conv.conv import DepthwiseConv
from blocks.registry import block
from blocks.registry.slots import Act, Linear, Mixer, Norm, slot


@block(
    "patch_merging",
    kind="downsample",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2305.07027",
)
class PatchMerging(Chain):
    """y = norm2(W_2 se(act(norm(DW_k act(norm1(W_1 x)))))), DW_k a depthwise convolution with a stride.

    (B, C, H, W) -> (B, out_dim, H', W'), H' as `conv` has it. The hidden width is int(ratio * C), or int(ratio * out_dim)
    where `of` says so. `norm` stands behind each of the three, which have a bias only without it.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        of: Literal["dim", "out_dim"] = "dim",
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        stride: Annotated[int, Meta(ge=1)] = 2,
        act: Act | None = slot("relu"),
        norm: Norm | None = slot("batch_norm"),
        se: Mixer | None = slot("squeeze_excite", ratio=0.25),
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        hidden_dim, bias = int(ratio * (dim if of == "dim" else self.out_dim)), norm is None
        steps = {
            "fc1": linear(dim, hidden_dim, bias=bias),
            "norm1": norm(hidden_dim) if norm else None,
            "act": act(hidden_dim) if act else None,
            "conv": DepthwiseConv(hidden_dim, kernel_size=kernel_size, stride=stride, bias=bias, norm=norm, act=act),
            "se": se(hidden_dim) if se else None,
            "fc2": linear(hidden_dim, self.out_dim, bias=bias),
            "norm2": norm(self.out_dim) if norm else None,
        }
        for name, module in steps.items():
            if module is not None:
                self.add_module(name, module)
