"""Mixers that look at several sizes of a map: against formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from blocks.folding import fuse
from tests.blocks.test_fuse_forms import difference, randomised


def recursion(mixer: torch.nn.Module, x: torch.Tensor, level: int) -> torch.Tensor:
    """u_level of the paper, from above to below."""
    conv = mixer.convs[mixer.levels - level]
    if level == mixer.levels:
        return conv(x)
    below = recursion(mixer, mixer.down(x), level + 1)
    return conv(x + F.interpolate(below, size=x.shape[2:], mode=mixer.mode))


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_recursive_convolution_is_its_recursion(levels: int, mode: str) -> None:
    mixer, x = blocks.get("recursive_conv")(6, levels=levels, mode=mode), torch.randn(2, 6, 13, 10)
    torch.testing.assert_close(mixer(x), recursion(mixer, x, 0))


def test_the_kernels_of_a_recursive_convolution_grow_by_one_a_level() -> None:
    counts = [sum(p.numel() for p in blocks.get("recursive_conv")(6, levels=n).parameters()) for n in (1, 2, 3)]
    assert counts == [3 * 150, 4 * 150, 5 * 150]


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="^a kernel of 4 has no centre; the nearest that has is 5$"):
        blocks.get("recursive_conv")(6, kernel_size=4)


def test_coarse_parts_come_back_in_the_size_that_they_met() -> None:
    stride = {"block": "depthwise_conv", "stride": 2}
    layer, x = blocks.get("coarse")(8, parts=[stride, "gelu"]), torch.randn(2, 8, 7, 5)
    small = F.gelu(layer.get_submodule("0")(x))
    torch.testing.assert_close(layer(x), F.interpolate(small, size=(7, 5)))


def scores(mixer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The attention by its scores, of all heads, one position after the other."""
    q, k = (F.elu(half) + 1 for half in mixer.qk(x).chunk(2, 1))
    B, C, H, W = x.shape
    q, k, v = (t.reshape(B, mixer.num_heads, C // mixer.num_heads, H * W) for t in (q, k, x))
    weights = torch.einsum("bhcl,bhcm->bhlm", q, k)
    weights = weights / (weights.sum(-1, keepdim=True) + H * W * mixer.eps)
    return torch.einsum("bhlm,bhcm->bhcl", weights, v).reshape(B, C, H, W) + mixer.local(x)


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (9, 7)])
def test_both_ways_of_the_attention_are_its_scores(size: tuple[int, int]) -> None:
    mixer = randomised(blocks.get("input_value_attention")(32, num_heads=2)).double()
    x = torch.randn(2, 32, *size, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), scores(mixer, x))


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_two_classifiers_fold_into_their_mean(pool: str) -> None:
    head = randomised(blocks.get("distilled_head")(8, num_classes=5, pool=pool))
    x = torch.randn(2, 8, 4, 3, dtype=torch.float64)
    assert difference(head, x) <= 1e-12
    assert type(fuse(head)).__name__ == "LinearHead"
    head = head.float()
    pooled = x.float().mean((2, 3)) if pool == "avg" else x.float().amax((2, 3))
    expected = (head.classifier(head.norm(pooled)) + head.classifier_dist(head.norm_dist(pooled))) / 2
    torch.testing.assert_close(head(x.float()), expected)


def test_a_distilled_head_without_classes_pools() -> None:
    head = blocks.get("distilled_head")(8, num_classes=0)
    assert head.classifier is None and not head.state_dict()
    assert head(torch.randn(2, 8, 4, 3)).shape == (2, 8)
    assert blocks.get("distilled_head")(8, num_classes=5)(torch.randn(2, 8, 4, 3), pre_logits=True).shape == (2, 8)
