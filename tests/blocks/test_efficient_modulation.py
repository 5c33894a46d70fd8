"""EfficientMod's mixer against its formula, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks


def image(*size: int) -> Tensor:
    return torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_each_share_of_the_hidden_layer_is_multiplied_by_one_context() -> None:
    mixer, x = blocks.get("efficient_modulation")(8, ratio=3, kernel_size=5).double(), image(5, 7)
    context = mixer.g(F.gelu(F.conv2d(mixer.f(x), mixer.conv.weight, mixer.conv.bias, padding=2, groups=8)))
    torch.testing.assert_close(mixer(x), mixer.fc2(F.gelu(mixer.fc1(x)) * context.repeat(1, 3, 1, 1)))


def test_the_modulation_writes_over_its_own_memory_only() -> None:
    mixer, x = blocks.get("efficient_modulation")(8, ratio=1, act=None).double(), image(4, 4)
    before, expected = x.clone(), mixer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), expected)
    assert torch.equal(x, before)


def test_a_kernel_without_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="^a kernel of 6 has no centre; the nearest that has is 7$"):
        blocks.get("efficient_modulation")(8, kernel_size=6)
