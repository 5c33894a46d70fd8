"""What it costs that Ray carries pictures and rows: the pace of `zoo predict --on ray` beside that of one process, in turns.

Both have the same number of threads and one model; the pace is that of the rows behind the first cell of pictures, when actors have started.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator

import torch
from PIL import Image

from zoo.data.digits import held_out
from zoo.data.sources import pictures_of
from zoo.predicting import on_ray
from zoo.predicting.predictor import Placed, Predictor, Wish
from zoo.predicting.rows import Row
from zoo.system.clusters import cluster

MODEL = "starnet_nano"
SIDE = 256
"""Of the pictures, so that there is something to decode."""


def report(batch: int, rounds: int, cells: int = 24) -> Iterator[str]:
    """Lines with the ratio of the paces in each round, and their median; above 1 Ray is the faster."""
    wish = Wish(name=MODEL, batch=batch)
    first = on_ray.BATCHES * batch
    with tempfile.TemporaryDirectory() as folder, cluster("benchmark"):
        placed = [
            Placed(i, picture) for i, picture in enumerate(pictures_of([_written(pathlib.Path(folder), cells * first)]))
        ]
        predictor = Predictor(wish)
        ratios = []
        for _ in range(rounds):
            alone = _pace(predictor.rows(placed), first)
            ratios.append(_pace(on_ray.rows(wish, placed, 1, torch.get_num_threads()), first) / alone)
            yield f"batch {batch}: Ray has {ratios[-1]:.3f} of the pace of one process, {alone:.0f} pictures a second"
        yield f"batch {batch}: median {statistics.median(ratios):.3f} of {rounds} rounds"


def _pace(rows: Iterable[Row], first: int) -> float:
    """Rows a second, behind the `first` ones."""
    start, count = 0.0, 0
    for count, _ in enumerate(rows, 1):
        if count == first:
            start = time.perf_counter()
    return (count - first) / (time.perf_counter() - start)


def _written(folder: pathlib.Path, count: int) -> pathlib.Path:
    images, _ = held_out()
    for i in range(count):
        Image.fromarray(images[i % len(images)]).resize((SIDE, SIDE)).save(folder / f"{i:06d}.png")
    return folder
