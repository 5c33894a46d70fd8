"""Two convolutions that become one: the activation between them vanishes while a net is trained."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import blocks
import zoo
from blocks.folding import fuse
from tests.blocks.test_fuse_forms import difference, randomised


def slopes(model: nn.Module) -> set[float]:
    return {module.slope for module in model.modules() if hasattr(module, "slope")}  # type: ignore[misc]


@pytest.mark.parametrize(("law", "expected"), [("linear", [0, 0.5, 1, 1]), ("cosine", [0, 0.5, 1, 1])])
def test_the_slope_rises_until_the_activation_is_linear(law: str, expected: list[float]) -> None:
    act, x = blocks.get("vanishing_relu")(until=0.5, law=law), torch.tensor([-2.0, 3.0])
    for share, slope in zip((0, 0.25, 0.5, 1), expected, strict=True):
        zoo.anneal(act, share)
        assert act.slope == pytest.approx(slope)
        torch.testing.assert_close(act(x), torch.tensor([-2.0 * slope, 3.0]))


def test_the_two_laws_differ_in_between() -> None:
    linear, cosine = (blocks.get("vanishing_relu")(until=1, law=law) for law in ("linear", "cosine"))
    for act in (linear, cosine):
        zoo.anneal(act, 0.25)
    assert linear.slope == 0.25
    assert cosine.slope == pytest.approx((1 - math.sqrt(0.5)) / 2)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="^the share of training that is over lies between 0 and 1, not at 1.5$"):
        zoo.anneal(nn.Identity(), 1.5)


@pytest.mark.parametrize(("kernel_size", "stride", "of"), [(1, 1, "dim"), (4, 4, "out_dim"), (3, 2, "dim")])
def test_an_activation_that_has_vanished_leaves_one_convolution(kernel_size: int, stride: int, of: str) -> None:
    module = randomised(blocks.get("deep_training_conv")(8, 12, kernel_size=kernel_size, stride=stride, of=of))
    assert difference(module, torch.randn(2, 8, 12, 8).double()) <= 1e-12
    fused = fuse(module)
    assert [(name, tuple(value.shape)) for name, value in fused.named_parameters()] == [
        ("weight", (12, 8, kernel_size, kernel_size)), ("bias", (12,)),
    ]  # fmt: skip


def test_while_the_activation_is_there_both_convolutions_stay() -> None:
    module = randomised(blocks.get("deep_training_conv")(8, 12))
    zoo.anneal(module, 0.1)
    assert difference(module, torch.randn(2, 8, 5, 6).double()) <= 1e-12
    assert [name for name, _ in fuse(module).named_children()] == ["conv1", "act", "conv2"]


def test_another_activation_stays_for_good() -> None:
    module = randomised(blocks.get("deep_training_conv")(8, 12, act="relu"))
    assert difference(module, torch.randn(2, 8, 5, 6).double()) <= 1e-12


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_a_head_that_has_vanished_is_a_linear_head(pool: str) -> None:
    head = randomised(blocks.get("deep_training_head")(8, num_classes=5, pool=pool))
    assert difference(head, torch.randn(2, 8, 4, 3).double()) <= 1e-12
    assert type(fuse(head)).__name__ == "LinearHead"


def test_a_head_without_classes_gives_features() -> None:
    assert blocks.get("deep_training_head")(8, num_classes=0)(torch.randn(2, 8, 4, 3)).shape == (2, 8)
    assert blocks.get("deep_training_head")(8, num_classes=0, hidden_dim=6)(torch.randn(2, 8, 4, 3)).shape == (2, 6)


def test_a_net_that_was_just_made_stands_where_training_ends() -> None:
    model = nn.Sequential(blocks.get("deep_training_conv")(3, 8), blocks.get("deep_training_head")(8, num_classes=5))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert slopes(model) == {1.0}
    randomised(model).double()
    at_the_end = model(x)
    zoo.anneal(model, 0)
    assert slopes(model) == slopes(copy.deepcopy(model)) == {0.0}
    torch.testing.assert_close(fuse(model)(x), model(x))
    assert (model(x) - at_the_end).abs().max() > 1e-4
