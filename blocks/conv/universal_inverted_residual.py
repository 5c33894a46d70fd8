"""The inverted bottleneck of MobileNets: an expansion with up to two depthwise convolutions around it, and a gate.

Papers: arXiv:2404.10518 (figure 4), arXiv:1801.04381, arXiv:1905.02244 (with a gate), arXiv:1905.11946. Upstream: tensorflow/models
(Apache-2.0); names of the state are timm's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import Chain, per_channel
from blocks.context import Context
from blocks.conv.conv import ConvNormAct
from blocks.registry import block
from blocks.registry.slots import Act, Mixer, Norm, slot
from blocks.wiring.drop_path import drop_path as dropped

Kernel = Annotated[int, Meta(ge=0, le=63)]
Count = Annotated[int, Meta(ge=1)]


@block(
    "universal_inverted_residual",
    kind="whole",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2404.10518",
    covers=(
        "uib",
        "inverted_residual",
        "inverted_bottleneck",
        "mbconv",
        "mobilenetv2",
        "mobilenetv3",
        "mobilenetv4",
        "efficientnet",
    ),
)
class UniversalInvertedResidual(Chain):
    """y = [x +] scale * P gate(act(D_mid act(E D_start x))), a norm behind each map; D depthwise, E and P pointwise.

    (B, C, H, W) -> (B, out_dim, H', W'); x is added where neither width nor size change. A kernel of 0 leaves its
    convolution out: both out is an MLP, `start` alone ConvNeXt's order, `mid` alone MobileNetV2's; a ratio of 0 leaves E out. `stride` is
    that of `mid`, or of `start` without it. The hidden width is ratio * C to the nearest multiple of `round_to`, not more than a tenth
    down. `gate` is squeeze and excite, or nothing. `scale` (out_dim,) is learned where the value that it starts from is given. `padding` is
    that of `conv`. Raises ValueError for a stride without a convolution to take it.
    """

    scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        start: Kernel = 0,
        mid: Kernel = 3,
        stride: Count = 1,
        ratio: Annotated[float, Meta(ge=0)] = 4.0,
        round_to: Count = 8,
        dilation: Annotated[int, Meta(ge=1, extra_json_schema={"added": "0.1"})] = 1,
        norm: Norm | None = slot("batch_norm"),
        act: Act | None = slot("relu"),
        padding: Annotated[Literal["same"] | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        scale: Annotated[float | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        gate: Annotated[Mixer | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if stride > 1 and not (start or mid):
            raise ValueError(f"a stride of {stride} needs a depthwise convolution: give `mid` or `start` a kernel")
        self.out_dim, self.drop_path = out_dim or dim, drop_path
        self.has_skip = stride == 1 and self.out_dim == dim
        hidden = rounded(dim * ratio, round_to) if ratio else dim
        bias = norm is None
        if start:
            self.dw_start = ConvNormAct(
                dim,
                kernel_size=start,
                stride=1 if mid else stride,
                padding=padding,
                dilation=dilation,
                groups=dim,
                bias=bias,
                norm=norm,
            )
        if ratio:
            self.pw_exp = ConvNormAct(dim, hidden, kernel_size=1, bias=bias, norm=norm, act=act)
        if mid:
            self.dw_mid = ConvNormAct(
                hidden,
                kernel_size=mid,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=hidden,
                bias=bias,
                norm=norm,
                act=act,
            )
        if gate is not None:
            self.gate = gate(hidden, layer_dim=dim)
        self.pw_proj = ConvNormAct(hidden, self.out_dim, kernel_size=1, bias=bias, norm=norm)

        self.initial = scale
        self.register_parameter("scale", None if scale is None else nn.Parameter(torch.empty(self.out_dim)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.scale is not None and self.initial is not None:
            nn.init.constant_(self.scale, self.initial)

    def fuse(self) -> nn.Module:
        super().fuse()
        if self.scale is not None and self.pw_proj.absorb_output(self.scale, torch.zeros_like(self.scale)):  # type: ignore[operator]
            self.scale = None
        return self

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = super().forward(x, ctx)
        if self.scale is not None:
            y = y * per_channel(self.scale, y)
        return x + dropped(y, self.drop_path, self.training) if self.has_skip else y


def rounded(width: float, step: int) -> int:
    """`width` to the nearest multiple of `step`, at least `step`, and never below nine tenths of it."""
    nearest = max(step, int(width + step / 2) // step * step)
    return nearest + step if nearest < 0.9 * width else nearest
