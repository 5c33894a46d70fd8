"""What a check says: nothing when the promise holds, a sentence when it does not, a reason when it was never made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

OK, FAILED, NOT_APPLICABLE = "ok", "failed", "not applicable"


class ConformanceFailure(Exception):
    """A promise that does not hold, in one sentence."""


class NotApplicable(Exception):
    """The block never made the promise that a check is about; carries the reason."""


class Result(NamedTuple):
    """One row of the table: what was checked, how it went, and the sentence when it did not go well."""

    block: str
    check: str
    outcome: str
    sentence: str = ""


def require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConformanceFailure(sentence)


def require_equal(found: Tensor, expected: Tensor, what: str) -> None:
    """Bit by bit, NaN being equal to itself."""
    require(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)} against {tuple(expected.shape)}")
    same = torch.equal(found.nan_to_num(), expected.nan_to_num()) and torch.equal(found.isnan(), expected.isnan())
    require(same, f"{what}: not bit-equal, the relative difference is {relative_error(found, expected):.1e}")


def require_close(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    """max |found - expected| <= bound * max |expected|."""
    require(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)} against {tuple(expected.shape)}")
    error = relative_error(found, expected)
    require(error <= bound, f"{what}: the relative difference is {error:.1e}, above {bound:.0e}")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| / max |expected|; NaN where either holds one."""
    if not found.numel():
        return 0.0
    difference = (found.double() - expected.double()).abs().max().item()
    return difference / max(expected.double().abs().max().item(), 1e-30)
