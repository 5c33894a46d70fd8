"""The same rows from actors of Ray Data, each with the model, on one machine or on a cluster that sees the same files.

Rows come back to this process, which alone writes them. An actor or a node that dies takes no row with it: Ray gives its pictures to
another, and what it had answered without being heard is answered again.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator

import msgspec
import numpy as np

from zoo.errors import InputError, Problem
from zoo.predicting.predictor import Placed, Predictor, Wish
from zoo.predicting.rows import Row
from zoo.system.clusters import cluster, nodes, told

BATCHES = 4
"""Of pictures that an actor gets at one time."""


class Worker:
    """An actor: a model, and what it makes of pictures. These travel as this process pickled them, as all does that Ray sends."""

    def __init__(self, wish: Wish, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.predictor = Predictor(wish)

    def __call__(self, table: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        placed = [each for cell in table["pictures"] for each in pickle.loads(bytes(cell))]
        return {"rows": [msgspec.msgpack.encode(list(self.predictor.rows(placed)))]}


def rows(wish: Wish, pictures: list[Placed], processes: int = 0, threads: int = 0) -> Iterator[Row]:
    """In any order. `processes`: actors, one on each node without it; `threads`: of each, without it those that the smallest node has for it.
    Raises InputError where Ray is not installed, and for what fails in it."""
    if not pictures:
        return
    with cluster("predict") as ray:
        from ray import data as tables

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        tables.DataContext.get_current().enable_progress_bars = False
        cpus = [facts["cpus"] for facts in nodes(ray).values()]
        count = processes or len(cpus)
        threads = threads or max(1, min(cpus) // -(-count // len(cpus)))
        size = BATCHES * wish.batch
        cells = [{"pictures": pickle.dumps(pictures[start : start + size])} for start in range(0, len(pictures), size)]
        try:
            pool = tables.ActorPoolStrategy(size=min(count, len(cells)))
            answered = tables.from_items(cells, override_num_blocks=len(cells)).map_batches(
                Worker, fn_constructor_args=(wish, threads), batch_size=1, compute=pool, num_cpus=1
            )
            for row in answered.iter_rows():
                yield from msgspec.msgpack.decode(row["rows"], type=list[Row])
        except ray.exceptions.RayError as error:
            problem = Problem("--on ray", "actors that can do it", told(error))
            raise InputError("predict", problem) from None
