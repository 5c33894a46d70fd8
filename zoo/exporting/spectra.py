"""Fourier transforms in a graph of real numbers: a spectrum is two tensors, and a transform a product with cosines and sines.

While a net is recorded, `torch.fft` gives a `Spectrum` instead of a complex tensor. n is the number of values along an axis, f a frequency.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.graph.sizes import Size, length_of
from blocks.ops.recorded import lengths_are_free

REARRANGED = ("permute", "transpose", "movedim", "unflatten", "flatten", "reshape", "unsqueeze", "contiguous")


class Spectrum:
    """real + i imaginary, two tensors of one shape, with what blocks do to complex tensors: sums, products, axes rearranged."""

    def __init__(self, real: Tensor, imaginary: Tensor):
        self.real, self.imaginary = real, imaginary

    @property
    def shape(self) -> torch.Size:
        return self.real.shape

    @property
    def ndim(self) -> int:
        return self.real.ndim

    def conj(self) -> Spectrum:
        return Spectrum(self.real, -self.imaginary)

    def __add__(self, other: Spectrum) -> Spectrum:
        return Spectrum(self.real + other.real, self.imaginary + other.imaginary)

    def __mul__(self, other: Spectrum | Tensor | float) -> Spectrum:
        if not isinstance(other, Spectrum):
            return Spectrum(self.real * other, self.imaginary * other)
        real = self.real * other.real - self.imaginary * other.imaginary
        return Spectrum(real, self.real * other.imaginary + self.imaginary * other.real)

    def __getitem__(self, index: Any) -> Spectrum:
        return Spectrum(self.real[index], self.imaginary[index])

    def __getattr__(self, name: str) -> Callable[..., Spectrum]:
        if name not in REARRANGED:
            raise AttributeError(f"a spectrum in a graph has no `{name}`")
        return lambda *args: Spectrum(getattr(self.real, name)(*args), getattr(self.imaginary, name)(*args))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Functions of a spectrum that stand in `TABLE`; of another, torch says that it has none."""
        written = TABLE.get(function)
        return NotImplemented if written is None else written(*args, **(kwargs or {}))


def rfft(x: Tensor, n: Size = None, dim: int = -1, norm: str | None = None) -> Spectrum:
    """sum_t x_t exp(-2 pi i f t / n) along the last axis, for f from 0 to n / 2."""
    if dim not in (-1, x.ndim - 1):
        return NotImplemented
    x = x if n is None else _of_length(x, -1, n)
    size = length_of(x, -1)
    cosines, sines = waves(size, size // 2 + 1, x)
    return Spectrum(x @ cosines, -(x @ sines)) * _forward(norm, size, x)


def irfft(z: Spectrum, n: Size = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The n real numbers along the last axis whose spectrum is z."""
    if dim not in (-1, z.ndim - 1):
        return NotImplemented
    size = 2 * (length_of(z.real, -1) - 1) if n is None else _number(n)
    count = size // 2 + 1
    cosines, sines = waves(size, count, z.real)
    f = torch.arange(count, device=z.real.device)
    times = 1 + ((f > 0) & (2 * f < size)).to(z.real.dtype)  # a frequency inside stands for its mirror, too
    y = (z.real * times) @ cosines.transpose(0, 1) - (z.imaginary * times) @ sines.transpose(0, 1)
    return y * _backward(norm, size, y)


def rfft2(x: Tensor, s: Sequence[Size] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Spectrum:
    """The transform of the last two axes, of sizes `s` where they are given: filled up with zeros, or cut off."""
    if tuple(dim) != (-2, -1):
        return NotImplemented
    x = x if s is None else _of_length(_of_length(x, -2, s[0]), -1, s[1])
    rows = length_of(x, -2)
    z = rfft(x, norm=norm)
    cosines, sines = waves(rows, rows, x)  # symmetric
    real, imaginary = cosines @ z.real + sines @ z.imaginary, cosines @ z.imaginary - sines @ z.real
    return Spectrum(real, imaginary) * _forward(norm, rows, x)


def irfft2(z: Spectrum, s: Sequence[Size] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of `rfft2`, for as many rows as the spectrum has."""
    rows = length_of(z.real, -2)
    if tuple(dim) != (-2, -1):
        return NotImplemented
    cosines, sines = waves(rows, rows, z.real)
    real, imaginary = cosines @ z.real - sines @ z.imaginary, cosines @ z.imaginary + sines @ z.real
    whole = Spectrum(real, imaginary) * _backward(norm, rows, z.real)
    return irfft(whole, None if s is None else s[1], norm=norm)


def waves(size: Size, count: Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi t f / n, (n, count), t the row and f the column: of t f modulo n in whole numbers."""
    steps, frequencies = (torch.arange(each, device=like.device) for each in (size, count))
    angle = (steps.unsqueeze(1) * frequencies % size).to(like.dtype) * (2 * math.pi) / size
    return angle.cos(), angle.sin()


def _forward(norm: str | None, size: Size, like: Tensor) -> Any:
    """What a transform of n values is multiplied with."""
    return 1.0 if norm in (None, "backward") else _share(size, like) if norm == "forward" else _share(size, like) ** 0.5


def _backward(norm: str | None, size: Size, like: Tensor) -> Any:
    """What an inverse transform to n values is multiplied with."""
    return _forward({"forward": "backward", "ortho": "ortho"}.get(norm or "", "forward"), size, like)


def _share(size: Size, like: Tensor) -> Any:
    """1 / n."""
    return 1 / (size if isinstance(size, int) else size.to(like.dtype))


def _of_length(x: Tensor, axis: int, size: Size) -> Tensor:
    """x with zeros behind the last value along one of the last two axes, or without those behind `size`."""
    more = _number(size) - length_of(x, axis)
    return x if isinstance(more, int) and more == 0 else F.pad(x, (0, more) if axis == -1 else (0, 0, 0, more))


def _number(size: Size) -> Size:
    """A size that a block asked for: a plain number where lengths are fixed."""
    return size if lengths_are_free() else int(size)


TABLE: dict[Any, Callable[..., Any]] = {
    torch.fft.rfft: rfft,
    torch.fft.irfft: irfft,
    torch.fft.rfft2: rfft2,
    torch.fft.irfft2: irfft2,
    torch.complex: Spectrum,
    torch.view_as_complex: lambda x: Spectrum(x[..., 0], x[..., 1]),
    torch.view_as_real: lambda z: torch.stack([z.real, z.imaginary], -1),
}
