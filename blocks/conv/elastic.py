"""Maps that hold the weights of a larger net and read the leading ones: a subnet has the state of its supernet.

Two subnets of one supernet have the same tensors under the same names, so that either runs on the other's state. The deploy form holds
what is read and nothing else. Paper: arXiv:2103.13581 (EfficientTDNN). Upstream: mechanicalsea/sugar (MIT).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.primitives.linears import EVERYWHERE, Dense
from blocks.primitives.norms import BatchNorm, _map_of, _refuse_one_value, _tokens_of
from blocks.recurrent import zero_padding
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


class Axis(Struct, frozen=True, forbid_unknown_fields=True):
    """The channels of the supernet: `dim` of them in `pieces` of one width, of which the first `kept` are read, all where nothing is said.

    Of each piece the leading channels are read, as many as there are here divided by the pieces kept."""

    dim: Count
    pieces: Count = 1
    kept: Count | None = None


def checked(size: int, axis: Axis | None) -> Axis:
    """The axis that `size` channels are read from, `size` channels themselves without one. Raises ValueError for more than it has."""
    if axis is None:
        return Axis(size)
    kept = axis.kept or axis.pieces
    if axis.dim % axis.pieces or kept > axis.pieces or size % kept or size // kept > axis.dim // axis.pieces:
        raise ValueError(
            f"{size} channels are not the leading ones of {kept} of {axis.pieces} pieces of {axis.dim} channels"
        )
    return axis


def pieces(x: Tensor, dim: int, size: int, axis: Axis) -> Tensor:
    """What a subnet reads of x along `dim`, as (kept, size / kept): a view."""
    kept = axis.kept or axis.pieces
    return x.unflatten(dim, (axis.pieces, -1)).narrow(dim, 0, kept).narrow(dim + 1, 0, size // kept)


def leading(x: Tensor, dim: int, size: int, axis: Axis) -> Tensor:
    """The `size` entries of x along `dim` that a subnet reads."""
    return x if size == axis.dim else pieces(x, dim, size, axis).flatten(dim, dim + 1)


@block(
    "elastic_conv",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2103.13581",
    covers=("efficienttdnn", "dynamic_convolution"),
)
class ElasticConv(nn.Module):
    """y_t = sum_i W_i x_{t + dilation (i - (k - 1) / 2)}, W the leading channels of a kernel of `of_kernel` >= k steps, brought to k.

    W <- W[1:-1] M_j brings a kernel from j + 2 steps to j, with M_j (j, j) learned, ones on its diagonal at first: `to_3` from five
    to three, `to_1` from three to one. (B, L, C) -> (B, L, out_dim), zeros beyond both ends, and where padding stands. `of` and
    `of_out` say which channels of the supernet are read. M_j that are not read are held in the state, and nothing trains them.
    `fuse()` leaves one kernel. Raises ValueError for an even kernel, for more than the supernet has, and for a state or packed sequences.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Count = 1,
        dilation: Count = 1,
        of: Axis | None = None,
        of_out: Axis | None = None,
        of_kernel: Count | None = None,
    ):
        super().__init__()
        self.dim, self.out_dim, self.kernel_size, self.dilation = dim, out_dim or dim, kernel_size, dilation
        self.of, self.of_out, whole = checked(dim, of), checked(self.out_dim, of_out), of_kernel or kernel_size
        if kernel_size % 2 == 0 or whole % 2 == 0 or kernel_size > whole:
            raise ValueError(f"a kernel of {kernel_size} steps is not the middle of one of {whole}, both odd")
        self.weight = nn.Parameter(torch.empty(self.of_out.dim, self.of.dim, whole))
        for size in range(whole - 2, 0, -2):
            self.register_parameter(f"to_{size}", nn.Parameter(torch.empty(size, size), size >= kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        for size in range(self.weight.shape[2] - 2, 0, -2):
            nn.init.eye_(getattr(self, f"to_{size}"))

    def cut(self) -> Tensor:
        """(out_dim, C, k): the kernel of this subnet."""
        weight = leading(leading(self.weight, 0, self.out_dim, self.of_out), 1, self.dim, self.of)
        for size in range(self.weight.shape[2] - 2, self.kernel_size - 1, -2):
            weight = weight[:, :, 1:-1] @ getattr(self, f"to_{size}")
        return weight

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The convolution, and the products that bring the kernel to its size."""
        maps = self.dim * self.out_dim
        sizes = range(self.weight.shape[2] - 2, self.kernel_size - 1, -2)
        return {
            "convolution": shape[0] * shape[1] * maps * self.kernel_size,
            "matmul": sum(maps * size * size for size in sizes),
        }

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its kernel looks ahead")
        if type(x) is Tensor and not x.numel():
            return x.new_empty(*x.shape[:2], self.out_dim)
        x = zero_padding(x, token_mask(x, ctx)).transpose(1, 2)
        around = self.dilation * (self.kernel_size // 2)
        return F.conv1d(x, self.cut(), None, 1, around, self.dilation).transpose(1, 2)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        kernel = self.cut()
        for size in range(self.weight.shape[2] - 2, 0, -2):
            delattr(self, f"to_{size}")
        self.weight = nn.Parameter(kernel, requires_grad=False)
        self.of, self.of_out = Axis(self.dim), Axis(self.out_dim)
        return self


@block("elastic_dense", kind="linear", abilities=EVERYWHERE, paper="arXiv:2103.13581", covers=("dynamic_linear",))
class ElasticDense(nn.Module):
    """y = W x + b, W and b the leading channels of a larger map, as `of` and `of_out` say.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. `fuse()` leaves a dense map. Raises ValueError for more
    channels than the supernet has.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        of: Axis | None = None,
        of_out: Axis | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim or dim
        self.of, self.of_out = checked(dim, of), checked(self.out_dim, of_out)
        self.weight = nn.Parameter(torch.empty(self.of_out.dim, self.of.dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.of_out.dim)) if bias else None)
        self.bias: nn.Parameter | None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.of.dim)
            nn.init.uniform_(self.bias, -bound, bound)

    def cut(self) -> tuple[Tensor, Tensor | None]:
        """(out_dim, C) and (out_dim,): the map of this subnet."""
        weight = leading(leading(self.weight, 0, self.out_dim, self.of_out), 1, self.dim, self.of)
        return weight, None if self.bias is None else leading(self.bias, 0, self.out_dim, self.of_out)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"matmul": math.prod(shape) * self.out_dim}

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.cut()
        if x.ndim == 4:
            return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        weight, bias = self.cut()
        map = Dense(self.dim, self.out_dim, bias=bias is not None).to(weight)
        map.weight.copy_(weight)
        if bias is not None:
            map.bias.copy_(bias)
        return map.requires_grad_(False)


