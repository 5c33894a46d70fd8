"""Norms: per-channel scale and shift after standardising along channels, batch, groups or the whole map."""

from __future__ import annotations

from typing import Annotated, NoReturn

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.accumulators import Accumulating, accumulator
from blocks.chain import per_channel
from blocks.folding import norm_affine
from blocks.registry import block

Eps = Annotated[float, Meta(gt=0)]


class Affine(nn.Module):
    """Base of the norms: a scale `weight` (C,), ones at first, and a shift `bias` (C,), zeros at first, or None."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, dim: int, eps: float, bias: bool):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(dim)) if bias else None)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        """A map per channel behind the norm is a change of its own; a shift needs a bias to go to."""
        if self.bias is None and shift.any():
            return False
        self.weight = nn.Parameter(self.weight * scale.to(self.weight), requires_grad=False)
        if self.bias is not None:
            self.bias = nn.Parameter(self.bias * scale.to(self.bias) + shift.to(self.bias), requires_grad=False)
        return True


@block("layer_norm", kind="norm", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:1607.06450")
class LayerNorm(Affine):
    """y = weight * (x - mean_C x) / sqrt(var_C x + eps) + bias, over the channels of each position.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. With `outside` eps is added to the root, as CVNets does.
    """

    def __init__(
        self,
        dim: int,
        *,
        eps: Eps = 1e-6,
        bias: bool = True,
        outside: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
    ):
        super().__init__(dim, eps, bias)
        self.outside = outside
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if self.outside:
            return self._with_eps_outside(x)
        if x.ndim == 4:
            y = F.layer_norm(x.permute(0, 2, 3, 1), (self.dim,), self.weight, self.bias, self.eps)
            return y.permute(0, 3, 1, 2)
        return F.layer_norm(x, (self.dim,), self.weight, self.bias, self.eps)

    def _with_eps_outside(self, x: Tensor) -> Tensor:
        axis = 1 if x.ndim == 4 else -1
        variance, mean = torch.var_mean(x, axis, correction=0, keepdim=True)
        y = (x - mean) / (variance.sqrt() + self.eps) * per_channel(self.weight, x)
        return y if self.bias is None else y + per_channel(self.bias, x)


@block("deviation_norm", kind="norm", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2111.09881")
class DeviationNorm(Affine):
    """y = weight * x / sqrt(var_C x + eps), over the channels of each position: `layer_norm` that leaves the mean where it is.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape.
    """

    def __init__(self, dim: int, *, eps: Eps = 1e-6):
        super().__init__(dim, eps, bias=False)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var(1 if x.ndim == 4 else -1, keepdim=True, correction=0)
        return x * torch.rsqrt(variance + self.eps) * per_channel(self.weight, x)


@block("standard_norm", kind="norm", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:1607.06450")
class StandardNorm(nn.Module):
    """y = (x - mean_C x) / sqrt(var_C x + eps), over the channels of each position: a layer norm that learns nothing.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape.
    """

    def __init__(self, dim: int, *, eps: Eps = 1e-5):
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.layer_norm(x.permute(0, 2, 3, 1), (self.dim,), None, None, self.eps).permute(0, 3, 1, 2)
        return F.layer_norm(x, (self.dim,), None, None, self.eps)


@block("rms_norm", kind="norm", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:1910.07467")
class RmsNorm(Affine):
    """y = (offset + weight) * x / sqrt(mean_C x^2 + eps), over the channels of each position.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. The scale is 1 at first: with `offset` 1, as in Gemma, weights start at 0
    and decay towards it.
    """

    def __init__(
        self,
        dim: int,
        *,
        eps: Eps = 1e-6,
        offset: Annotated[float, Meta(extra_json_schema={"added": "0.1"})] = 0.0,
    ):
        super().__init__(dim, eps, bias=False)
        self.offset = offset
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + self.offset if self.offset else self.weight
        if x.ndim == 4:
            return F.rms_norm(x.permute(0, 2, 3, 1), (self.dim,), weight, self.eps).permute(0, 3, 1, 2)
        return F.rms_norm(x, (self.dim,), weight, self.eps)

    @torch.no_grad()
    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        if not super().absorb_output(scale, shift):
            return False
        if self.offset:  # (offset + w) s = offset + (w s + offset s - offset)
            moved = self.weight + self.offset * (scale.to(self.weight) - 1)
            self.weight = nn.Parameter(moved, requires_grad=False)
        return True


@block("group_norm", kind="norm", abilities=("noncausal", "any_resolution"), paper="arXiv:1803.08494")
class GroupNorm(Affine):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, with the moments of each group of channels over all positions.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. Raises ValueError when `groups` does not divide the width.
    """

    def __init__(self, dim: int, *, groups: Annotated[int, Meta(ge=1)] = 1, eps: Eps = 1e-5, bias: bool = True):
        if dim % groups:
            divisors = [count for count in range(1, dim + 1) if dim % count == 0]
            near = min(divisors, key=lambda count: abs(count - groups))
            raise ValueError(f"{groups} groups do not divide {dim} channels; the nearest number that does is {near}")
        super().__init__(dim, eps, bias)
        self.groups = groups
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():  # torch's gradient of nothing is NaN
            return x * per_channel(self.weight, x)
        y = F.group_norm(_map_of(x), self.groups, self.weight, self.bias, self.eps)
        return _tokens_of(y) if x.ndim == 3 else y


