"""Predictions of a device that nobody tuned on: an empty store, a calibration, then models that it never measured are measured afresh."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from zoo import catalog
from zoo.catalog.listing import list_models
from zoo.measure.bench import jobs_for, run
from zoo.measure.calibrate import calibrate
from zoo.measure.device import Device
from zoo.measure.latency import Latency, Runtime
from zoo.measure.load import loads
from zoo.measure.predict import Calibration, Prediction
from zoo.measure.this_device import this_device
from zoo.measure.worker import free_memory

FORM = "deploy"
LONGEST = 4e10
"""MACs of the largest model that is measured afresh: five processes of anything larger take minutes."""


def report(minutes: float, models: int, families: int, threads: int = 1) -> list[str]:
    """A table (model, predicted, range, measured, error, inside) and its summary, with the machine named.

    The models are drawn before the calibration, which predicts them and does not time them.
    """
    drawn = draw(models, families)
    with _empty_store():
        device, runtime = this_device(), Runtime(threads)
        made = calibrate(minutes, runtime, untimed=drawn)
        assert not set(drawn) & set(made.fitted)
        rows = list(run(jobs_for(drawn, [FORM], [threads])))
    lines = [f"{'model':34s} {'predicted':>10s} {'range':>19s} {'measured':>9s} {'error':>7s}  inside"]
    pairs = [(row, made.models[row.digest][FORM]) for row in rows]
    lines += [_line(row, guess) for row, guess in sorted(pairs, key=lambda pair: pair[0].p50_ms)]
    clean = [(row, guess) for row, guess in pairs if row.verdict == "clean"]
    off = [abs(guess.ms / row.p50_ms - 1) for row, guess in clean] or [np.nan]
    kept = [_is_inside(row, guess) for row, guess in clean]
    claimed = (
        "no error is claimed" if made.errors is None else f"claimed {made.errors.median:.1%} and {made.errors.p95:.1%}"
    )
    return [
        *lines,
        "",
        f"{_described(device)}, {runtime.key}, {minutes:g} minutes, {len(made.fitted)} models in the fit: {claimed}",
        f"{len(clean)} clean of {len(rows)} measured models of {len({catalog.entry(row.model).family for row, _ in clean})} families "
        f"that are not in the fit: median error {np.median(off):.1%}, 95th percentile {np.quantile(off, 0.95):.1%}, "
        f"{np.mean(kept) if kept else np.nan:.0%} inside the ranges that should hold 90 %; "
        f"{_predicted(made)} of {2 * len(list_models())} model forms have a prediction with a range",
    ]


def _predicted(made: Calibration) -> int:
    """How many forms of models of the catalogue have a range; two models that are one net count twice."""
    known = [made.models.get(entry.digest, {}) for entry in catalog.entries().values()]
    return sum(guess.low_ms is not None for forms in known for guess in forms.values())


def draw(models: int, families: int, seed: int = 0) -> list[str]:
    """As many models of so many families, drawn at random, in turn: each family's spread over its sizes."""
    dice = random.Random(seed)
    fits = [
        entry
        for entry in catalog.entries().values()
        if entry.file
        and entry.macs <= LONGEST
        and 4 * loads()[entry.name][FORM].weight_bytes < (free_memory("cpu") or 1e12)
    ]
    members: dict[str, list[str]] = {}
    for entry in fits:
        members.setdefault(entry.family, []).append(entry.name)
    enough = [family for family, names in members.items() if len(names) >= 2]  # one at least may be measured
    chosen = dice.sample(sorted(enough), min(families, len(enough)))
    queues = [dice.sample(members[family], len(members[family]) - 1) for family in chosen]
    found: list[str] = []
    while len(found) < models and any(queues):
        for queue in queues:
            if queue and len(found) < models:
                found.append(queue.pop())
    return found


def _line(row: Latency, guess: Prediction) -> str:
    span = (
        f"{guess.low_ms:.3g} to {guess.high_ms:.3g}" if guess.low_ms is not None and guess.high_ms is not None else ""
    )
    inside = "yes" if _is_inside(row, guess) else "no"
    return (
        f"{row.model:34s} {guess.ms:10.3g} {span:>19s} {row.p50_ms:9.3g} {guess.ms / row.p50_ms - 1:+7.1%}  {inside}"
        + ("" if row.verdict == "clean" else f"  {row.verdict}: {row.reason}")
    )


def _is_inside(row: Latency, guess: Prediction) -> bool:
    return guess.low_ms is not None and guess.high_ms is not None and guess.low_ms <= row.p50_ms <= guess.high_ms


def _described(device: Device) -> str:
    return (
        f"{device.id} ({device.name}, {device.isa}, {device.cores} cores, {device.fingerprint.gemm_gflops:g} GFLOP/s)"
    )


@contextmanager
def _empty_store() -> Iterator[None]:
    """The user's data folder is another one meanwhile, in which nothing is; rows that ship are rows of other devices."""
    before = os.environ.get("ZOO_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_DATA"] = folder
        this_device.cache_clear()
        try:
            yield
        finally:
            os.environ.pop("ZOO_DATA") if before is None else os.environ.update(ZOO_DATA=before)
            this_device.cache_clear()
