"""Learning a machine: the time of every distinct piece of the catalogue, and the law that adds them up.

With it the latency of any spec is predicted, of those too that nobody ever built: pieces that are not known yet are timed on the
spot. A prediction carries its error bar and is never mixed with what was measured.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import torch

from zoo import __version__, catalog
from zoo.build.builder import build
from zoo.errors import InputError, Problem
from zoo.front import deploy
from zoo.measure.bench import Progress, jobs_for, run, usual_anchor
from zoo.measure.clock import measure, on_threads
from zoo.measure.code import source_hash
from zoo.measure.device import this_device
from zoo.measure.latency import Latency, Runtime
from zoo.measure.law import Laws, Seen, cross_validated, fit_groups
from zoo.measure.pieces import Piece, pieces
from zoo.measure.predict import Calibration, Parts, Prediction, load_of, predicted, read, runtime_key
from zoo.measure.store import Store, newest
from zoo.measure.worker import ANCHOR, Job, example, free_memory, prepared
from zoo.naming import Model
from zoo.naming import spec as find_spec
from zoo.specs.check import TokenInput
from zoo.specs.model import Spec

SECONDS = 0.05
"""For the samples of one piece."""
LOOKS = 3
"""At each piece, minutes apart: what slowed the machine down at one of them has gone at the next."""
FAMILIES = 8
"""Measured ones, with which a law is taken to be known."""
COPIES = 3
"""Of a piece's weights, for a while: as they were, as they are packed, and what packing needs between."""


class Formed(NamedTuple):
    """A piece and the form of the model that it stands in."""

    form: str
    piece: Piece


