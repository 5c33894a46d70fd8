"""Shifts of whole channels, of which most end as none: what mixes neighbours at no cost between 1 x 1 convolutions.

Paper: arXiv:1903.05285, after arXiv:1806.07370 (shifts that are learned). No official code.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.registry import block


@block(
    "sparse_shift",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1903.05285",
    covers=("ssl", "fe_net", "active_shift"),
)
class SparseShift(nn.Module):
    """y_c(i, j) = x_c(i + round(a_c), j + round(b_c)), zero beyond the border, with a learned `shift` (C, 2) of (a, b), up to `reach`.

    (B, C, H, W) -> (B, C, H, W). The gradient of a and b is that of bilinear interpolation between the four pixels around (i + a, j + b),
    which the forward pass rounds to one (quantisation-aware learning). In training `ctx` gets the auxiliary loss penalty * sum |shift|,
    under which most shifts end at 0. They start even between -1 and 1.
    """

    no_decay = ("shift",)
    path = ""

    def __init__(
        self,
        dim: int,
        *,
        reach: Annotated[int, Meta(ge=1, le=15)] = 1,
        penalty: Annotated[float, Meta(ge=0)] = 5e-4,
    ):
        super().__init__()
        self.reach, self.penalty = reach, penalty
        self.shift = nn.Parameter(torch.empty(dim, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.shift, -1, 1)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.training and ctx is not None and self.penalty:
            ctx.losses[self.path] = {"shift": self.penalty * self.shift.abs().sum()}
        shift = self.shift.clamp(-self.reach, self.reach)
        y = self._moved(x, shift.round())
        if torch.is_grad_enabled() and self.shift.requires_grad:
            smooth = self._between(x.detach(), shift)
            y = y + (smooth - smooth.detach())  # nothing, with the gradient of interpolation
        return y

    def _between(self, x: Tensor, shift: Tensor) -> Tensor:
        """x at (i + a, j + b), bilinear between pixels."""
        start = shift.detach().floor()
        a, b = (shift - start).to(x.dtype).view(1, -1, 1, 1, 2).unbind(-1)
        steps = [(0, 0, (1 - a) * (1 - b)), (0, 1, (1 - a) * b), (1, 0, a * (1 - b)), (1, 1, a * b)]
        places = [(start + start.new_tensor((down, across)), weight) for down, across, weight in steps]
        return sum(
            (weight * self._moved(x, place) for place, weight in places[1:]),
            places[0][1] * self._moved(x, places[0][0]),
        )

    def _moved(self, x: Tensor, steps: Tensor) -> Tensor:
        """x_c(i + a_c, j + b_c) for whole `steps` (C, 2) of (a, b), each up to `reach` + 1, zero beyond the border."""
        B, C, H, W = x.shape
        edge = self.reach + 1
        image = F.pad(x.permute(0, 2, 3, 1), (0, 0, edge, edge, edge, edge))  # (B, H', W', C)
        down, across = (steps.detach().long() + edge).unbind(1)
        rows = torch.arange(H, device=x.device)[:, None, None] + down
        columns = torch.arange(W, device=x.device)[:, None] + across
        places = (rows * (W + 2 * edge) + columns).flatten(0, 1)  # (H W, C)
        y = image.flatten(1, 2).gather(1, places.expand(B, H * W, C))
        return y.unflatten(1, (H, W)).permute(0, 3, 1, 2)
