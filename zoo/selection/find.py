"""Which model for this machine: every model of the catalogue with what is known of it, filtered, ranked, explained.

A latency is that of one device, runtime and form: measured where there is a clean row, otherwise predicted and marked so. A metric
is one of one data set; ranks never mix two. Imports no torch where the device is named or known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from blocks.registry.registration import KINDS
from blocks.registry.words import short_name
from zoo import catalog
from zoo.display.console import count
from zoo.display.rows import Row, tabled
from zoo.errors import InputError, Problem, listed, nearest
from zoo.measure.engines import ANY, engines_named
from zoo.measure.latency import DTYPES, Latency, Runtime
from zoo.measure.predict import Prediction, predictions
from zoo.measure.profiles import costs
from zoo.measure.published import METRIC
from zoo.measure.store import Store, check_device, newest
from zoo.measure.this_device import this_device
from zoo.measure.work_hash import is_stale
from zoo.selection.figures import Figure, figure_of, less_is_better, metrics
from zoo.weights.licences import LicenceClass, licence_class

SORTS = ("metric", "latency", "macs", "params", "memory", "name")


class Candidate(Row, frozen=True, omit_defaults=True):
    """One model. `latency` says whether `ms` was `measured` or `predicted`, `stale` that it was measured when
    it asked other work of a machine; `device` is the one that `ms` is of, `runtime` and `dtype` what it ran in, `devices` how many have
    measured the model so in this form; `why` is what leaves it out."""

    name: str
    family: str
    form: str
    params: int
    macs: int
    weight_bytes: int
    licence: str
    licence_class: LicenceClass
    ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    p90_ms: float | None = None
    latency: Literal["measured", "predicted", ""] = ""
    stale: bool = False
    device: str = ""
    devices: int = 0
    runtime: str = "torch"
    dtype: str = "float32"
    memory_bytes: int | None = None
    figure: Figure | None = None
    why: list[str] = []

    def __repr__(self) -> str:
        parts = [f"{'~' if self.latency == 'predicted' else ''}{self.ms:.3g} ms" if self.ms is not None else ""]
        parts += [f"{self.figure.value:g} {self.figure.metric}" if self.figure else ""]
        parts += [f"{count(self.params)} parameters", f"{count(self.macs)}MACs", self.licence, "; ".join(self.why)]
        return f"<{self.name}, {self.form}: {', '.join(part for part in parts if part)}>"


class Limit(NamedTuple):
    """What a candidate must satisfy: what it is, what it should be, and the value of a candidate, None where nobody knows it."""

    what: str
    bound: float
    at_most: bool
    value: Callable[[Candidate], float | None]

    def broken(self, candidate: Candidate) -> str:
        """The sentence why a candidate is left out, "" when it stays."""
        value = self.value(candidate)
        if value is None:
            return f"its {self.what} is not known"
        fits = value <= self.bound if self.at_most else value >= self.bound
        end = "most" if self.at_most else "least"
        return "" if fits else f"its {self.what} is {_short(value)}, and {_short(self.bound)} the {end}"


def _short(value: float) -> str:
    return count(value) if value >= 1e4 else f"{value:.4g}"


@tabled
def find(
    *,
    task: str = "image-classification",
    family: str = "",
    block: str = "",
    device: str = "this",
    max_latency_ms: float | None = None,
    quantile: Literal["p50", "p90"] = "p50",
    min_throughput: float | None = None,
    max_macs: float | None = None,
    max_params: float | None = None,
    max_memory: float | None = None,
    licence: str = "",
    commercial: bool = False,
    metric: str = METRIC,
    min_metric: float | None = None,
    sort: str = "metric",
    pareto: bool = False,
    form: Literal["train", "deploy"] = "deploy",
    threads: int = 1,
    batch: int = 1,
    dtype: str = "float32",
    runtime: str = "torch",
    explain: bool = False,
) -> list[Candidate]:
    """The models that satisfy every limit, the best first; with `explain` the others behind them, each with its reasons.

    block: only models that use it, or one of a kind: `router`.
    device: `this` machine, or the id of one that rows name. runtime: `torch`, `onnxruntime`, `openvino` and others that `zoo bench` takes, or
    `any`: each model in that in which it is fastest; dtype may be `any` as well. max_latency_ms: for one batch, the median or `p90`. min_throughput: inputs
    per second. max_memory: bytes at the peak, as measured, or of weights and activations. licence: `permissive`, `noncommercial`, `research`,
    `unknown`, or a name, `MIT`; commercial is `permissive`. metric: the data set and measure that ranks, `imagenet-1k/top1`, at one size
    with `@384` behind it; models without such a figure are left out where it ranks or limits. min_metric: the worst that will do, in
    percent, or in bits. sort: `metric`, `latency`, `macs`, `params`, `memory` or `name`. pareto: only those that no faster model
    equals. Raises InputError.
    """
    words = {"task": task, "family": family, "block": short_name(block), "licence": licence}
    _check(metric, **words, quantile=quantile, sort=sort, form=form, dtype=dtype)
    dtypes = DTYPES if dtype == ANY else [dtype]
    runtimes = [Runtime(threads, one, batch, engine) for engine in engines_named([runtime], "find") for one in dtypes]
    limits = [
        Limit("latency in ms", max_latency_ms, True, lambda each: each.p90_ms if quantile == "p90" else each.ms)
        if max_latency_ms is not None else None,
        Limit("throughput in inputs per second", min_throughput, False, lambda each: 1e3 * batch / each.ms if each.ms else None)
        if min_throughput is not None else None,
        Limit("number of MACs", max_macs, True, lambda each: each.macs) if max_macs is not None else None,
        Limit("number of parameters", max_params, True, lambda each: each.params) if max_params is not None else None,
        Limit("memory in bytes", max_memory, True, lambda each: each.memory_bytes) if max_memory is not None else None,
        Limit(metric, min_metric, less_is_better(metric), lambda each: each.figure.value if each.figure else None) if min_metric is not None else None,
    ]  # fmt: skip
    matches: list[Candidate] = []
    rest: list[Candidate] = []
    for candidate in candidates(device, runtimes, form, metric):
        entry = catalog.entry(candidate.name)
        if (task and entry.task != task) or (family and entry.family != family) or (block and not entry.uses(block)):
            continue
        why = [sentence for limit in limits if limit is not None and (sentence := limit.broken(candidate))]
        licences = (candidate.licence, candidate.licence_class)
        if (commercial and "permissive" not in licences) or (licence and licence not in licences):
            why.append(f"its licence is {candidate.licence or 'not known'}")
        if candidate.figure is None and sort == "metric" and min_metric is None:
            why.append(f"there is no figure of {metric} for it")
        (rest if why else matches).append(msgspec.structs.replace(candidate, why=why))
    matches = ordered(matches, sort)
    if pareto:
        front = {each.name for each in pareto_front(matches)}
        rest += [
            msgspec.structs.replace(each, why=["a model that is as fast is as good"])
            for each in matches
            if each.name not in front
        ]
        matches = [each for each in matches if each.name in front]
    return matches + ordered(rest, "name") if explain else matches


def candidates(device: str, runtimes: Sequence[Runtime], form: str, metric: str = METRIC) -> Iterable[Candidate]:
    """Every model of the catalogue with its latency on a device, in the fastest of these runtimes, and its figure of a metric."""
    with Store() as store:
        where = this_device().id if device == "this" else device
        rows = list(newest(store.rows(verdict="clean", form=form)))
        known = [_Known.of(runtime, rows, where, predictions(store, where, runtime)) for runtime in runtimes]
        if device != "this":
            check_device(store, device, "find")
    for name, entry in catalog.entries().items():
        cost = costs()[name][form]
        runtime, row, timed, devices = min(
            (one.of_model(entry.digest, form) for one in known), key=lambda each: _preference(each.timed)
        )
        timed["stale"] = row is not None and is_stale(row, name)
        timed.setdefault("memory_bytes", cost.weight_bytes + cost.peak_activation_bytes)
        yield Candidate(
            name, entry.family, form, cost.params, cost.macs, cost.weight_bytes, entry.licence, licence_class(entry.licence),
            figure=figure_of(name, metric), device=where if timed.get("latency") else "", devices=devices,
            runtime=runtime.name, dtype=runtime.dtype, **timed,
        )  # fmt: skip


class _Timed(NamedTuple):
    """What is known of one model in one runtime."""

    runtime: Runtime
    row: Latency | None
    timed: dict[str, Any]
    devices: int


class _Known(NamedTuple):
    """What is known of all models in one runtime: the rows of a device, how many devices measured each, and predictions."""

    runtime: Runtime
    rows: dict[str, Latency]
    devices: Counter[str]
    guesses: dict[tuple[str, str], Prediction]

    @staticmethod
    def of(
        runtime: Runtime, rows: Iterable[Latency], device: str, guesses: dict[tuple[str, str], Prediction]
    ) -> _Known:
        alike = [row for row in rows if row.runtime.key == runtime.key]
        here = {row.digest: row for row in alike if row.device == device}
        return _Known(runtime, here, Counter(row.digest for row in alike), guesses)

    def of_model(self, digest: str, form: str) -> _Timed:
        row = self.rows.get(digest)
        return _Timed(self.runtime, row, _figures(row, self.guesses.get((digest, form))), self.devices[digest])


def _preference(timed: dict[str, Any]) -> tuple[bool, bool, float]:
    """The smaller, the better: what was measured before what is predicted, and the faster of two."""
    kind = timed.get("latency", "")
    return kind != "measured", kind != "predicted", timed.get("ms", math.inf)


def _figures(row: Latency | None, guess: Prediction | None) -> dict[str, Any]:
    """Measured before predicted. A prediction's 90th percentile is the upper end of its error bar."""
    if row is not None:
        fields = {
            "ms": row.p50_ms,
            "low_ms": row.low_ms,
            "high_ms": row.high_ms,
            "p90_ms": row.p90_ms,
            "latency": "measured",
        }
        return fields | ({"memory_bytes": row.peak_bytes} if row.peak_bytes else {})
    if guess is not None:
        ms: dict[str, Any] = {"ms": guess.ms, "low_ms": guess.low_ms, "high_ms": guess.high_ms, "p90_ms": guess.high_ms}
        return ms | {"latency": "predicted"}
    return {}


