"""Feature maps of linear attention: phi with phi(q) . phi(k) in the place of exp(q . k / sqrt(K)).

    elu        elu(x) + 1                                   arXiv:2006.16236
    relu       relu(x)
    relu2      relu(x)^2
    taylor     [1, x, x (x) x / sqrt 2] of x K^(-1/4): the exponential to second order, as in Based   arXiv:2402.18668
    rebased    x (x) x of x K^(-1/4), the square of a product                          arXiv:2402.10644
    favor      exp(Omega x - |x|^2 / 2) / sqrt(m) of x K^(-1/4), Omega (m, K) random and orthogonal   arXiv:2009.14794
    hedgehog   softmax [W x, -W x], W learned per head                                  arXiv:2402.04347
    cosformer  relu(x) [cos, sin](pi i / 2 M) at position i of M                        arXiv:2202.08791

B is here the batch, H the number of heads, K the width of a query or key.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.primitives.orthogonal import orthonormal

FeatureMap = Literal["elu", "relu", "relu2", "taylor", "rebased", "favor", "hedgehog", "cosformer"]


def plain(x: Tensor, feature_map: str) -> Tensor:
    """The features (…, F) of x (…, K), by a map that has neither parameters nor positions."""
    if feature_map == "elu":
        return F.elu(x) + 1
    if feature_map == "relu":
        return F.relu(x)
    if feature_map == "relu2":
        return F.relu(x).square()
    x = x * x.shape[-1] ** -0.25
    if feature_map == "rebased":
        return products(x)
    return torch.cat([torch.ones_like(x[..., :1]), x, products(x) / math.sqrt(2)], -1)


def products(x: Tensor) -> Tensor:
    """(…, K) -> (…, K^2): every channel times every channel."""
    return (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def width_of(feature_map: str, keys: int) -> int:
    """How many features come of keys of a width."""
    many = {"taylor": 1 + keys + keys**2, "rebased": keys**2, "favor": favor_features(keys)}
    return many.get(feature_map, 2 * keys if feature_map in ("hedgehog", "cosformer") else keys)


def favor_features(keys: int) -> int:
    """K log K random features, as many as the paper advises."""
    return max(1, round(keys * math.log(keys)))


class Favor(nn.Module):
    """exp(Omega x - |x|^2 / 2) / sqrt(m). `redraw()` takes other features.

    Rows of Omega are orthogonal in blocks of K and as long as normal ones, which makes products of features exp(q . k) on
    average. Of a query the largest exponent is subtracted, which cancels against the normaliser.
    """

    omega: Tensor

    def __init__(self, keys: int):
        super().__init__()
        self.keys = keys
        self.register_buffer("omega", torch.empty(favor_features(keys), keys))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        if self.omega.is_meta:
            return
        count, device = len(self.omega), self.omega.device
        square = torch.randn(-(-count // self.keys), self.keys, self.keys, device=device)
        lengths = torch.randn(count, self.keys, device=device).norm(dim=1, keepdim=True)
        self.omega.copy_(orthonormal(square).flatten(0, 1)[:count] * lengths)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"matmul": math.prod(shape) * len(self.omega)}

    def forward(self, x: Tensor, query: bool) -> Tensor:
        x = x * self.keys**-0.25
        exponent = x @ self.omega.to(x.dtype).T - x.square().sum(-1, keepdim=True) / 2
        if query:
            exponent = exponent - exponent.amax(-1, keepdim=True).detach()
        return torch.exp(exponent) * len(self.omega) ** -0.5


class Hedgehog(nn.Module):
    """softmax [W x, -W x] with a W (K, K) per head, at first the identity."""

    def __init__(self, num_heads: int, keys: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, keys, keys))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.copy_(torch.eye(self.weight.shape[1], device=self.weight.device).expand_as(self.weight))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"matmul": math.prod(shape) * shape[-1]}

    def forward(self, x: Tensor, query: bool) -> Tensor:
        x = x @ self.weight.to(x.dtype).mT
        return torch.cat([x, -x], -1).softmax(-1)


def reweighted(x: Tensor, positions: Tensor, length: float) -> Tensor:
    """relu(x) [cos, sin](pi i / 2 M) for x (B, H, L, K) at positions i (B, L), M = `length`; beyond M as at M."""
    angle = (positions.to(x.dtype) / length).clamp(max=1.0) * (math.pi / 2)
    angle = angle[:, None, :, None]
    x = F.relu(x)
    return torch.cat([x * angle.cos(), x * angle.sin()], -1)