@block("batch_norm", kind="norm", abilities=("noncausal", "any_resolution"), paper="arXiv:1502.03167")
class BatchNorm(Affine, Accumulating):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, with the moments of each channel over batch and positions.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. Evaluation uses running moments, where
    running <- (1 - momentum) * running + momentum * batch at each training step. `weight` is the value that the scales
    start from: 0 for the last norm of a branch that is to begin as nothing. Differs from torch's: the number of
    batches is not counted, so the state holds tensors of the network only. Raises ValueError in training for fewer than
    two values of a channel, which have no moments. Running moments stay in float32 (`blocks.accumulators`).
    """

    fresh = True
    path = ""
    pointwise_in_eval = True
    """Moments are, in training, those of all positions, padding among them."""
    accumulators = ("running_mean", "running_var")

    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: Eps = 1e-5,
        momentum: Annotated[float, Meta(gt=0, le=1)] = 0.1,
        weight: Annotated[float, Meta(extra_json_schema={"added": "0.1"})] = 1.0,
    ):
        super().__init__(dim, eps, bias=True)
        self.momentum = momentum
        self.initial = weight
        self.register_buffer("running_mean", accumulator(dim))
        self.register_buffer("running_var", accumulator(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.weight, self.initial)
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and type(x) is Tensor and x.numel() <= self.dim:
            _refuse_one_value(self, x)
        mean, var = self.running_mean, self.running_var
        weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)  # torch wants its four tensors in one type
        y = F.batch_norm(_map_of(x), mean, var, weight, bias, self.training, self.momentum, self.eps)
        return _tokens_of(y) if x.ndim == 3 else y

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of the evaluation form."""
        return norm_affine(self)  # type: ignore[arg-type]  # reads the same four tensors and eps


@block(
    "grn",
    kind="norm",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2301.00808",
    covers=("global_response_norm",),
)
class GlobalResponseNorm(nn.Module):
    """y = x + weight * x * g / (mean_C g + eps) + bias, g = the Euclidean norm of each channel over all positions.

    (B, C, H, W) or (B, L, C) -> the same shape. Both parameters start at zero, which is the identity.
    """

    bias: nn.Parameter | None

    def __init__(self, dim: int, *, eps: Eps = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        positions, channels = ((2, 3), 1) if x.ndim == 4 else ((1,), -1)
        response = torch.linalg.vector_norm(x, dim=positions, keepdim=True)
        relative = response / (response.mean(channels, keepdim=True) + self.eps)
        scale = 1 + per_channel(self.weight, x) * relative
        return x * scale if self.bias is None else torch.addcmul(per_channel(self.bias, x), x, scale)

    def release_shift(self) -> Tensor | None:
        """Takes the bias out of the norm and returns it, for a following linear map to absorb."""
        shift, self.bias = self.bias, None
        return shift


def _refuse_one_value(norm: BatchNorm, x: Tensor) -> NoReturn:
    raise ValueError(
        f"{norm.path or 'this batch_norm'} cannot standardise {x.numel() // norm.dim} values of a channel in training, and "
        f"meets an input of shape {tuple(x.shape)}; next: a batch of at least two, a larger input, or `.eval()`"
    )


def _map_of(x: Tensor) -> Tensor:
    """(B, L, C) as a channels_last map (B, C, L, 1): torch's norms want channels on axis 1, and a view is free."""
    return x.unsqueeze(2).permute(0, 3, 1, 2) if x.ndim == 3 else x


def _tokens_of(y: Tensor) -> Tensor:
    """(B, C, L, 1) -> (B, L, C): the inverse of `_map_of`."""
    return y.permute(0, 2, 3, 1).squeeze(2)
