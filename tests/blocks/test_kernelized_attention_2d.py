"""Kernelized attention of images: the sums over all pairs of pixels, and the same by Fourier transforms."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from blocks.linear_attention.kernelized_attention_2d import KernelizedAttention2d
from blocks.registry.errors import SizeError


@torch.no_grad()
@pytest.mark.parametrize("short", [False, True])
def test_a_pixel_weighs_others_by_features_and_distance(short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelizedAttention2d, "_is_short", lambda self: short)
    torch.manual_seed(0)
    mixer = KernelizedAttention2d(32, head_dim=16, input_size=(4, 5)).double()
    mixer.distances.normal_()
    x = torch.randn(2, 32, 4, 5, dtype=torch.float64)
    q, k, v = mixer.qkv(x).flatten(2).transpose(1, 2).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    phi_q, phi_k = mixer.features(F.normalize(q, dim=-1), True), mixer.features(F.normalize(k, dim=-1), False)
    expected = torch.zeros_like(v)
    for i in range(20):
        total = torch.zeros(2, 2, 1, dtype=torch.float64)
        for j in range(20):
            down, across = i // 5 - j // 5, i % 5 - j % 5
            weight = mixer.distances[:, down + 3, across + 4].exp() * (phi_q[:, :, i] * phi_k[:, :, j]).sum(-1)
            expected[:, :, i] += weight.unsqueeze(-1) * v[:, :, j]
            total += weight.unsqueeze(-1)
        expected[:, :, i] /= total + 1e-6
    y = expected.transpose(2, 3).flatten(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(mixer(x), mixer.proj(y))


@pytest.mark.parametrize("side", [4, 64])
def test_the_way_that_it_takes_is_counted(side: int) -> None:
    with torch.device("meta"):
        mixer = KernelizedAttention2d(16, head_dim=8, input_size=(side, side))
        with FlopCounterMode(display=False) as counter:
            mixer(torch.empty(2, 16, side, side))
    said, length = mixer.macs((2, 16, side, side)), side * side
    assert ("fft" in said) == (side == 64)
    linears = 2 * length * 16 * (48 + 16) + 2 * mixer.features.macs((2, length, 2, 8))["matmul"]
    assert counter.get_total_flops() == 2 * (said["matmul"] + linears) + said.get("fft", 0)


def test_another_size_is_refused() -> None:
    with pytest.raises(SizeError, match=r"built for \(4, 4\) pixels and meets \(4, 6\)"):
        KernelizedAttention2d(32, input_size=(4, 4))(torch.randn(1, 32, 4, 6))


def test_distances_follow_the_image_to_another_size() -> None:
    mixer, old = KernelizedAttention2d(32, input_size=(6, 4)), KernelizedAttention2d(32, input_size=(4, 4))
    table = torch.full_like(old.distances, 0.5)
    resized = mixer.resize_table("distances", table, tuple(mixer.distances.shape), old)
    assert resized is not None
    torch.testing.assert_close(resized, torch.full((1, 11, 7), 0.5))
