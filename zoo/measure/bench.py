"""Measuring models: their jobs, and the rows of these. `zoo bench` and `zoo.bench` are this."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from zoo import __version__, catalog
from zoo.catalog.sources import spec as find_spec
from zoo.display.rows import flat, tabled
from zoo.measure.engines import engines_named, refuse_impossible, usual_forms
from zoo.measure.latency import MIN_PROCESSES, Latency, Runtime, Sample, compose
from zoo.measure.processes import Bench, Progress, answers_of, usual
from zoo.measure.store import Store, check_device, newest
from zoo.measure.this_device import this_device
from zoo.measure.work_hash import work_hash, work_of
from zoo.measure.worker import ANCHOR, Answer, Job, Plan
from zoo.runtimes.registered import version_of
from zoo.specs.model import Spec

JOBS_PER_PROCESS = 16
SECONDS = 0.3
"""Of samples, for each row and process."""


def jobs_for(
    models: Iterable[str], forms: Sequence[str], threads: Sequence[int], batches: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",), engines: Sequence[str] = ("eager",), device: Literal["cpu", "cuda"] = "cpu",
) -> list[Job]:  # fmt: skip
    """Every combination, those of one model and form in a row. Raises InputError for an engine that cannot run them here."""
    runtimes = [
        Runtime(count, dtype, batch, engine)
        for engine in engines
        for dtype in dtypes
        for batch in batches
        for count in threads
    ]
    refuse_impossible(runtimes, forms, device)
    return [_job(model, form, runtime, device) for model in models for form in forms for runtime in runtimes]


def _job(model: str, form: Any, runtime: Runtime, device: Literal["cpu", "cuda"]) -> Job:
    # not the device's id: a machine first seen on a busy day gets another, and the run goes on
    facts = this_device(device).facts
    text = f"{_spec(model).digest} {form} {runtime.key} {facts} {work_today(model, form)} {__version__}"
    return Job(hashlib.sha256(text.encode()).hexdigest()[:24], model, form, runtime, device)


@functools.lru_cache(maxsize=4096)
def _spec(model: str) -> Spec:
    return find_spec(model)


@functools.lru_cache(maxsize=4096)
def work_today(model: str, form: str) -> str:
    """Hash of the work of a model: as it ships with the catalogue, of any other spec counted on meta."""
    spec = _spec(model)
    entry = catalog.entries().get(spec.name)
    if entry is not None and entry.digest == spec.digest:
        return work_of(spec.name, form)
    from zoo.build.builder import build
    from zoo.measure.load_counter import load_of

    return work_hash(load_of(build(spec), form))


def run(
    jobs: Sequence[Job], processes: int = MIN_PROCESSES, seconds: float = SECONDS, resume: bool = False, retry: bool = True,
    files: Sequence[str] = (), progress: Callable[[Progress], None] = lambda _: None, store: Store | None = None,
) -> Iterator[Latency]:  # fmt: skip
    """Rows, as `zoo.measure.processes.Bench.run` has them."""
    yield from _Models().run(jobs, processes, seconds, resume, retry, files, progress, store)


class _Models(Bench[Job, Latency]):
    kind = "model"

    def __init__(self) -> None:
        self.together = JOBS_PER_PROCESS

    def answers(self, jobs: Sequence[Job], seconds: float, files: Sequence[str]) -> Iterator[Answer]:
        return _answers(Plan(list(jobs), seconds, list(files)))

    def row(self, job: Job, samples: Sequence[Sample], store: Store) -> Latency:
        return _row(job, samples, store)

    def known(self, jobs: Sequence[Job], store: Store) -> dict[str, Latency]:
        newest_rows = {
            (row.digest, row.form, row.device, row.runtime.key): row
            for row in newest(store.rows(shipped=False, verdict="clean"))
        }
        rows = {}
        for job in jobs:
            row = newest_rows.get((_spec(job.model).digest, job.form, this_device(job.device).id, job.runtime.key))
            if row and row.source == work_today(job.model, job.form) and is_of_today(row.runtime):
                rows[job.key] = row
        return rows

    def keep(self, rows: Sequence[Latency], store: Store) -> None:
        store.add(rows)


def is_of_today(runtime: Runtime) -> bool:
    """Whether it was measured with the torch, or the other runtime, that is installed."""
    if runtime.is_torch:
        return runtime.torch.partition("+")[0] == importlib.metadata.version("torch").partition("+")[0]
    return runtime.version == version_of(runtime.engine)


def glance(jobs: Sequence[Job], seconds: float, store: Store) -> Iterator[tuple[Job, Latency | None]]:
    """One sample of each, all in one fresh process, as rows that the store keeps apart from measurements; None for a model that fails."""
    by_key = {job.key: job for job in jobs}
    for answer in _answers(Plan(list(jobs), seconds)):
        job = by_key[answer.key]
        row = _row(job, [answer.sample], store) if answer.sample else None
        store.add_glances([row] if row else [])
        yield job, row


def _answers(plan: Plan) -> Iterator[Answer]:
    return answers_of("zoo.measure.worker", plan)


def _row(job: Job, samples: Sequence[Sample], store: Store) -> Latency:
    from zoo.build.inputs import meta_input

    spec, device = _spec(job.model), this_device(job.device).id
    facts = {
        "model": spec.name, "digest": spec.digest, "form": job.form, "device": device,
        "runtime": msgspec.structs.replace(job.runtime, torch=samples[-1].torch, version=samples[-1].version),
        "input": list(meta_input(spec, job.runtime.batch).shape), "anchor": ANCHOR, "source": work_today(job.model, job.form),
        "version": __version__, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return compose(facts, samples, job.device == "cuda", usual_anchor(store, device, job.runtime.threads))


def usual_anchor(store: Store, device: str, threads: int) -> float | None:
    """What the anchor lately took on a device, in ms; None where too little was measured to say."""
    return usual(store.rows(glances=True, device=device, threads=threads))


@tabled
def bench(
    *models: str | Iterable[str], forms: Sequence[str] | None = None, threads: Sequence[int] = (1,), batches: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",), engine: Literal["eager", "compile"] = "eager", device: Literal["cpu", "cuda"] = "cpu",
    processes: int = MIN_PROCESSES, seconds: float = SECONDS, resume: bool = False, runtimes: Sequence[str] = (),
) -> list[Latency]:  # fmt: skip
    """Measures models (names, or a list of them) on this machine, in fresh processes, and stores the rows.

    runtimes: `torch`, `compile`, `onnxruntime`, `openvino` and others that `zoo.deploy` takes, or `any` for torch and all that are
    installed; `engine` is the older word for the first two. forms: the train form, or the deploy form for runtimes that run no other.
    Raises InputError for a runtime that cannot be had, and behind all other rows for models that fail."""
    engines = engines_named(runtimes, "bench") if runtimes else [engine]
    jobs = jobs_for(flat(models), forms or usual_forms(engines), threads, batches, dtypes, engines, device)
    return list(run(jobs, processes, seconds, resume))


@tabled
def latency(model: str, device: str = "this", **wanted: Any) -> list[Latency]:
    """What the store holds of a model: rows of this machine, of a named device, or with `device=""` of all.

    `wanted` are values of a row's or its runtime's fields: `form="deploy"`, `threads=1`, `verdict="clean"`. Raises
    InputError for a device that is not known.
    """
    with Store() as store:
        if device:
            wanted["device"] = this_device().id if device == "this" else device
        rows = store.rows(digest=_spec(model).digest, **wanted)
        if not rows and device not in ("", "this"):
            check_device(store, device, "latency")
        return rows
