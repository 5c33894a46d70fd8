"""Fifty snippets of the kind that timm's documentation shows, run with only the import changed."""

from __future__ import annotations

import importlib
import pathlib
import types

import pytest
import torch
from PIL import Image

import zoo

TEXT = pathlib.Path(__file__).with_name("snippets.py").read_text()
CELLS = dict(cell.split("\n", 1) for cell in TEXT.split("# %% ")[1:])


def test_fifty_snippets_are_tried() -> None:
    assert len(CELLS) == 50


@pytest.mark.parametrize("title", CELLS)
def test_a_snippet_of_timms_users_runs(title: str, timm: types.ModuleType, tmp_path: pathlib.Path) -> None:
    data, optim = (importlib.import_module(f"{timm.__name__}.{part}") for part in ("data", "optim"))
    torch.manual_seed(0)
    names = {
        "timm": zoo, "timm_data": data, "timm_optim": optim, "torch": torch, "folder": tmp_path,
        "x": torch.randn(2, 3, 64, 64), "picture": Image.new("RGB", (300, 200)),
    }  # fmt: skip
    exec(compile(CELLS[title], title, "exec"), names)
