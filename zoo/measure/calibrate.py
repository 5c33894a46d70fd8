"""Learning a machine in minutes: a few whole models, those that tell most, are timed here; the law says what that means for all.

With it the latency of any spec is predicted, of those too that nobody ever built: their pieces are timed on the spot, in passes of
the net that they make. A prediction carries its error bar and is never mixed with what was measured.
"""

from __future__ import annotations

import datetime
import functools
import math
import statistics
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from zoo import __version__, catalog
from zoo.build.builder import build
from zoo.build.deploy import deploy
from zoo.catalog.listing import list_models
from zoo.catalog.names import Model
from zoo.catalog.sources import spec as find_spec
from zoo.errors import InputError, Problem
from zoo.measure.bench import glance, jobs_for, usual_anchor
from zoo.measure.clock import measure, on_threads
from zoo.measure.coverage import Errors, checked
from zoo.measure.design import GLANCE, Look, explored
from zoo.measure.engines import refuse_impossible
from zoo.measure.latency import MAX_WALL_CPU, MIN_PROCESSES, Latency, Runtime
from zoo.measure.latency_model import Law, Seen, Subject, deviations
from zoo.measure.load import batched, loads
from zoo.measure.load_counter import load_of
from zoo.measure.predict import Calibration, Prediction, calibrate_command, known_threads, read, runtime_key
from zoo.measure.processes import Progress
from zoo.measure.segments import piece_times, pieces
from zoo.measure.store import Store, newest
from zoo.measure.this_device import this_device
from zoo.measure.work_hash import work_of
from zoo.measure.worker import ANCHOR, Job, example, prepared

if TYPE_CHECKING:
    from zoo.specs.model import Spec

SECONDS = 0.1
"""Seconds for the samples of one model, or of one net's pieces."""
CLEAN, CONTENDED, SUMMED = 0.02, 0.15, 0.08
"""Standard deviations of log ms: of a clean row, of a sample that others slowed down, of a sum of pieces; beside `GLANCE`."""


def calibrate(
    minutes: float = 3.0,
    runtime: Runtime | None = None,
    models: Iterable[str] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    untimed: Container[str] = (),
) -> Calibration:
    """Measures the models that tell most of all, as long as there is time, and predicts all from them and from the rows of other devices.

    What was measured here before, by `zoo bench` or an earlier call, is kept, so that a second call goes on where the first ended.
    The error it states is that of families left out of the fit, and its ranges are widened until they hold nine in ten of those.
    untimed: names of models that are predicted and not measured, for those who want to see how well.
    """
    runtime = runtime or Runtime()
    refuse_impossible([runtime], [], "cpu")
    names = [name for name in models or list_models() if catalog.entry(name).file]  # the others are code alone
    asked = [subject for name in names for subject in _subjects(name, runtime)]
    device, end = this_device().id, time.monotonic() + 60 * minutes
    with Store() as store:
        left = lambda: end - time.monotonic()  # noqa: E731
        look = _looking(store, runtime, 60 * minutes, left, progress)
        explored(_seen(store, device, runtime), asked, device, look, left, untimed)
        law = Law(_seen(store, device, runtime), device)
        errors = checked(law)
        here = {one.subject.digest for one in law.seen if one.device == device}
        made = Calibration(
            device=device, runtime=runtime_key(runtime), torch=str(torch.__version__), version=__version__,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), errors=errors,
            models=_predictions(law, asked, errors) if here else {}, fitted=[name for name in list_models() if catalog.entry(name).digest in here],
        )  # fmt: skip
        store.set_calibration(device, made.runtime, msgspec.json.encode(made))
    return made


