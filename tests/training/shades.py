"""The smallest pictures that are worth learning: dark and light ones, with noise."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from PIL import Image

MODEL = "gmlp_nano"
QUICK: dict[str, Any] = {"schedule.epochs": 2, "data.batch_size": 8, "data.workers": 0, "optimizer.ema": 0.5}


def folder(root: pathlib.Path, count: int = 24, seed: int = 0) -> pathlib.Path:
    """`count` pictures of 24 x 24 below root/dark and root/light."""
    draw = np.random.RandomState(seed)
    for i in range(count):
        home = root / ("dark", "light")[i % 2]
        home.mkdir(parents=True, exist_ok=True)
        shade = draw.normal((70, 180)[i % 2], 25, (24, 24))
        Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)).save(home / f"{i:03}.png")
    return root


def table(root: pathlib.Path, columns: str, rows: list[str]) -> pathlib.Path:
    """A CSV of the pictures of `folder`, in the order of their numbers, with `rows` as what is told of each."""
    paths = sorted(folder(root, len(rows)).rglob("*.png"), key=lambda path: path.name)
    lines = [f"{path.relative_to(root)},{row}" for path, row in zip(paths, rows, strict=True)]
    (root / "table.csv").write_text("\n".join([f"path,{columns}", *lines]) + "\n")
    return root / "table.csv"
