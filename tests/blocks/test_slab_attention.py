"""Linear attention with positions on its keys, against its scores."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from tests.blocks.test_fuse_forms import randomised


def test_it_is_the_attention_of_its_scores() -> None:
    mixer = randomised(
        blocks.get("simplified_linear_attention")(12, num_heads=3, kernel_size=3, input_size=(4, 5))
    ).double()
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64)
    q, k, v = mixer.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (3, 4)) for part in (F.relu(q), F.relu(k + mixer.pos_embed), v))
    scores = torch.einsum("blhc,bmhc->bhlm", q, k)
    y = torch.einsum("bhlm,bmhc->blhc", scores / (scores.sum(-1, keepdim=True) + 1e-6), v)
    local = torch.stack(
        [mixer.local(head.transpose(1, 2).unflatten(2, (4, 5))).flatten(2).transpose(1, 2) for head in v.unbind(2)], 2
    )
    expected = mixer.proj((y + local).flatten(2)).transpose(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(mixer(x), expected)


def test_another_size_is_refused_and_its_positions_are_fitted() -> None:
    small, large = (
        blocks.get("simplified_linear_attention")(8, num_heads=2, input_size=size) for size in ((4, 4), (6, 8))
    )
    with pytest.raises(ValueError, match=r"are for maps of size \(4, 4\) and meet \(6, 8\)"):
        small(torch.randn(1, 8, 6, 8))
    fitted = large.resize_table("pos_embed", torch.ones(1, 16, 8), (1, 48, 8), small)
    torch.testing.assert_close(fitted, torch.ones(1, 48, 8))