@block("elastic_norm", kind="norm", abilities=("noncausal", "any_resolution"), paper="arXiv:2103.13581")
class ElasticNorm(BatchNorm):
    """`batch_norm` of the leading channels of a larger norm, as `of` says; only their moments run.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. Running moments of a subnet are those of all that were trained: they are to
    be measured anew for each. `fuse()` leaves a batch norm. Raises ValueError for more channels than the supernet has.
    """

    def __init__(
        self,
        dim: int,
        *,
        of: Axis | None = None,
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
        momentum: Annotated[float, Meta(gt=0, le=1)] = 0.1,
    ):
        self.of = checked(dim, of)
        super().__init__(self.of.dim, eps=eps, momentum=momentum)
        self.dim = dim

    def cut(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(C,) each: mean, variance, weight and bias of this subnet."""
        tensors = self.running_mean, self.running_var, self.weight, self.bias
        return tuple(leading(tensor, 0, self.dim, self.of) for tensor in tensors)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        if self.dim == self.of.dim:
            return super().forward(x)
        if self.training and type(x) is Tensor and x.numel() <= self.dim:
            _refuse_one_value(self, x)
        mean, var, weight, bias = self.cut()
        if self.training:
            mean, var = mean.clone(), var.clone()
        weight, bias = weight.to(mean.dtype), bias.to(mean.dtype)
        y = F.batch_norm(_map_of(x), mean, var, weight, bias, self.training, self.momentum, self.eps)
        if self.training:
            for whole, moments in ((self.running_mean, mean), (self.running_var, var)):
                own = pieces(whole, 0, self.dim, self.of)
                own.copy_(moments.view_as(own))
        return _tokens_of(y) if x.ndim == 3 else y

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of the evaluation form."""
        mean, var, weight, bias = self.cut()
        scale = weight * (var + self.eps).rsqrt()
        return scale, bias - mean * scale

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        norm = BatchNorm(self.dim, eps=self.eps, momentum=self.momentum).to(self.weight).eval()
        for name, tensor in zip(("running_mean", "running_var", "weight", "bias"), self.cut(), strict=True):
            getattr(norm, name).copy_(tensor)
        return norm.requires_grad_(False)
