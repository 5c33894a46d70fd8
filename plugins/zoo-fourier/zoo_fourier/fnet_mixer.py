"""The mixer of FNet: the real part of a Fourier transform, and nothing to learn. Paper: arXiv:2105.03824."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import blocks


@blocks.block(
    "fourier/fnet_mixer@1",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2105.03824",
)
class FnetMixer(nn.Module):
    """y = Re fft_tokens(fft_channels(x)), equation 3 of the paper.

    (B, L, C) -> (B, L, C), computed in float32 at least. Not scaled, so values grow by up to sqrt(L C): norms follow or precede it.
    """

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """One complex transform of L * C points, in FLOPs."""
        batch, length, channels = shape
        points = length * channels
        return {"fft": int(5 * batch * points * math.log2(max(points, 2)))}

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():  # torch has no Fourier transform of nothing
            return x
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.fft.fft2(x.to(wide)).real.to(x.dtype).contiguous()  # the real parts lie between the others
