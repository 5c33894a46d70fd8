"""Convolutions of images: plain, depthwise, and with a norm and an activation behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import Chain
from blocks.folding import scale_output
from blocks.registry import block
from blocks.registry.slots import Act, Norm

Count = Annotated[int, Meta(ge=1)]
Kernel = Count | Annotated[list[Count], Meta(min_length=2, max_length=2)]
Padding = Annotated[int, Meta(ge=0)] | Literal["same"]
Ratio = Annotated[Annotated[float, Meta(gt=0)] | None, Meta(extra_json_schema={"added": "0.1"})]
GroupDim = Annotated[Count | None, Meta(extra_json_schema={"added": "0.1"})]


class StridedPointwise(nn.Conv2d):
    """y = W x at every stride-th pixel: a 1 x 1 convolution without a border takes these pixels, then mixes channels.

    (B, C, H, W) -> (B, out_dim, ceil(H / stride), ceil(W / stride)), as nn.Conv2d, whose gradient on a CPU, in channels_last memory
    and of few channels, oneDNN 3.12 writes outside of its memory (torch 2.13 and 2.14). It is less work, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(strided_pixels(x, self.stride), self.weight, self.bias, groups=self.groups)


def strided_pixels(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Every stride-th pixel of (…, C, H, W). Taken with channels last, so that the gradient, too, is in channels_last memory."""
    down, across = stride
    return x.movedim(-3, -1)[..., ::down, ::across, :].movedim(-1, -3)


def is_strided_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding in ((0, 0), "valid")


class GroupedDilated(nn.Conv2d):
    """y = W * x + b with groups and a dilation: in training in bfloat16 on a CPU it is computed in float32, and y rounded.

    (B, C, H, W) -> (B, out_dim, H', W'), as nn.Conv2d, of whose gradient oneDNN 3.12 (torch 2.13), in channels_last memory and on wide
    maps, leaves parts as they were in memory (`jit_bf16:avx512_core_bf16`, which other processors do not have).
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.weight.requires_grad and is_bfloat16_on_cpu(x):
            return in_float32(self, x)
        return self._conv_forward(x, self.weight, self.bias)


def is_grouped_dilated(conv: nn.Conv2d) -> bool:
    return conv.groups > 1 and conv.dilation != (1, 1)


class FewChannels(nn.Conv2d):
    """y = W * x + b, for which oneDNN lays the columns of a wide kernel over few channels side by side: in bfloat16 on a CPU it is
    computed in float32, and y rounded.

    (B, C, H, W) -> (B, out_dim, H', W'), as nn.Conv2d, whose outputs on CPUs with AMX have nothing to do with x (oneDNN 3.12,
    torch 2.13, `brg_conv_fwd:avx10_1_512_amx`), as of patches of 16 x 16 pixels in four channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        return in_float32(self, x) if is_bfloat16_on_cpu(x) else self._conv_forward(x, self.weight, self.bias)


def is_of_few_channels(conv: nn.Conv2d) -> bool:
    """Whether a row of the kernel, all channels of it, fills AMX's tiles of 32 numbers, and the channels alone do not."""
    dim, columns = conv.in_channels // conv.groups, conv.kernel_size[1]
    return dim < 32 < dim * columns and dim * columns % 32 == 0


class Strided(nn.Conv2d):
    """y = W * x + b with a stride: in bfloat16 on a CPU, maps of at most one stride are computed in float32, and y rounded.

    So are maps of which one row or column is left, and all where the stride is more than four and there is a border.

    (B, C, H, W) -> (B, out_dim, H', W'), as nn.Conv2d, of whose weight oneDNN 3.12 (torch 2.13) leaves parts of the gradient as they
    were in memory, or writes outside of its memory (7 x 7 with a stride of 7 and a border of 3). With AMX, y is not finite or has nothing to
    do with x where it is one column of several rows (3 x 3 with a stride of 2 over three columns, without a border).
    """

    def forward(self, x: Tensor) -> Tensor:
        if is_bfloat16_on_cpu(x) and (has_far_steps(self) or is_one_step(x, self)):
            return in_float32(self, x)
        return self._conv_forward(x, self.weight, self.bias)


def is_strided(conv: nn.Conv2d) -> bool:
    return conv.stride != (1, 1)


def has_far_steps(conv: nn.Conv2d) -> bool:
    return max(conv.stride) > 4 and conv.padding not in ((0, 0), "valid")


def is_one_step(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether x is at most as high or as wide as a stride, or one row or column of it is left."""
    borders = (0, 0) if isinstance(conv.padding, str) else conv.padding
    sides = zip(x.shape[-2:], conv.kernel_size, conv.stride, borders, conv.dilation, strict=True)
    return any(size <= max(step, step + d * (k - 1) - 2 * border) for size, k, step, border, d in sides)


def is_bfloat16_on_cpu(x: Tensor) -> bool:
    """Whether a convolution of x is computed in bfloat16, as autocast may have it, on a CPU."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype is not torch.float64
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    return dtype is torch.bfloat16 and x.is_cpu


def in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of x in float32, rounded to bfloat16."""
    with torch.autocast("cpu", enabled=False):
        bias = None if conv.bias is None else conv.bias.float()
        return conv._conv_forward(x.float(), conv.weight.float(), bias).to(torch.bfloat16)


def use_right_gradients(model: nn.Module) -> None:
    """Turns torch's own convolutions of a model that a CPU gets wrong, in place, into ours; their state stays as it is."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _right(module, nn.Conv2d, StridedPointwise, FewChannels, GroupedDilated, Strided)


def _right(
    conv: nn.Conv2d, plain: type, pointwise: type, few_channels: type, grouped_dilated: type, strided: type
) -> type:
    """The one of these classes whose outputs and gradients are right for a convolution of these sizes."""
    if is_strided_pointwise(conv):
        return pointwise
    if is_of_few_channels(conv):
        return few_channels
    if is_grouped_dilated(conv):
        return grouped_dilated
    return strided if is_strided(conv) else plain


def conv2d(dim: int, out_dim: int, kernel_size: int | tuple[int, int], **arguments: Any) -> nn.Conv2d:
    """A convolution inside a block: torch's own, with its arguments, in the form whose outputs and gradients are right on a CPU."""
    conv = nn.Conv2d(dim, out_dim, kernel_size, **arguments)
    use_right_gradients(conv)
    return conv


@block("conv", kind="token_mixer", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class Conv(nn.Conv2d):
    """y = W * x + b: a k x k convolution with zero padding.

    (B, C, H, W) -> (B, out_dim, H', W') with H' = floor((H + 2 padding - dilation (k - 1) - 1) / stride) + 1. A kernel of
    unlike sides is [rows, columns]. If no `padding` is stated, stride 1 keeps the size of an odd kernel, and a kernel as wide
    as its stride cuts patches without a border; "same" gives H' = ceil(H / stride) for any kernel, with the longer border
    below and to the right. With `group_dim` the groups are as many as have that width, at least one. Raises ValueError when
    `groups` does not divide both widths.
    """

    fresh = True

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Kernel = 3,
        stride: Count = 1,
        padding: Padding | None = None,
        dilation: Count = 1,
        groups: Count = 1,
        bias: bool = True,
        group_dim: GroupDim = None,
    ):
        out_dim = out_dim or dim
        groups = groups if group_dim is None else max(1, dim // group_dim)
        for width in (dim, out_dim):
            if width % groups:
                near = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - groups))
                raise ValueError(
                    f"{groups} groups do not divide {width} channels; the nearest number that does is {near}"
                )
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        border: Any = padding
        if padding is None:
            cuts = rows == columns == stride
            border = (0, 0) if cuts else (dilation * (rows - 1) // 2, dilation * (columns - 1) // 2)
        fits = padding == "same" and stride > 1
        super().__init__(dim, out_dim, (rows, columns), stride, 0 if fits else border, dilation, groups, bias)
        self.out_dim = out_dim
        if fits:
            self.__class__ = FittedConv
        elif type(self) is Conv:
            self.__class__ = _right(self, Conv, StridedPointwiseConv, FewChannelsConv, GroupedDilatedConv, StridedConv)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        scale_output(self, scale, shift)
        return True

    @torch.no_grad()
    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        """Only without a border: zero padding comes after the map, and stays zero where the map would not."""
        if self.padding != (0, 0):
            return False
        grouped = self.weight.unflatten(0, (self.groups, -1))
        scale, shift = (value.to(self.weight).view(self.groups, 1, -1, 1, 1) for value in (scale, shift))
        moved = (grouped * shift).sum((2, 3, 4)).flatten()
        self.weight = nn.Parameter((grouped * scale).flatten(0, 1), requires_grad=False)
        self.bias = nn.Parameter(moved if self.bias is None else self.bias + moved, requires_grad=False)
        return True

    @torch.no_grad()
    def absorb_skip(self, scale: Tensor | float, skip: Tensor | float) -> bool:
        """Only where each channel has its own kernel, which keeps the size: x itself is a kernel with one tap."""
        size, (dilation, *_) = self.kernel_size[0], self.dilation
        same = self.stride == (1, 1) and self.padding == (dilation * (size - 1) // 2,) * 2
        if not (self.groups == self.in_channels == self.out_channels and same and size % 2):
            return False
        scale, skip = (torch.as_tensor(value).to(self.weight) for value in (scale, skip))
        scale_output(self, scale, torch.zeros_like(scale))
        self.weight[:, 0, size // 2, size // 2] += skip
        return True


class StridedPointwiseConv(StridedPointwise, Conv):
    """What `conv` is with a 1 x 1 kernel and a stride."""


class FewChannelsConv(FewChannels, Conv):
    """What `conv` is with a wide kernel over few channels."""


class GroupedDilatedConv(GroupedDilated, Conv):
    """What `conv` is with groups and a dilation."""


class StridedConv(Strided, Conv):
    """What `conv` is with a stride."""


def fitted(x: Tensor, reach: Sequence[int], stride: Sequence[int], fill: float = 0.0) -> Tensor:
    """(B, C, H, W) with the border that windows of `reach` rows and columns need for ceil(H / stride) of them, the longer side below and
    to the right."""
    borders = []
    for axis in (1, 0):
        size = x.shape[axis - 2]
        missing = max((size - 1) // stride[axis] * stride[axis] + reach[axis] - size, 0)
        borders += [missing // 2, missing - missing // 2]
    return F.pad(x, borders, value=fill) if any(borders) else x


class FittedConv(StridedConv):
    """What `conv` is with a stride and the border "same", which depends on the size of x: TensorFlow's."""

    def forward(self, x: Tensor) -> Tensor:
        reach = [dilation * (size - 1) + 1 for dilation, size in zip(self.dilation, self.kernel_size, strict=True)]
        return super().forward(fitted(x, reach, self.stride))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """B ceil(H / stride) ceil(W / stride) out_dim (C / groups) k k."""
        B, _, H, W = shape
        down, across = self.stride
        return {"convolution": B * -(-H // down) * -(-W // across) * self.weight.numel()}

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return False


@block("conv_norm_act", kind="whole", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class ConvNormAct(Chain):
    """y = act(norm(W * x + b)): a convolution with what follows it, either of which may be left out.

    (B, C, H, W) -> (B, out_dim, H', W'), as `conv`. With `ratio` the width is the whole number nearest to ratio * C.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Kernel = 3,
        stride: Count = 1,
        padding: Padding | None = None,
        dilation: Count = 1,
        groups: Count = 1,
        bias: bool = True,
        norm: Norm | None = None,
        act: Act | None = None,
        group_dim: GroupDim = None,
        ratio: Ratio = None,
    ):
        super().__init__()
        self.conv = Conv(
            dim,
            out_dim if ratio is None else max(1, round(ratio * dim)),
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            group_dim=group_dim,
        )
        self.out_dim = self.conv.out_dim
        if norm is not None:
            self.norm = norm(self.out_dim)
        if act is not None:
            self.act = act(self.out_dim)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return list(self._modules) == ["conv"] and self.conv.absorb_output(scale, shift)

    def absorb_skip(self, scale: Tensor | float, skip: Tensor | float) -> bool:
        return list(self._modules) == ["conv"] and self.conv.absorb_skip(scale, skip)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.conv.absorb_input(scale, shift)


@block("depthwise_conv", kind="token_mixer", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class DepthwiseConv(ConvNormAct):
    """y = act(norm(W_c * x_c + b_c)): each channel has its own k x k kernel.

    (B, C, H, W) -> (B, C, H', W'), as `conv`; stride 1 keeps the size of an odd kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: Count = 3,
        stride: Count = 1,
        dilation: Count = 1,
        bias: bool = True,
        norm: Norm | None = None,
        act: Act | None = None,
        padding: Annotated[Padding | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__(
            dim, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, groups=dim, bias=bias, norm=norm,
            act=act,
        )  # fmt: skip
