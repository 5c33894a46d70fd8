"""Samples and rows for the tests of measuring."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from zoo.measure.block_latency import BlockLatency
from zoo.measure.block_latency import compose as compose_block
from zoo.measure.latency import Latency, Runtime, Sample, compose
from zoo.measure.source_hash import source_hash
from zoo.measure.store import Store

FACTS: dict[str, Any] = {
    "model": "net", "digest": "d" * 64, "form": "train", "device": "xeon-2c-0", "runtime": Runtime(), "input": [1, 3, 8, 8],
    "anchor": "anchor", "date": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def sample(ms: list[float], waited: float = 1.0, anchor: float = 2.0) -> Sample:
    return Sample(ms, [one / waited for one in ms], [anchor] * 3, 1, 3, 1000)


def quiet(centre: float = 10.0) -> list[Sample]:
    return [sample([centre + shift + step for step in (-0.1, 0.0, 0.1)]) for shift in (-0.2, -0.1, 0.0, 0.1, 0.2)]


def row(centre: float = 10.0, **facts: object) -> Latency:
    return compose({**FACTS, **facts}, quiet(centre))


def block_row(centre: float = 1.0, **facts: object) -> BlockLatency:
    """The row of a block by itself, of today's code."""
    block = str(facts.get("block", "core/mlp@1"))
    usual = {
        "block": block, "device": "xeon-2c-0", "runtime": Runtime(), "input": [1, 196, 64], "params": 33_088, "macs": 6_422_528,
        "source": source_hash((block,)), "date": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return compose_block({**usual, **facts}, [sample([centre * (1 + 0.01 * i)] * 3) for i in range(5)])


def hammer(path: Path, seed: int) -> None:
    """What one of several processes writes into a store."""
    draw = random.Random(seed)
    for i in range(40):
        with Store(path) as store:
            store.add([row(float(seed * 100 + i + 1)), row(draw.choice([1.0, 2.0, 3.0]))])
            store.add_looks("d", "r", {f"{seed}-{i}": 1.0})
