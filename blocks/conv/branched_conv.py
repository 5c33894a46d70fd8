"""Convolutions that are trained as parallel branches and deployed as one: those of RepVGG, MobileOne, RepLKNet and RepGhost.

Papers: arXiv:2206.04040, arXiv:2101.03697, arXiv:2203.06717, arXiv:2211.06088. Upstream: apple/ml-mobileone (Apple's sample code
licence), DingXiaoH/RepVGG, DingXiaoH/RepLKNet-pytorch, ChengpengChen/RepGhost (MIT).
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import Chain, run
from blocks.context import Context
from blocks.conv.conv import Conv, ConvNormAct
from blocks.primitives.norms import BatchNorm
from blocks.registry import block
from blocks.registry.slots import Act, Mixer

Count = Annotated[int, Meta(ge=1)]
Small = Annotated[int, Meta(ge=0, le=63, extra_json_schema={"added": "0.1"})]
Added = Annotated[bool, Meta(extra_json_schema={"added": "0.1"})]
Eps = Annotated[float, Meta(gt=0, extra_json_schema={"added": "0.1"})]
"""Of the batch norms."""


@block(
    "branched_conv",
    kind="whole",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2206.04040",
    covers=("repvgg", "mobileone"),
)
class BranchedConv(nn.Module):
    """y = act(gate(sum_b BN_b(W_b * x) + BN_s(S * x) + BN_x(x))): k x k branches b, a small branch S, and x itself.

    (B, C, H, W) -> (B, out_dim, H', W'). S is `small` x `small`, and there when k is more than that; 0 leaves it out. x itself is there
    when neither width nor size change, unless `identity` is false. `gate` is squeeze and excite, or nothing.
    `fuse()` adds the branches up to one k x k convolution with bias. Raises ValueError for an even kernel, whose centre is
    between two taps, and when `groups` does not divide both widths.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Count = 3,
        stride: Count = 1,
        groups: Count = 1,
        branches: Count = 1,
        gate: Mixer | None = None,
        act: Act | None = None,
        small: Small = 1,
        identity: Added = True,
        eps: Eps = 1e-5,
    ):
        super().__init__()
        for name, size in (("kernel_size", kernel_size), ("small", small or 1)):
            if size % 2 == 0:
                raise ValueError(f"{name} = {size} is even; the nearest that has a centre is {size + 1}")
        self.dim, self.out_dim = dim, out_dim or dim
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        self.branches = nn.ModuleList(self._branch(kernel_size, eps) for _ in range(branches))
        self.scale = self._branch(small, eps) if 0 < small < kernel_size else None
        self.identity = BatchNorm(dim, eps=eps) if identity and self.out_dim == dim and stride == 1 else None
        self.gate = gate(self.out_dim) if gate else None
        self.act = act(self.out_dim) if act else None

    def _branch(self, kernel_size: int, eps: float) -> Chain:
        branch = Chain()
        branch.conv = Conv(
            self.dim, self.out_dim, kernel_size=kernel_size, stride=self.stride, padding=kernel_size // 2,
            groups=self.groups, bias=False,
        )  # fmt: skip
        branch.norm = BatchNorm(self.out_dim, eps=eps)
        return branch

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        first, *others = self.branches
        y = first(x)
        for branch in (*others, self.scale, self.identity):
            if branch is not None:
                y += branch(x)
        if self.gate is not None:
            y = run(self.gate, y, ctx)
        return y if self.act is None else self.act(y)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        fused = ConvNormAct(
            self.dim, self.out_dim, kernel_size=self.kernel_size, stride=self.stride, padding=self.kernel_size // 2,
            groups=self.groups,
        )  # fmt: skip
        convs: list[Conv] = [branch.conv for branch in self.branches]  # type: ignore[misc]  # their norms are folded by now
        weight = torch.stack([conv.weight for conv in convs]).sum(0)
        bias = torch.stack([conv.bias for conv in convs if conv.bias is not None]).sum(0)
        if self.scale is not None:
            small: Any = self.scale.conv
            weight += F.pad(small.weight, [(self.kernel_size - small.kernel_size[0]) // 2] * 4)
            bias += small.bias
        if self.identity is not None:
            scale, shift = self.identity.as_affine()
            inputs = self.dim // self.groups
            index = torch.arange(self.dim)
            weight[index, index % inputs, self.kernel_size // 2, self.kernel_size // 2] += scale
            bias += shift
        fused.conv.weight, fused.conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
        for name in ("gate", "act"):
            if getattr(self, name) is not None:
                fused.add_module(name, getattr(self, name))
        return fused


@block(
    "branched_depthwise_conv",
    kind="whole",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2206.04040",
    covers=("mobileone", "replknet", "reparam_large_kernel_conv", "repghost", "repghostnet"),
)
class BranchedDepthwiseConv(BranchedConv):
    """The same where each channel has its own kernels: with `small` = 5 and no `identity` RepLKNet's, with 0 RepGhost's.

    (B, C, H, W) -> (B, C, H', W').
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: Count = 3,
        stride: Count = 1,
        branches: Count = 1,
        gate: Mixer | None = None,
        act: Act | None = None,
        small: Small = 1,
        identity: Added = True,
    ):
        super().__init__(
            dim, kernel_size=kernel_size, stride=stride, groups=dim, branches=branches, gate=gate, act=act, small=small,
            identity=identity,
        )  # fmt: skip