def ordered(found: list[Candidate], sort: str) -> list[Candidate]:
    keys: dict[str, Callable[[Candidate], tuple[float, float]]] = {
        "metric": lambda one: (-one.figure.rank if one.figure else math.inf, one.ms or math.inf),
        "latency": lambda one: (one.ms or math.inf, one.macs),
        "macs": lambda one: (one.macs, one.params),
        "params": lambda one: (one.params, one.macs),
        "memory": lambda one: (one.memory_bytes or math.inf, one.macs),
    }
    return sorted(found, key=keys[sort]) if sort in keys else sorted(found, key=lambda one: one.name)


def pareto_front(found: Iterable[Candidate]) -> list[Candidate]:
    """Those with a latency and a figure that no model at most as slow equals, the fastest first."""
    front: list[Candidate] = []
    best = -math.inf
    points = [(each.ms, -each.figure.rank, each) for each in found if each.ms is not None and each.figure is not None]
    for _, less, each in sorted(points, key=lambda three: three[:2]):
        if -less > best:
            front.append(each)
            best = -less
    return front


def _check(metric: str, **words: str) -> None:
    """Raises InputError for words that mean nothing, all at once; "" is no word where it is a default."""
    entries = catalog.entries().values()
    tasks, families, licences = (
        sorted({getattr(entry, what) for entry in entries}) for what in ("task", "family", "licence")
    )
    blocks = sorted({short_name(block) for entry in entries for block in entry.blocks})
    choices = {
        "task": tasks, "family": families, "block": [*blocks, *KINDS], "licence": [*get_args(LicenceClass), *licences], "quantile": ["p50", "p90"],
        "sort": SORTS, "form": ["train", "deploy"], "dtype": [*DTYPES, ANY],
    }  # fmt: skip
    problems = [
        Problem(what, f"one of {listed(choices[what])}", f"`{word}`", nearest(word, choices[what]))
        for what, word in words.items()
        if word not in choices[what] and (word or what not in ("task", "family", "block", "licence"))
    ]
    if not any(figure_of(name, metric) for name in catalog.entries()):  # ends at the first model that has one
        problems.append(Problem("metric", f"one of {listed(metrics())}", f"`{metric}`", nearest(metric, metrics())))
    if problems:
        raise InputError("find", problems)
