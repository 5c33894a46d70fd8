"""Large kernels, taken apart."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks


def test_large_kernel_attention_weighs_the_map_that_it_reads() -> None:
    mixer, x = blocks.get("large_kernel_attention")(8), torch.randn(2, 8, 24, 23)
    near = F.conv2d(x, mixer.near.weight, mixer.near.bias, padding=2, groups=8)
    far = F.conv2d(near, mixer.far.weight, mixer.far.bias, padding=9, dilation=3, groups=8)
    weight = torch.einsum("oc,bchw->bohw", mixer.mix.weight, far) + mixer.mix.bias.view(-1, 1, 1)
    torch.testing.assert_close(mixer(x), x * weight)


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "near", "far"), [(21, 3, 5, 7), (35, 4, 7, 9), (7, 2, 3, 5), (9, 1, 1, 9)]
)
def test_a_kernel_comes_apart_as_the_paper_says(kernel_size: int, dilation: int, near: int, far: int) -> None:
    mixer = blocks.get("large_kernel_attention")(4, kernel_size=kernel_size, dilation=dilation)
    assert (mixer.near.kernel_size, mixer.far.kernel_size) == ((near, near), (far, far))
    assert mixer(torch.randn(1, 4, 9, 6)).shape == (1, 4, 9, 6)