def calibrate(
    minutes: float = 3.0,
    runtime: Runtime | None = None,
    models: Iterable[str] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Calibration:
    """Times every distinct piece of the catalogue, as long as there is time, and fits the law to the stored measurements.

    All are timed once, then all again, `LOOKS` times, and the median counts. What an earlier calibration of this machine and torch
    saw is kept, so that a second call goes on where the first ended. Pieces that do not fit into memory are left out, and models that
    hold one are not predicted. Where models of fewer than `FAMILIES` families were measured, a third of the time is kept for small
    ones of others: without them the law and its error are not known.
    """
    runtime = runtime or Runtime()
    names = [name for name in models or catalog.list_models() if catalog.entry(name).file]  # the others are code alone
    device, key, end = this_device().id, runtime_key(runtime), time.perf_counter() + 60 * minutes
    with Store() as store:
        measured = {catalog.entry(row.model).family for row in _rows(store, device, runtime)}
        looks = Looks(store, device, runtime, end - (0 if len(measured) >= FAMILIES else 60 * minutes / 3))
        parts: dict[str, dict[str, Parts]] = {}
        own: dict[str, dict[str, Formed]] = {}  # of each model the pieces that no model before it has
        met: dict[str, Formed] = {}
        for name in _spread(names):
            spec = catalog.published_spec(name)
            forms = {form: list(_pieces(spec, form, runtime)) for form in ("train", "deploy")}
            parts[name] = {form: _parts(found, spec, form) for form, found in forms.items()}
            own[name] = {piece: formed for piece, formed in _distinct(forms).items() if piece not in met}
            met.update(own[name])
            looks.at(own[name], 1)
            progress(Progress(len(own), LOOKS * len(names), name))
        for times in range(2, LOOKS + 1):
            for i, name in enumerate(own):
                looks.at(own[name], times)
                progress(Progress((times - 1) * len(names) + i + 1, LOOKS * len(names), name))
        if len(measured) < FAMILIES and time.perf_counter() < end:
            ready = [name for name in own if all(looks.counts[key] for one in parts[name].values() for key in one.keys)]
            others = _one_of_each_family(name for name in ready if catalog.entry(name).family not in measured)
            chosen = others[: FAMILIES - len(measured)]
            jobs = jobs_for(chosen, ["deploy"], [runtime.threads], [runtime.batch], [runtime.dtype])
            with contextlib.suppress(InputError):  # which names models that fail; the others' rows are kept
                list(run(jobs, seconds=0.1, progress=progress, store=store))
        by_digest = {catalog.entry(name).digest: forms for name, forms in parts.items()}
        seen = _seen(store, device, runtime, by_digest, looks.pace.usual_ms)
        made = Calibration(
            device=device, runtime=key, torch=str(torch.__version__), version=__version__,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            laws=fit_groups(seen) if len(seen) >= 3 else Laws(), errors=cross_validated(seen), models=by_digest,
            complete=not any(_fits(formed.piece) for piece, formed in met.items() if not looks.counts[piece]),
        )  # fmt: skip
        store.set_calibration(device, key, msgspec.json.encode(made))
    return made


def predict(model: Model, form: str = "train", runtime: Runtime | None = None) -> Prediction:
    """The latency of any spec on this machine; pieces that were never timed are timed now. Raises InputError without a calibration."""
    runtime = runtime or Runtime()
    spec, device = find_spec(model), this_device().id
    with Store() as store:
        made = read(store, device, runtime)
        if made is None:
            found = f"none for {device}, {runtime.key}"
            raise InputError("predict", Problem("", "a calibration of this machine", found, next="run `zoo calibrate`"))
        own = list(_pieces(spec, form, runtime))
        Looks(store, device, runtime).at(_distinct({form: own}), 1)
        known = store.pieces(device, runtime_key(runtime))
        large = [piece for piece in own if piece.key not in known]
    if large:
        found = f"`{large[0].path}` with {large[0].weight_bytes / 1e9:.1f} GB of weights"
        raise InputError("predict", Problem(spec.name, "pieces that fit into the free memory, to be timed", found))
    return predicted(made, _parts(own, spec, form), known)


class Looks:
    """At pieces, stored as they are made; `counts` says how many there were of each."""

    def __init__(self, store: Store, device: str, runtime: Runtime, end: float = math.inf):
        self.store, self.device, self.runtime, self.end = store, device, runtime, end
        self.pace = Pace(runtime, usual_anchor(store, device, runtime.threads))
        known = store.looks(device, runtime_key(runtime))
        self.counts = Counter({piece: len(times) for piece, times in known.items()})

    def at(self, own: dict[str, Formed], times: int) -> None:
        """Times once what was not timed so often yet and fits into memory, as long as there is time."""
        wanted = {key: own[key] for key in own if self.counts[key] < times and _fits(own[key].piece)}
        slower = self.pace.now() if wanted and time.perf_counter() < self.end else 1.0
        found = {}
        for key, (form, piece) in wanted.items():
            if time.perf_counter() < self.end:
                found[key] = time_piece(piece, form, self.runtime) / slower
        self.store.add_looks(self.device, runtime_key(self.runtime), found)
        self.counts.update(found.keys())


class Pace:
    """How slow this machine is at the moment, against what it usually is: told by the anchor that `zoo bench` times beside models.

    Minutes pass between the first piece and the last, and days between those and the models, and it is not as fast in all of them.
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


def _rows(store: Store, device: str, runtime: Runtime) -> Iterator[Latency]:
    """The newest clean ones of the catalogue's models, of today's code."""
    for row in newest(store.rows(device=device, verdict="clean")):
        entry = catalog.entries().get(row.model)
        if entry and row.runtime.key == runtime.key and row.source == source_hash(tuple(entry.blocks)):
            yield row


def _one_of_each_family(names: Iterable[str]) -> list[str]:
    """The second smallest, where there are two: the smallest ones are test models. Cheap families first."""
    families: dict[str, list[catalog.Entry]] = {}
    for entry in sorted(map(catalog.entry, names), key=lambda entry: entry.macs):
        families.setdefault(entry.family, []).append(entry)
    return [entry.name for entry in sorted((own[:2][-1] for own in families.values()), key=lambda entry: entry.macs)]


def _distinct(forms: dict[str, list[Piece]]) -> dict[str, Formed]:
    """By key."""
    return {piece.key: Formed(form, piece) for form, found in forms.items() for piece in found}


def _fits(piece: Piece) -> bool:
    free = free_memory("cpu")
    return not free or COPIES * piece.weight_bytes < free


def time_piece(piece: Piece, form: str, runtime: Runtime) -> float:
    """Milliseconds of one run: the median of the thread's own time, which others do not stretch by taking the processor."""
    with on_threads(runtime.threads), torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return statistics.median(measure(piece.ready(form == "deploy"), SECONDS).cpu_ms)


def _pieces(spec: Spec, form: str, runtime: Runtime) -> Iterable[Piece]:
    net: Any = build(spec).to(getattr(torch, runtime.dtype))
    return pieces(deploy(net) if form == "deploy" else net, runtime.batch)


def _parts(found: list[Piece], spec: Spec, form: str) -> Parts:
    megabytes = round(sum(piece.weight_bytes for piece in found) / 1e6, 3)
    group = f"{'tokens' if isinstance(spec.input, TokenInput) else 'images'}, {form} form"
    return Parts([piece.key for piece in found], megabytes, group)


def _seen(
    store: Store, device: str, runtime: Runtime, parts: dict[str, dict[str, Parts]], usual_anchor_ms: float | None
) -> list[Seen]:
    """Measurements of models whose pieces are all known; as if the anchor had taken its usual time."""
    known = store.pieces(device, runtime_key(runtime))
    seen = []
    for row in _rows(store, device, runtime):
        own = parts.get(row.digest, {}).get(row.form)
        if own is not None and all(key in known for key in own.keys):
            slower = row.anchor_ms / usual_anchor_ms if usual_anchor_ms else 1.0
            seen.append(Seen(catalog.entry(row.model).family, load_of(own, known), row.p50_ms / slower, own.group))
    return seen


def _spread(names: list[str]) -> list[str]:
    """One of each family in turn, the smallest first, so that a short calibration knows something of all."""
    entries = sorted((catalog.entry(name) for name in names), key=lambda entry: entry.macs)
    turns: dict[str, int] = {}
    order = []
    for entry in entries:
        turns[entry.family] = turns.get(entry.family, -1) + 1
        order.append((turns[entry.family], entry.name))
    return [name for _, name in sorted(order, key=lambda pair: pair[0])]
