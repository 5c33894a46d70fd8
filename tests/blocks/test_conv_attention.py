"""LowFormer's attention against its formula, and the head that widens the map first."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.construct import construct
from blocks.registry.slots import Place


def image(*size: int, dim: int = 32) -> Tensor:
    return torch.randn(2, dim, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("stride", "size"), [(1, (5, 4)), (2, (5, 4)), (3, (7, 3)), (4, (9, 6))])
def test_attention_comes_back_to_the_size_of_the_map(stride: int, size: tuple[int, int]) -> None:
    mixer, x = blocks.get("conv_attention")(32, num_heads=2, head_dim=8, stride=stride).double().eval(), image(*size)
    small = mixer.conv(x)
    heads = mixer.qkv(small).flatten(2).transpose(1, 2).view(2, -1, 2, 24).transpose(1, 2)
    q, k, v = heads.split(8, -1)
    y = ((q @ k.transpose(2, 3) / math.sqrt(8)).softmax(-1) @ v).transpose(2, 3).reshape(2, 16, *small.shape[2:])
    assert small.shape[2:] == tuple(-(-side // stride) for side in size)
    close(mixer(x), mixer.up(y)[..., : size[0], : size[1]])


def test_a_head_may_widen_the_map_before_it_pools() -> None:
    pre = {"block": "conv_norm_act", "out_dim": 48, "kernel_size": 1, "act": "hard_swish"}
    head = construct({"block": "conv_head", "hidden_dim": 20, "pre": pre}, Place(num_classes=5), 32).eval()
    x = image(3, 3).float()
    wide = F.hardswish(head.pre.conv(x)).mean((2, 3))
    torch.testing.assert_close(head(x), head.classifier(F.relu(head.norm(head.fc(wide)))))
