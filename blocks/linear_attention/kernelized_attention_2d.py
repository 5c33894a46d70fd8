"""Kernelized attention of images: weights by rows and columns between two pixels, by Fourier transforms where that is less work.

Paper: arXiv:2106.12566 (sections 3.2 and 4.4, "2D" relative positions). No official code.

H is here the number of heads, F of features, V the width of a value; h and w are rows and columns of the image.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.feature_maps import Favor, favor_features
from blocks.primitives.positions import resized_grid
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Linear, slot
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]


@block(
    "kernelized_attention_2d",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2106.12566",
    covers=("nprf_2d",),
)
class KernelizedAttention2d(nn.Module):
    """y_i = W_o sum_j w_ij v_j / sum_j w_ij, w_ij = exp(b_{i-j}) phi(q_i) . phi(k_j), q and k of length 1, phi positive features.

    phi is that of FAVOR+ and b a learned number per head and distance, (2 h - 1) (2 w - 1) of them, of pixels i and j. In large images the
    sums over j are convolutions of the F (V + 1) products of features and values, O(L log L) for L = h w pixels; in smaller ones the
    weights are made as a matrix, which then is less work. (B, C, h, w) -> (B, C, h, w). Of `num_heads` and `head_dim` one decides; with
    neither, heads are 32 wide. Raises ValueError when heads do not divide; SizeError for another size than `input_size`.
    """

    no_decay = ("distances",)

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = True,
        linear: Linear = slot("dense"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.input_size, self.eps = tuple(input_size), eps
        width = self.num_heads * self.head_dim
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.features = Favor(self.head_dim)
        self.distances = nn.Parameter(torch.empty(self.num_heads, *_spans(self.input_size)))
        self.proj = linear(width, dim, bias=bias)
        self.pairs = Table(pairs, self.input_size) if self._is_short() else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.distances)

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: KernelizedAttention2d | None = None
    ) -> Tensor | None:
        """The weights by distance of another image size, for this one; None for anything but their table."""
        if name != "distances" or tensor.ndim != 3 or tensor.shape[0] != expected_shape[0]:
            return None
        before = tuple(tensor.shape[1:])
        resized = resized_grid(tensor.flatten(1).T[None], tuple(expected_shape[1:]), before)
        return None if resized is None else resized[0].T.unflatten(1, tuple(expected_shape[1:]))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The products of the cheaper way: two products with a matrix of weights, or the convolution and what is read of its sums, F (V + 1)
        channels for each head. Features say so themselves."""
        return {"matmul": shape[0] * self._matrix_macs()} if self._is_short() else self._transform_macs(shape[0])

    def _matrix_macs(self) -> int:
        length = math.prod(self.input_size)
        return length * length * self.num_heads * (favor_features(self.head_dim) + self.head_dim + 1)

    def _transform_macs(self, batch: int) -> dict[str, int]:
        channels = self.num_heads * favor_features(self.head_dim) * (self.head_dim + 1)
        points = math.prod(_spans(self.input_size))
        one = 2.5 * points * math.log2(max(points, 2))
        return {
            "matmul": batch * math.prod(self.input_size) * channels,
            "fft": 2 * int(batch * channels * one) + int(self.num_heads * one),
        }

    def _is_short(self) -> bool:
        """Whether the matrix takes fewer FLOPs."""
        transforms = self._transform_macs(1)
        return 2 * self._matrix_macs() <= 2 * transforms["matmul"] + transforms["fft"]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        size = tuple(x.shape[2:])
        if size != self.input_size:
            raise SizeError(
                f"this kernelized_attention_2d was built for {self.input_size} pixels and meets {size}; "
                "build the model with that input size"
            )
        wide = torch.float64  # sums grow with the image, and the errors of a transform are those of the largest
        qkv = run(self.qkv, x, ctx).to(wide).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)  # (B, H, L, head_dim)
        q, k = self.features(F.normalize(q, dim=-1), True), self.features(F.normalize(k, dim=-1), False)
        v = F.pad(v, (0, 1), value=1.0)  # the last value is 1, whose sum is the normaliser
        y = self._by_transforms(q, k, v) if self.pairs is None else self._by_matrix(q, k, v, self.pairs)
        y = y[..., :-1] / (y[..., -1:] + self.eps)
        y = y.transpose(1, 2).flatten(2).unflatten(1, size).permute(0, 3, 1, 2)
        return run(self.proj, y.to(x.dtype), ctx)

    def _by_matrix(self, q: Tensor, k: Tensor, v: Tensor, places: Table) -> Tensor:
        """sum_j w_ij v_j, (B, H, L, V + 1), of features (B, H, L, F) and values (B, H, L, V + 1), with the w_ij as a matrix."""
        weights = torch.exp(self.distances.to(q.dtype)).flatten(1)[:, places.like(q)]
        return (weights * (q @ k.transpose(2, 3))) @ v

    def _by_transforms(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same by convolutions of all products of a feature and a value, round a border that is wide enough for all distances."""
        rows, columns = self.input_size
        products = (k.unsqueeze(-1) * v.unsqueeze(-2)).flatten(3)  # (B, H, L, F (V + 1))
        maps = products.transpose(2, 3).unflatten(3, self.input_size)
        spans = _spans(self.input_size)
        weights = torch.exp(self.distances.to(q.dtype)).roll((1 - rows, 1 - columns), (1, 2))  # distance 0 stands first
        spectrum = torch.fft.rfft2(maps, spans) * torch.fft.rfft2(weights).unsqueeze(1)
        summed = torch.fft.irfft2(spectrum, spans)[..., :rows, :columns]
        summed = summed.flatten(3).transpose(2, 3).unflatten(3, (q.shape[-1], v.shape[-1]))  # (B, H, L, F, V + 1)
        return (q.unsqueeze(-2) @ summed).squeeze(-2)


def pairs(rows: int, columns: int) -> Tensor:
    """(L, L): where in the table of distances, row by row, each pair of pixels stands; the same pixel twice in its middle."""
    row, column = (
        place.flatten() for place in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    )
    down, across = (place.unsqueeze(1) - place for place in (row, column))
    return (down + rows - 1) * (2 * columns - 1) + across + columns - 1


def _spans(size: tuple[int, ...]) -> tuple[int, ...]:
    """How many distances there are along each side."""
    return tuple(2 * side - 1 for side in size)
