"""Clips as the tokens of their frames, and back; a summary of all of them against torch's attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from blocks import get
from blocks.context import Context
from tests.blocks.test_semantic_tokens import looked
from zoo.testing.block_cases import perturbed


def test_frames_come_back_from_their_tokens() -> None:
    view = perturbed(get("frame_tokens")(6, input_size=(2, 3, 3)))
    x = torch.randn(2, 6, 5, 3, 3)
    y, memo = view.enter(x)
    assert y.shape == (10, 10, 6)
    grid = x[1, :, 3].flatten(1).T + view.pos_embed[0, 1:]
    assert torch.allclose(y[8, 1:], grid)  # frame 3 of clip 1
    assert torch.allclose(view.exit(y, memo), x + view.pos_embed[0, 1:].T.unflatten(1, (3, 3)).unsqueeze(1))


def test_tokens_of_a_place_follow_each_other_in_a_clip() -> None:
    x = torch.randn(6, 5, 4)
    view = get("token_clip")(frames=3)
    clip, classes = view.enter(x)
    assert clip.shape == (2, 4, 3, 2, 2)
    assert torch.equal(clip[1, :, 2, 1, 0], x[5, 3])  # behind the class token, row 1
    assert torch.equal(view.exit(clip, classes), x)
    with pytest.raises(ValueError, match="4 frames are no whole number of clips of 3"):
        view.enter(x[:4])


def test_a_summary_looks_at_the_tokens_of_all_frames() -> None:
    first, after = (
        perturbed(get("clip_summary")(8, frames=2, num_heads=2, reads=reads)) for reads in (None, "summary")
    )
    first.path, after.path = "first", "after"
    x, ctx = torch.randn(4, 5, 8), Context()
    assert after(first(x, ctx), ctx) is x
    written = ctx.read("summary")
    c = first.token.expand(2, -1, -1)
    for block, name in ((first, "first"), (after, "after")):
        grid = x[:, 1:].unflatten(0, (2, 2)).permute(0, 3, 1, 2).unflatten(3, (2, 2))
        near = F.conv3d(grid, block.near.weight, block.near.bias, padding=1, groups=8).flatten(3).permute(0, 2, 3, 1)
        z = torch.cat([x[:, :1], x[:, 1:] + near.flatten(0, 1)], 1).reshape(2, 10, 8)
        c = c + looked(block, block.norm1(c), block.norm3(z))
        c = c + block.mlp(block.norm2(c))
        assert torch.allclose(written[name], c, atol=1e-5)


def test_the_blend_weighs_frames_and_summary() -> None:
    block, ctx = get("blend_summary")(4, reads="summary"), Context()
    ctx.write("summary", "somewhere", torch.ones(2, 1, 4))
    assert torch.allclose(block(torch.full((2, 3, 4), 5.0), ctx), torch.full((2, 1, 4), 3.0))
