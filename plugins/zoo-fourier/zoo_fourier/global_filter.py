"""The global filter: every frequency of a map times a learned number. Paper: arXiv:2107.00645 (GFNet)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blocks


@blocks.block(
    "fourier/global_filter@1", kind="token_mixer", layout="BCHW", abilities=("noncausal",), paper="arXiv:2107.00645"
)
class GlobalFilter(nn.Module):
    """y = ifft2(K * fft2(x)), both orthonormal: a circular convolution with a kernel as large as the map, for each channel.

    (B, C, H, W) -> (B, C, H, W) for the one size it was built for; `complex_weight` (H, W // 2 + 1, C, 2) holds K, since the transform
    of a real map is symmetric. Computed in float32 at least. Raises ValueError for another size; `resize_table` fits the filter of
    another image size.
    """

    no_decay = ("complex_weight",)

    def __init__(self, dim: int, *, input_size: tuple[int, ...] = (14, 14)):
        super().__init__()
        if len(input_size) != 2:
            raise ValueError(f"a global filter is for maps (H, W), and its input has the size {tuple(input_size)}")
        self.input_size = tuple(input_size)
        self.complex_weight = nn.Parameter(torch.empty(*_half(self.input_size), dim, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.complex_weight, std=0.02)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Two real transforms of H * W points for each channel, in FLOPs."""
        batch, channels, *size = shape
        points = math.prod(size)
        return {"fft": 2 * int(2.5 * batch * channels * points * math.log2(max(points, 2)))}

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if size != self.input_size:
            raise ValueError(
                f"this filter is for maps of {self.input_size} and meets {size}; build the model with that input size"
            )
        if type(x) is Tensor and not x.numel():  # torch has no Fourier transform of nothing
            return x
        wide = torch.promote_types(x.dtype, torch.float32)
        spectrum = torch.fft.rfft2(x.permute(0, 2, 3, 1).to(wide), dim=(1, 2), norm="ortho")
        # not view_as_complex: a model in channels_last has the memory of this table in another order
        weight = torch.complex(*self.complex_weight.to(wide).unbind(-1))
        y = torch.fft.irfft2(spectrum * weight, s=size, dim=(1, 2), norm="ortho")
        return (
            y.to(x.dtype).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        )  # transforms leave their own order

    def resize_table(self, name: str, tensor: Tensor, expected_shape: tuple[int, ...]) -> Tensor | None:
        """The filter of another map, for this one: bicubic over frequencies, as the authors do it."""
        if name != "complex_weight" or tensor.ndim != 4 or tuple(tensor.shape[2:]) != tuple(expected_shape[2:]):
            return None
        planes = tensor.float().flatten(2).permute(2, 0, 1).unsqueeze(0)
        planes = F.interpolate(planes, size=_half(self.input_size), mode="bicubic", align_corners=True)
        return planes.squeeze(0).permute(1, 2, 0).unflatten(2, tuple(tensor.shape[2:])).to(tensor.dtype)


def _half(size: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the spectrum of a real map."""
    return size[0], size[1] // 2 + 1