def predict(model: Model, form: str = "train", runtime: Runtime | None = None) -> Prediction:
    """The latency of any spec on this machine. Of one that is not in the catalogue, pieces that were never timed are timed now, if it
    fits into memory; otherwise what it computes must do. Raises InputError without a calibration, and for what is no form.

    `zoo.predict` is its older name. Pictures are classified by `zoo predict NAME IMAGE` on the command line, and in Python by
    `model(zoo.transform(model)(picture))`.
    """
    runtime = runtime or Runtime()
    refuse_impossible([runtime], [form], "cpu")
    if form not in ("train", "deploy"):
        step = "model(zoo.transform(model)(picture)) classifies pictures; zoo.predict predicts latencies"
        raise InputError("predict", Problem("form", "`train` or `deploy`", f"`{form}`"[:80], next=step))
    spec, device = find_spec(model), this_device().id
    with Store() as store:
        made = read(store, device, runtime)
        if made is None or not made.models:
            others = ", ".join(map(str, known_threads(store, device, runtime)))
            found = f"none for {device}, {runtime.key}" + (f"; known are those of --threads {others}" if others else "")
            next_step = f"run `{calibrate_command(runtime)}`"
            raise InputError("predict", Problem("", "a calibration of this machine", found, next=next_step))
        if known := made.models.get(spec.digest, {}).get(form):
            return known
        subject = _subject_of(spec, form, runtime)
        seen = _seen(store, device, runtime)
        total = _sum_of_pieces(store, device, spec, form, runtime) if runtime.is_torch else None
        law = Law(seen + ([Seen(subject, device, total, SUMMED)] if total is not None else []), device)
    return _predictions(law, [subject], made.errors)[spec.digest][form]


def _looking(
    store: Store, runtime: Runtime, total: float, left: Callable[[], float], progress: Callable[[Progress], None]
) -> Look:
    """Times subjects in one fresh process, in turn, until time is over; says how far along the calibration is."""

    def look(picked: Sequence[Subject]) -> Iterator[tuple[Subject, Seen | None]]:
        device, usual = this_device().id, usual_anchor(store, this_device().id, runtime.threads)
        jobs = {
            job.key: (job, one)
            for one in picked
            for job in jobs_for(
                [one.name], [one.form], [runtime.threads], [runtime.batch], [runtime.dtype], [runtime.engine]
            )
        }
        for job, row in glance([job for job, _ in jobs.values()], SECONDS, store):
            one = jobs[job.key][1]
            yield one, Seen(one, device, *_unhurried(row, usual)) if row else None
            progress(Progress(round(min(total, total - left())), round(total), f"{one.name}, {one.form} form"))

    return look


def _subjects(name: str, runtime: Runtime) -> list[Subject]:
    entry = catalog.entry(name)
    return [
        Subject(entry.digest, name, entry.family, form, batched(load, runtime.batch))
        for form, load in loads()[name].items()
        if runtime.is_torch or form == "deploy"
    ]


def _subject_of(spec: Spec, form: str, runtime: Runtime) -> Subject:
    """The subject of a spec that is not in the catalogue; one that was made from a model is of its family."""
    entry = catalog.entries().get(spec.name)
    net: Any = build(spec)
    load = load_of(net, form)
    return Subject(spec.digest, spec.name, entry.family if entry else spec.name, form, batched(load, runtime.batch))


def _seen(store: Store, device: str, runtime: Runtime) -> list[Seen]:
    """What is known of the catalogue's models: on this device by today's code, as if the anchor had taken its usual time, and on others.

    Where no other device was measured with as many threads, their rows of the nearest number count.
    """
    subjects = {(one.digest, one.form): one for name in list_models() for one in _subjects(name, runtime)}
    alike = [
        row
        for row in store.rows(glances=True)
        if (row.digest, row.form) in subjects and _but_for_threads(row.runtime) == _but_for_threads(runtime)
    ]
    elsewhere = [row for row in newest(alike) if row.device != device and row.verdict == "clean"]
    nearest = min(
        (row.runtime.threads for row in elsewhere), key=lambda count: abs(math.log(count / runtime.threads)), default=0
    )
    here = [
        row
        for row in alike
        if row.device == device
        and row.runtime.threads == runtime.threads
        and row.source == _work_today(row.digest, row.form)
    ]
    usual = usual_anchor(store, device, runtime.threads)
    found = [(row, row.p50_ms, CLEAN) for row in elsewhere if row.runtime.threads == nearest]
    found += [(row, *_unhurried(row, usual)) for row in newest(here)]
    return [Seen(subjects[row.digest, row.form], row.device, ms, noise) for row, ms, noise in found]


