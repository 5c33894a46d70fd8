"""Models against each other on this machine: timed in turns, so that what disturbs one disturbs all, and compared as ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch

from zoo.catalog.sources import spec as find_spec
from zoo.display.rows import flat, tabled
from zoo.errors import InputError, Problem
from zoo.measure.clock import on_threads
from zoo.measure.latency import Runtime, Verdict, judge, median_interval, rounded
from zoo.measure.worker import Job, example, prepared


class Compared(NamedTuple):
    """`ratio` is the time of the first model over this one's, round by round: above 1 it is faster. With its interval, and a verdict."""

    name: str
    ms: float
    ratio: float
    low: float
    high: float
    verdict: Verdict
    reason: str


@tabled
def compare(
    *models: str | Iterable[str],
    form: Literal["train", "deploy"] = "deploy",
    threads: int = 1,
    batch: int = 1,
    rounds: int = 21,
) -> list[Compared]:
    """Each model (names, or a list of them) once per round, in an order that turns.

    Raises InputError for fewer than two models or five rounds.
    """
    models = flat(models)
    for name in models:
        find_spec(name)  # raises for a name that is none, before anything is timed
    if len(models) < 2 or rounds < 5:
        found = f"{len(models)} models and {rounds} rounds"
        raise InputError("compare", Problem("", "two models and five rounds at least", found))
    jobs = [Job(name, name, form, Runtime(threads, batch=batch)) for name in models]
    with on_threads(threads), torch.inference_mode():
        nets = [prepared(job) for job in jobs]
        inputs = [example(job, net) for job, net in zip(jobs, nets, strict=True)]
        times = _in_turns(nets, inputs, rounds)
    return [_compared(name, times[i], times[0]) for i, name in enumerate(models)]


def _in_turns(nets: Sequence[Any], inputs: Sequence[Any], rounds: int) -> list[list[tuple[float, float]]]:
    """(wall, CPU) seconds of each model in each round, after two rounds to warm up."""
    times: list[list[tuple[float, float]]] = [[] for _ in nets]
    for turn in range(-2, rounds):
        for i in [(turn + step) % len(nets) for step in range(len(nets))]:
            wall, cpu = time.perf_counter(), time.thread_time()
            nets[i](inputs[i])
            spent = time.perf_counter() - wall, time.thread_time() - cpu
            if turn >= 0:
                times[i].append(spent)
    return times


def _compared(name: str, own: list[tuple[float, float]], first: list[tuple[float, float]]) -> Compared:
    walls = [wall for wall, _ in own]
    ratios = sorted(theirs / ours for (theirs, _), (ours, _) in zip(first, own, strict=True))
    low, high = median_interval(ratios)
    verdict, reason = judge(_fifths(walls), sum(walls) / max(1e-9, sum(cpu for _, cpu in own)))
    width = (high - low) / statistics.median(ratios)
    ms, ratio = rounded(1e3 * statistics.median(walls), width), rounded(statistics.median(ratios), width)
    return Compared(name, ms, ratio, rounded(low, width), rounded(high, width), verdict, reason)


def _fifths(walls: list[float]) -> list[float]:
    """Medians of five stretches of the run: they differ when something changed meanwhile."""
    size = len(walls) // 5
    return [statistics.median(walls[i * size : (i + 1) * size]) for i in range(5)]
