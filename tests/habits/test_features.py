"""Feature levels are timm's: the same maps, widths and reductions, for every model that timm has."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

import zoo
from tests.models.parity import entries, one_of_each

TIMM = entries("timm")


def levels(name: str, timm: types.ModuleType) -> tuple[list[torch.Tensor], list[torch.Tensor], Any, Any]:
    theirs = timm.create_model(TIMM[name]).eval()
    ours: Any = zoo.create(name, weights=theirs.state_dict(), source="timm")
    x = torch.randn(1, *theirs.default_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = ours.forward_intermediates(x, intermediates_only=True)
        expected = theirs.forward_intermediates(x, intermediates_only=True)
    return found, expected, ours.feature_info, theirs.feature_info


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", one_of_each("timm"))
def test_levels_are_those_of_timm(name: str, timm: types.ModuleType) -> None:
    found, expected, ours, theirs = levels(name, timm)
    rows = theirs if isinstance(theirs, list) else theirs.info
    assert (ours.reduction(), ours.channels()) == ([row["reduction"] for row in rows], [row["num_chs"] for row in rows])
    for ourselves, them in zip(found, expected, strict=True):
        assert distance(ourselves, them) <= 1e-4


@pytest.mark.parametrize(("level", "names"), [(0, ["stages.0.layers.0"]), (2, ["stages.0.layers.0", "stages.0.layers.1", "stages.1.layers.0"])])  # fmt: skip
def test_layers_of_several_stages_are_levels_and_are_cut_off_behind_the_last(level: int, names: list[str]) -> None:
    model: Any = zoo.create("convit_nano").eval()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.forward_intermediates(x, [level], intermediates_only=True)
        assert model.prune_intermediate_layers([level]) == [level]
        found = model.forward_intermediates(x, [level], intermediates_only=True)
    assert model.level_names() == names
    assert torch.equal(found[0], expected[0]) and found[0].shape == (2, 48, 8, 8)
