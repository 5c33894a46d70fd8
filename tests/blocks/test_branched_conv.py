"""Convolutions with a small branch of any size, without one, and without the identity."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from blocks.folding import fuse
from tests.blocks.test_fuse_forms import difference, randomised


@pytest.mark.parametrize("small", [0, 1, 3, 5])
@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("name", ["branched_conv", "branched_depthwise_conv"])
def test_branches_of_any_size_fold_into_one_kernel(name: str, identity: bool, small: int) -> None:
    module = randomised(blocks.get(name)(8, kernel_size=7, small=small, identity=identity, act="relu"))
    assert difference(module, torch.randn(2, 8, 9, 6).double()) <= 1e-12
    assert (
        sum(parameter.numel() for parameter in fuse(module).parameters()) == module.branches[0].conv.weight.numel() + 8
    )


def test_a_ghost_is_a_depthwise_convolution_beside_the_identity() -> None:
    module, x = randomised(blocks.get("branched_depthwise_conv")(8, small=0)), torch.randn(2, 8, 5, 6)
    assert [name for name, _ in module.named_children()] == ["branches", "identity"]
    torch.testing.assert_close(module(x), module.branches[0](x) + module.identity(x))


def test_no_small_branch_stands_beside_a_kernel_that_is_no_larger() -> None:
    assert blocks.get("branched_conv")(8, kernel_size=3, small=3).scale is None


def test_a_small_kernel_without_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="^small = 4 is even; the nearest that has a centre is 5$"):
        blocks.get("branched_conv")(8, kernel_size=7, small=4)


def test_the_hidden_width_of_squeeze_excite_may_be_a_multiple() -> None:
    widths = [blocks.get("squeeze_excite")(dim, ratio=0.25, round_to=4).down.out_dim for dim in (36, 60, 240, 8)]
    assert widths == [12, 16, 60, 4]
    gate, x = blocks.get("squeeze_excite")(36, round_to=4, gate="hard_sigmoid"), torch.randn(2, 36, 3, 4)
    expected = F.hardsigmoid(gate.up(F.relu(gate.down(x.mean((2, 3))))))
    torch.testing.assert_close(gate(x), x * expected[:, :, None, None])
