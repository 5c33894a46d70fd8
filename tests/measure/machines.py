"""Machines that nobody has: what they would take for each model of the catalogue, for tests of predictions that wait for no clock."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from zoo import catalog
from zoo.measure.latency_model import Subject
from zoo.measure.load import NOMINAL, loads, nominal_ms


class Machine(NamedTuple):
    """`pace[i]` is how many times as long as on the nominal machine kind i of work takes; weights beyond the cache cost `memory` ms for
    each MB more. Every family has a constant of its own (its kernels suit the machine or not), and so has every model."""

    name: str
    pace: Sequence[float]
    cache_mb: float
    memory: float
    families: float = 0.05
    models: float = 0.02

    def ms(self, one: Subject) -> float:
        parts = sum(pace * ms for pace, ms in zip(self.pace, nominal_ms(one.load), strict=True))
        parts += self.memory * max(0.0, one.load.weight_bytes / 1e6 - self.cache_mb)
        drawn = self.families * self._draw(one.family) + self.models * self._draw(one.name + one.form)
        return parts * math.exp(drawn)

    def _draw(self, word: str) -> float:
        return random.Random(zlib.crc32(f"{self.name} {word}".encode())).gauss(0, 1)


def machine(seed: int) -> Machine:
    """Kinds of work take from a half to twice what they take elsewhere; all together from a half to three times."""
    draw = random.Random(seed)
    overall = math.exp(draw.uniform(math.log(0.5), math.log(3.0)))
    pace = [overall * math.exp(draw.uniform(-0.7, 0.7)) for _ in NOMINAL.__struct_fields__]
    return Machine(f"machine-{seed}", pace, draw.choice([1.0, 8.0, 30.0, 100.0]), overall * draw.uniform(0.05, 0.2))


def subjects() -> list[Subject]:
    """Every model of the catalogue in both forms."""
    return [
        Subject(entry.digest, name, entry.family, form, load)
        for name, entry in catalog.entries().items()
        for form, load in loads()[name].items()
    ]