@functools.lru_cache(maxsize=4096)
def _work_today(digest: str, form: str) -> str:
    """Hash of the work of a model of the catalogue."""
    return work_of(next(name for name, entry in catalog.entries().items() if entry.digest == digest), form)


def _but_for_threads(runtime: Runtime) -> tuple[str, str, int]:
    return runtime.engine, runtime.dtype, runtime.batch


def _unhurried(row: Latency, usual_anchor_ms: float | None) -> tuple[float, float]:
    """(milliseconds on a machine that is as fast as usual, noise)."""
    if row.wall_cpu > MAX_WALL_CPU:
        return row.cpu_ms, CONTENDED
    slower = row.anchor_ms / usual_anchor_ms if usual_anchor_ms else 1.0
    return row.p50_ms / slower, CLEAN if row.processes >= MIN_PROCESSES else GLANCE


def _predictions(law: Law, asked: Sequence[Subject], errors: Errors | None) -> dict[str, dict[str, Prediction]]:
    """Predictions by digest and form. A range also holds what one measurement differs from the next."""
    means, covariance = law.predict(asked)
    found: dict[str, dict[str, Prediction]] = {}
    for one, mean, deviation in zip(asked, means, deviations(covariance), strict=True):
        reach = errors.width * math.hypot(deviation, GLANCE) if errors else None
        low, high = (None, None) if reach is None else (math.exp(mean - reach), math.exp(mean + reach))
        found.setdefault(one.digest, {})[one.form] = Prediction(math.exp(mean), low, high)
    return found


def _sum_of_pieces(store: Store, device: str, spec: Spec, form: Any, runtime: Runtime) -> float | None:
    """Milliseconds; pieces that were never timed are timed now, all in passes of the whole net. None where it does not fit."""
    net: Any = build(spec).to(getattr(torch, runtime.dtype))
    keys = [piece.key for piece in pieces(deploy(net) if form == "deploy" else net, runtime.batch)]
    known = store.pieces(device, runtime_key(runtime))
    if not all(key in known for key in keys):
        try:
            times = time_pieces(spec, form, runtime)
        except MemoryError:
            return None
        slower = Pace(runtime, usual_anchor(store, device, runtime.threads)).now()
        fresh = {key: ms / slower for key, ms in zip(keys, times, strict=True) if key not in known}
        store.add_looks(device, runtime_key(runtime), fresh)
        known |= fresh
    return sum(known[key] for key in keys)


def time_pieces(spec: Spec, form: Any, runtime: Runtime) -> list[float]:
    """Milliseconds of each piece in passes of the whole net. Raises MemoryError where it does not fit."""
    with on_threads(runtime.threads), torch.inference_mode(), torch.random.fork_rng(devices=[]):
        job = Job("", spec.name, form, runtime)
        net: Any = prepared(job, spec)
        return piece_times(net, example(job, net), SECONDS)


class Pace:
    """How slow this machine is at the moment, against what it usually is: told by the anchor that is timed beside all models.

    Days may pass between the pieces and the models, and it is not as fast on all of them.
    """

    def __init__(self, runtime: Runtime, usual_ms: float | None):
        self.runtime, self.usual_ms = runtime, usual_ms

    @functools.cached_property
    def _anchor(self) -> Callable[[], Any]:
        job = Job("", ANCHOR, "train", Runtime())
        net = prepared(job)
        x = example(job, net)
        return lambda: net(x)

    def now(self) -> float:
        """Above 1 where it is slower. Where nothing is known of what is usual, the first answer is 1."""
        with on_threads(self.runtime.threads), torch.inference_mode(), torch.random.fork_rng(devices=[]):
            ms = statistics.median(measure(self._anchor, SECONDS).cpu_ms)
        self.usual_ms = self.usual_ms or ms
        return ms / self.usual_ms
