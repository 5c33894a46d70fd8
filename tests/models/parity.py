"""What a family is held against: one table per family in parity/, and the loaders of reference data.

[golden]            our model = stem of a file in tests/golden/vision
[timm]              our model = timm's name
gain                the spread of drawn kernels in the comparison with timm, where 1 would make a net that amplifies rounding
"""

from __future__ import annotations

import functools
import json
import pathlib
import runpy
import tomllib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden"
KEYED = runpy.run_path(str(GOLDEN / "keyed.py"))
FAMILIES = {path.stem: tomllib.loads(path.read_text()) for path in sorted((HERE / "parity").glob("*.toml"))}


def entries(section: str) -> dict[str, Any]:
    """Our model -> what the families' tables say of it in one section."""
    return {name: value for table in FAMILIES.values() for name, value in table.get(section, {}).items()}


def smallest(section: str) -> list[str]:
    """The first model of each family: the tables begin with the one that is quickest to run."""
    return [next(iter(table[section])) for table in FAMILIES.values() if table.get(section)]


def one_of_each(section: str) -> list[Any]:
    """All models of a section as parameters of a test: the first of each family always, the others under `slow`."""
    first = smallest(section)
    return [pytest.param(name, marks=() if name in first else pytest.mark.slow) for name in entries(section)]


def gain(name: str) -> float:
    """How widely the kernels of a model are drawn."""
    return next(float(table.get("gain", 1)) for table in FAMILIES.values() if name in table.get("timm", {}))


@functools.cache
def golden(stem: str) -> dict[str, Any]:
    """Key shapes and figures that the reference code gave."""
    data: dict[str, Any] = json.loads((GOLDEN / "vision" / f"{stem}.json").read_text())
    return data


def loaded(name: str, stem: str) -> nn.Module:
    """The model with the golden's weights, through the official key rules."""
    return zoo.create(name, weights=KEYED["keyed_state_dict"](golden(stem)), source="official")


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the 2-norm."""
    return float((found - expected).norm() / expected.norm())


def answer(model: nn.Module, size: int | list[int] = 224, batch: int | None = None) -> Tensor:
    """The model's output for the golden input: square, or of the shape of a sample."""
    with torch.no_grad():
        x = KEYED["golden_sample"]({"size": size}, {}).to(next(model.parameters()).dtype)
        output: Tensor = model(x if batch is None else x[:batch])
    return output


def timm_macs(model: nn.Module, size: tuple[int, ...]) -> int:
    """MACs of a timm model on meta, where attention falls apart into matrix products and is counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *size, device="meta"))
    return int(counter.get_total_flops()) // 2
