"""Golden data of sequence blocks, and a check of whole messages."""

from __future__ import annotations

import json
import pathlib
import re
import runpy
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
KEYED = runpy.run_path(str(GOLDEN / "keyed.py"))


class Golden:
    """One golden: `inputs` and `state` (names without the upstream's prefix) in `dtype`, outputs to compare with."""

    def __init__(self, name: str, dtype: torch.dtype):
        self.about = json.loads((GOLDEN / f"{name}.json").read_text())
        self.data, self.dtype = load_file(GOLDEN / f"{name}.safetensors"), dtype
        self.inputs = {key[3:]: value.to(dtype) for key, value in self.data.items() if key.startswith("in.")}
        stored = {key[6:]: value for key, value in self.data.items() if key.startswith("param.")}
        state = (KEYED["keyed_state_dict"](self.about) if "keys" in self.about else {}) | stored
        prefix = self.about.get("key_prefix", "")
        self.state = {key.removeprefix(prefix): value.to(dtype) for key, value in state.items()}

    def check(self, found: Tensor, output: str = "output") -> None:
        """Holds `found` against an output, with the tolerance that the golden suggests for this dtype."""
        double = self.dtype == torch.float64
        atol = self.about["tolerance"][output]["fp64_atol" if double else "fp32_atol"]
        torch.testing.assert_close(found, self.data[f"{output}.f64" if double else output], rtol=0, atol=atol)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def golden(request: pytest.FixtureRequest) -> Callable[[str], Golden]:
    """Reads a golden of `sequence/` in both precisions."""
    return lambda name: Golden(f"sequence/{name}", request.param)


@pytest.fixture
def vim() -> Golden:
    return _vision("vim__tiny")


def _vision(name: str) -> Golden:
    about = json.loads((GOLDEN / f"vision/{name}.json").read_text())
    reading = Golden.__new__(Golden)
    reading.about, reading.dtype = about, torch.float32
    reading.data = load_file(GOLDEN / f"vision/{name}.safetensors")
    reading.inputs = {"image": KEYED["golden_input"](about["size"])}
    reading.state = KEYED["keyed_state_dict"](about)
    return reading


@pytest.fixture
def refused() -> Callable[[str], AbstractContextManager]:
    """Expects a ValueError with this whole text."""
    return lambda message: pytest.raises(ValueError, match=f"^{re.escape(message)}$")
