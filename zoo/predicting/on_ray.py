"""The same rows from actors of Ray Data, each with the model, on one machine or on a cluster that sees the same files.

Rows come back to this process, which alone writes them. An actor or a node that dies takes no row with it: Ray gives its pictures to
another, and what it had answered without being heard is answered again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from blocks.registry.words import raised
from zoo.errors import InputError, Problem
from zoo.predicting.predictor import Placed, Predictor, Wish
from zoo.predicting.rows import Row

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


def rows(wish: Wish, pictures: list[Placed], processes: int = 0) -> Iterator[Row]:
    """In any order. `processes`: actors, one on each node without it. Raises InputError where Ray is not installed, and for what fails in it."""
    if not pictures:
        return
    with _cluster() as ray:
        nodes = [node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]]
        count = processes or len(nodes)
        threads = max(1, int(min(nodes)) // -(-count // len(nodes)))
        size = BATCHES * wish.batch
        cells = [{"pictures": pickle.dumps(pictures[start : start + size])} for start in range(0, len(pictures), size)]
        try:
            pool = ray.data.ActorPoolStrategy(size=min(count, len(cells)))
            data = ray.data.from_items(cells, override_num_blocks=len(cells)).map_batches(
                Worker, fn_constructor_args=(wish, threads), batch_size=1, compute=pool, num_cpus=1
            )
            for row in data.iter_rows():
                yield from msgspec.msgpack.decode(row["rows"], type=list[Row])
        except ray.exceptions.RayError as error:
            problem = Problem("--on ray", "actors that can do it", raised(error))
            raise InputError("predict", problem) from None


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected to the cluster of this process or of RAY_ADDRESS, or to one that is started on this machine, where nobody else can
    reach it, and ended after."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells nobody unless it is told to
    try:
        import ray
        import ray.data
    except ImportError:
        step = 'pip install "blockzoo[ray]"'
        raise InputError("predict", Problem("--on", "ray", "no such package", next=step)) from None
    is_ours = not ray.is_initialized()
    if is_ours:
        alone: dict[str, Any] = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if os.environ.get("RAY_ADDRESS") else alone))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()
