"""Tokens that stand for a map, window by window, and a merge that looks at several tensors, against torch's attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks import get
from blocks.registry.errors import SizeError
from zoo.testing.block_cases import perturbed


def looked(block: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """torch's attention with the weights of the block: x (B, L, C) looks at z (B, M, C)."""
    keys, values = block.kv.weight.chunk(2)
    biases = block.kv.bias.chunk(2)
    maps = {"q_proj_weight": block.q.weight, "k_proj_weight": keys, "v_proj_weight": values}
    y, _ = F.multi_head_attention_forward(
        x.transpose(0, 1), z.transpose(0, 1), z.transpose(0, 1), x.shape[-1], block.num_heads, None,
        torch.cat([block.q.bias, *biases]), None, None, False, 0.0, block.proj.weight, block.proj.bias,
        use_separate_proj_weight=True, need_weights=False, **maps,
    )  # fmt: skip
    return y.transpose(0, 1) * (1 if block.scale is None else block.scale)


def test_cross_attention_looks_at_the_positions_of_all_other_tensors() -> None:
    block = perturbed(get("cross_attention")((8, 8, 8), num_heads=2, scale=0.1))
    x, near, far = torch.randn(2, 8, 3, 3), torch.randn(2, 8, 3, 3), torch.randn(2, 8, 5, 4)
    tokens = [y.flatten(2).transpose(1, 2) for y in (x, near, far)]
    expected = looked(block, tokens[0], torch.cat(tokens[1:], 1)).transpose(1, 2).unflatten(2, (3, 3))
    assert torch.allclose(block(x, near, far), expected, atol=1e-5)


def test_each_window_makes_tokens_of_its_maxima_and_looks_around() -> None:
    block = perturbed(get("semantic_tokens")(8, window=4, samples=2, reach=6, num_heads=2, scale=0.1))
    x = torch.randn(2, 8, 8, 8)
    y = block(x)
    assert y.shape == (2, 8, 4, 4)
    for row in range(2):
        for column in range(2):
            window = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            around = x[:, :, 2 * row : 2 * row + 6, 2 * column : 2 * column + 6]
            z = torch.cat([F.max_pool2d(window, 2).flatten(2), around.flatten(2)], 2).transpose(1, 2)
            z = block.norm(z)
            expected = looked(block, z[:, :4], z).transpose(1, 2).unflatten(2, (2, 2))
            assert torch.allclose(y[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2], expected, atol=1e-5)


def test_semantic_tokens_name_the_size_that_has_no_windows() -> None:
    with pytest.raises(SizeError, match="9 pixels has no windows of 4"):
        get("semantic_tokens")(32, window=4, samples=2, reach=6)(torch.randn(1, 32, 9, 8))
