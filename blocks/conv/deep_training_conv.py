"""VanillaNet's deep training: two convolutions with an activation between them that vanishes, after which they are one.

Paper: arXiv:2305.12972 (section 3.1). Upstream: huawei-noah/VanillaNet (MIT).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import Chain
from blocks.conv.conv import Conv, Padding
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "vanishing_relu",
    kind="act",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2305.12972",
    covers=("deep_training_activation",),
)
class VanishingRelu(nn.Module):
    """y = x where x > 0, slope * x elsewhere; slope rises from 0 to 1, where y is x, over the share `until` of training.  (eq. 1)

    Any shape -> the same shape. `anneal` moves the slope, along a straight line or a cosine; where nobody anneals it is 1.
    It is no part of the state. `fuse()` leaves nothing of it, once it is 1.
    """

    def __init__(
        self, *, until: Annotated[float, Meta(gt=0, le=1)] = 1 / 3, law: Literal["linear", "cosine"] = "linear"
    ):
        super().__init__()
        self.until, self.law, self.slope = until, law, 1.0

    def anneal(self, share: float) -> None:
        way = min(1.0, share / self.until)
        self.slope = way if self.law == "linear" else (1 - math.cos(math.pi * way)) / 2

    def forward(self, x: Tensor) -> Tensor:
        return x if self.slope == 1 else F.leaky_relu(x, self.slope)

    def fuse(self) -> nn.Module | None:
        return None if self.slope == 1 else self


@block(
    "deep_training_conv",
    kind="whole",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2305.12972",
    covers=("vanillanet",),
)
class DeepTrainingConv(Chain):
    """y = norm(W_2 act(norm(W_1 * x + b_1)) + b_2): a k x k convolution and a pointwise one.

    (B, C, H, W) -> (B, out_dim, H', W'), H' as `conv` has it. The width between them is that of the input, or of the output where
    `of` says so. `fuse()` folds the norms and, where the activation has vanished, makes one k x k convolution of both.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Count = 1,
        stride: Count = 1,
        padding: Padding | None = None,
        of: Literal["dim", "out_dim"] = "dim",
        norm: Norm | None = slot("batch_norm"),
        act: Act | None = slot("vanishing_relu"),
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        width = dim if of == "dim" else self.out_dim
        steps = {
            "conv1": Conv(dim, width, kernel_size=kernel_size, stride=stride, padding=padding),
            "norm1": norm(width) if norm else None,
            "act": act(width) if act else None,
            "conv2": Conv(width, self.out_dim, kernel_size=1),
            "norm2": norm(self.out_dim) if norm else None,
        }
        for name, module in steps.items():
            if module is not None:
                self.add_module(name, module)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        super().fuse()
        if list(self._modules) != ["conv1", "conv2"]:
            return self
        first, second = self.conv1, self.conv2
        mix = second.weight.flatten(1)  # type: ignore[operator, union-attr]
        first.weight = nn.Parameter(torch.einsum("om,mikl->oikl", mix, first.weight), requires_grad=False)  # type: ignore[arg-type]
        first.bias = nn.Parameter(mix @ first.bias + second.bias, requires_grad=False)  # type: ignore[operator]
        first.out_channels = first.out_dim = self.out_dim  # type: ignore[assignment]
        return first  # type: ignore[return-value]

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        last = next(reversed(self._modules))
        return last == "conv2" and bool(self.conv2.absorb_output(scale, shift))  # type: ignore[operator]
