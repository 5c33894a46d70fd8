"""A norm that gives way to another while a net is trained."""

from __future__ import annotations

import pytest
import torch

import blocks
import zoo
from blocks.folding import fuse
from tests.blocks.test_fuse_forms import difference, randomised


@pytest.mark.parametrize(("share", "left"), [(0, 1), (0.25, 0.5), (0.5, 0), (1, 0)])
def test_the_layer_norm_leaves_in_a_straight_line(share: float, left: float) -> None:
    norm, x = randomised(blocks.get("progressive_norm")(6, until=0.5)).train(), torch.randn(4, 6, 3, 3)
    zoo.anneal(norm, share)
    expected = left * norm.before(x) + (1 - left) * (norm.after(x) + norm.alpha * x)
    torch.testing.assert_close(norm(x), expected)


def test_evaluation_knows_no_layer_norm() -> None:
    norm, x = randomised(blocks.get("progressive_norm")(6)).eval(), torch.randn(4, 5, 6)
    zoo.anneal(norm, 0)
    torch.testing.assert_close(norm(x), norm.after(x) + norm.alpha * x)


@pytest.mark.parametrize("shape", [(2, 8, 3, 5), (2, 7, 8)])
def test_what_is_left_folds_into_the_map_that_follows(shape: tuple[int, ...]) -> None:
    layer = randomised(blocks.get("residual")(8, parts=["progressive_norm", {"block": "mlp", "ratio": 2}]))
    assert difference(layer, torch.randn(shape).double()) <= 1e-12
    assert not [name for name, _ in fuse(layer).named_buffers()]
