"""A model begins as its paper says: each tensor of a fresh model has the spread of timm's fresh model."""

from __future__ import annotations

import fnmatch
import types

import pytest
import torch

import zoo
from tests.models.parity import entries, smallest

TIMM = entries("timm")
ON_PURPOSE = entries("first_values")
ENOUGH = 4000
"""Values that make an estimate of the deviation good to a few per cent."""
FEW = 20
"""Values that make none."""


@pytest.mark.parametrize("name", smallest("timm"))
def test_every_tensor_begins_with_the_spread_that_timm_gives_it(name: str, timm: types.ModuleType) -> None:
    torch.manual_seed(0)
    theirs = zoo.create(name, weights=timm.create_model(TIMM[name]).state_dict(), source="timm").state_dict()
    ours = zoo.create(name).state_dict()
    wrong = {key: problem for key in theirs if (problem := _difference(ours[key], theirs[key]))}
    family = zoo.info(name).family
    meant = [key for key in wrong if any(fnmatch.fnmatchcase(f"{family} {key}", pattern) for pattern in ON_PURPOSE)]
    assert {key: problem for key, problem in wrong.items() if key not in meant} == {}


def _difference(found: torch.Tensor, expected: torch.Tensor) -> str:
    """What is wrong with the first values of one tensor: constants are equal, drawn ones spread alike."""
    if not expected.is_floating_point() or (expected == expected.flatten()[0]).all():
        return (
            "" if torch.equal(found, expected) else f"{tuple(expected.shape)} begins with {found}, timm with {expected}"
        )
    if expected.numel() < FEW:
        return ""
    ratio = float(found.std() / expected.std())
    tolerance = 0.05 if expected.numel() >= ENOUGH else 0.5
    return "" if abs(ratio - 1) <= tolerance else f"{tuple(expected.shape)} spreads {ratio:.2f} times as wide as timm's"
