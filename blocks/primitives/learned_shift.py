"""Numbers that are added: one for all of a map, or one for each pixel. Paper: arXiv:2401.17948 (Terminator)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blocks.primitives.positions import resized_grid
from blocks.registry import block
from blocks.registry.errors import SizeError


@block("learned_shift", kind="act", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2401.17948")
class LearnedShift(nn.Module):
    """y = x + shift with one learned number, 0 at first. Any shape -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift

    def as_affine(self) -> tuple[Tensor, Tensor]:
        shift = self.shift.detach()
        return torch.ones_like(shift), shift


@block("pixel_shift", kind="embed", abilities=("causal", "noncausal"), paper="arXiv:2401.17948")
class PixelShift(nn.Module):
    """y = x + shift_p, one learned number for each position, the same for all channels, 0 at first.

    (B, C, H, W) or (B, L, C) -> the same shape, for the one size it was built for. Raises SizeError for another; `resize_table` fits
    the numbers of another image size.
    """

    no_decay = ("shift",)

    def __init__(self, dim: int, *, input_size: tuple[int, ...] = (32, 32)):
        super().__init__()
        self.input_size = tuple(input_size)
        self.shift = nn.Parameter(torch.empty(1, math.prod(input_size), 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:] if x.ndim == 4 else x.shape[1:2])
        if size != self.input_size:
            raise SizeError(
                f"these numbers are for inputs of size {self.input_size} and meet {size}; build the model with that input size"
            )
        return x + (self.shift.view(1, 1, *size) if x.ndim == 4 else self.shift)

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: PixelShift | None = None
    ) -> Tensor | None:
        """The numbers of another image size, for this one; None for a sequence."""
        if name != "shift" or tensor.ndim != 3 or len(self.input_size) != 2:
            return None
        return resized_grid(tensor, self.input_size, old.input_size if old is not None else None)
