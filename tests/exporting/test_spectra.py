"""Fourier transforms as graphs write them out are those of torch, at even and odd sizes and in each norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo.exporting import onnx, spectra
from zoo.exporting.spectra import Spectrum

NORMS = [None, "ortho", "forward"]


def equal(found: Spectrum, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.complex(found.real, found.imaginary), wanted)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_the_transform_and_its_inverse(length: int, norm: str | None) -> None:
    x = torch.randn(2, 3, length, dtype=torch.float64)
    found = spectra.rfft(x, norm=norm)
    equal(found, torch.fft.rfft(x, norm=norm))
    torch.testing.assert_close(spectra.irfft(found, length, norm=norm), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sizes", [None, (8, 9), (5, 3)])
def test_the_transform_of_maps_and_its_inverse(sizes: tuple[int, int] | None, norm: str | None) -> None:
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    wanted = torch.fft.rfft2(x, sizes, norm=norm)
    found = spectra.rfft2(x, sizes, norm=norm)
    equal(found, wanted)
    torch.testing.assert_close(
        spectra.irfft2(found, sizes or (7, 4), norm=norm), torch.fft.irfft2(wanted, sizes or (7, 4), norm=norm)
    )


def test_what_blocks_do_to_a_spectrum_is_recorded_for_any_size(tmp_path: Path) -> None:
    class Filter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.fft.rfft2(x, norm="ortho").permute(0, 2, 3, 1)
            power = torch.view_as_real(z * z.conj()).sum(-1)
            gate = torch.complex(power.tanh(), power.cos()).permute(0, 3, 1, 2)
            y = torch.fft.irfft2(z.permute(0, 3, 1, 2) * gate + gate, x.shape[2:], norm="ortho")
            return y + torch.fft.irfft(torch.fft.rfft(x), x.shape[-1])

    assert onnx.write_onnx(Filter(), torch.randn(1, 2, 8, 9), tmp_path / "net.onnx", ("batch", "size")).exists()
