"""One model for one budget: predict, shortlist, measure the finalists, write a folder that is ready to use."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zoo.errors import InputError, Problem
from zoo.measure.bench import jobs_for, run
from zoo.measure.engines import runtime_meant
from zoo.measure.latency import TORCH, Latency
from zoo.measure.predict import calibrate_command
from zoo.measure.processes import Progress
from zoo.measure.published import METRIC
from zoo.measure.worker import Job
from zoo.selection.evaluation import Trial, trial
from zoo.selection.find import Candidate, find

REACH = 1.25
"""What is known to take up to so many times the budget is measured: the best model may be faster than it is thought to be."""
FINALISTS = 6

Measure = Callable[[Sequence[str]], dict[str, Latency]]


class Picked(NamedTuple):
    """The choice, the finalists as measured, and the milliseconds that decoding and resizing take before it, 0 if not asked for.

    `trials`: how the finalists that keep the budget, and have weights at hand, do on the user's labelled images.
    """

    choice: Candidate
    row: Latency
    finalists: list[tuple[Candidate, Latency]]
    prepare_ms: float = 0.0
    trials: dict[str, Trial] = {}


def pick(
    latency_ms: float,
    metric: str = METRIC,
    *,
    runtime: str = "torch",
    dtype: str = "float32",
    quantile: Literal["p50", "p90"] = "p50",
    form: Literal["train", "deploy"] = "deploy",
    threads: int = 1,
    minutes: float = 10.0,
    commercial: bool = False,
    images: Sequence[Path] = (),
    end_to_end: bool = False,
    measure: Measure | None = None,
    known: Sequence[Candidate] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Picked:
    """The model with the best figure of `metric` whose measured latency is within the budget, of `known` or all models, each in the
    runtime that is named or, with `any`, in that in which it is known to be fastest here.

    Finalists are measured from the best figure down, a few at a time: of all whose range, and one step as wide beyond it, reaches into the
    budget. What they turn out to take, against what was predicted, moves the other predictions; better models that come within reach
    then are measured too, so nothing that is worse than the choice is measured in vain, and nothing better is passed over because all
    predictions are off. end_to_end: the budget includes reading, decoding and resizing one of `images`, or of a 1080p JPEG where there
    are none, on one thread. Where images lie in folders that are called like classes, the finalists that fit are tried on them, and
    those with weights are chosen by what they do there. Raises InputError when nothing fits, or when no latency is known.
    """
    if known is None:
        known = find(
            metric=metric, form=form, threads=threads, commercial=commercial, task="", runtime=runtime, dtype=dtype
        )
    timed = [candidate for candidate in known if candidate.ms is not None]
    if not timed:
        next_step = f"run `{calibrate_command(runtime_meant(runtime, dtype, threads))}` first"
        found = f"none with {threads} thread{'s' if threads > 1 else ''}"
        raise InputError("pick", Problem("", "latencies of this machine", found, next=next_step))
    measure = measure or _measuring({one.name: one for one in timed}, threads, progress)
    finalists: list[tuple[Candidate, Latency]] = []
    fit: list[Picked] = []
    ahead, end = timed, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        pace = _pace(finalists)
        batch = [candidate for candidate in ahead if _least_ms(candidate, pace) <= latency_ms][:FINALISTS]
        if not batch:
            break
        rows = measure([candidate.name for candidate in batch])
        timed_now = [(candidate, rows[candidate.name]) for candidate in batch if candidate.name in rows]
        finalists += timed_now
        for candidate, row in timed_now:
            before = _preparing(candidate.name, images) if end_to_end else 0.0
            if before + (row.p90_ms if quantile == "p90" else row.p50_ms) <= latency_ms:
                fit.append(Picked(candidate, row, finalists, before))
        best = min((timed.index(candidate.choice) for candidate in fit), default=len(timed))
        ahead = [candidate for candidate in ahead if candidate not in batch and timed.index(candidate) < best]
    if fit:
        fit.sort(key=lambda candidate: timed.index(candidate.choice))
        tried_out = {candidate.choice.name: trial(candidate.choice.name, images) for candidate in fit} if images else {}
        trials = {name: tried for name, tried in tried_out.items() if tried is not None}
        choice = max(
            fit,
            key=lambda candidate: trials[candidate.choice.name].accuracy if candidate.choice.name in trials else -1.0,
        )
        return choice._replace(trials=trials)
    fastest = min(timed, key=lambda candidate: candidate.ms or 0.0)
    nearest = f"the fastest, {fastest.name}, takes {fastest.ms:.3g} ms"
    raise InputError(
        "pick", Problem("", f"a model within {latency_ms:g} ms", nearest, next="raise the budget, or --threads")
    )


def _pace(finalists: Sequence[tuple[Candidate, Latency]]) -> float:
    """How many times as long as predicted the finalists took, in the median; 1 where none was a prediction."""
    ratios = [
        row.p50_ms / candidate.ms for candidate, row in finalists if candidate.latency == "predicted" and candidate.ms
    ]
    return statistics.median(ratios) if ratios else 1.0


def _least_ms(one: Candidate, pace: float) -> float:
    """The fastest that a candidate may be: a step below what is known of it, as wide as the lower half of its range."""
    ms = one.ms or 0.0
    if one.latency != "predicted":
        return ms / REACH
    return pace * min(ms / REACH, one.low_ms**2 / ms if one.low_ms and ms else ms)


def _measuring(known: Mapping[str, Candidate], threads: int, progress: Callable[[Progress], None]) -> Measure:
    """Each model as its candidate is known: in its form, runtime and dtype."""

    def measure(names: Sequence[str]) -> dict[str, Latency]:
        jobs = [job for name in names for job in _jobs(known[name], threads)]
        return {row.model: row for row in run(jobs, progress=progress)}

    return measure


def _jobs(one: Candidate, threads: int) -> list[Job]:
    engine = TORCH.get(one.runtime, one.runtime)
    return jobs_for([one.name], [one.form], [threads], dtypes=[one.dtype], engines=[engine])


def _preparing(name: str, images: Sequence[Path]) -> float:
    """Milliseconds from an image file to the model's input: the median over files."""
    import numpy as np
    from PIL import Image

    from zoo.data.transforms import transform
    from zoo.measure.clock import measure

    prepare = transform(name)
    files: list[Any] = [path.read_bytes() for path in images[:16]]
    if not files:
        drawn = np.random.default_rng(0).integers(0, 255, (135, 240, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(drawn).resize((1920, 1080)).save(buffer, "JPEG", quality=90)
        files = [buffer.getvalue()]
    return statistics.median(statistics.median(measure(partial(_prepared, prepare, data), 0.1).ms) for data in files)


def _prepared(prepare: Any, data: bytes) -> Any:
    from PIL import Image

    return prepare(Image.open(io.BytesIO(data)))
