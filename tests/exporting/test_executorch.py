"""ExecuTorch: programs for phones compute in its Python runtime what the models compute."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.exporting import table
from zoo.exporting.executorch import opened
from zoo.exporting.export import export_graph
from zoo.exporting.ports import Port, Ports, example_of, flat

INSTALLED = importlib.util.find_spec("executorch") is not None
runs_it = pytest.mark.skipif(not INSTALLED, reason='ExecuTorch is not installed: pip install "blockzoo[executorch]"')
PROVED = [name for name, row in table.read().items() if not row.get("executorch", "refused").startswith("refused")]
QUICK = ("starnet_nano", "espcn_nano")


def test_the_table_has_models_that_run() -> None:
    assert len(PROVED) >= 8


@runs_it
@pytest.mark.parametrize("name", QUICK)
def test_a_program_computes_what_the_model_computes(name: str, tmp_path: Path) -> None:
    model: Any = zoo.create(name, form="deploy")
    made = export_graph(model, tmp_path / "net.pte", "executorch")
    assert made.error is not None and made.error < 1e-4
    x = example_of(model)
    found = opened(made.path, Ports((Port("image", x[0], {}),), ("logits",)))(x)
    for y, wanted in zip(found, flat(model(*x)), strict=True):
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
