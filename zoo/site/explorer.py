"""What the explorer draws, filters and sorts, as data: the models, and every latency that is known of them. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from blocks.registry import known as known_block
from blocks.registry.words import short_name
from zoo.measure.device import Device
from zoo.measure.predict import Calibration
from zoo.selection.figures import less_is_better, unit_of
from zoo.site import figures
from zoo.site.figures import Shown
from zoo.site.known import Known, Measurements
from zoo.site.pool import column
from zoo.site.render import address
from zoo.site.runs import label

FORMS = ("train", "deploy")
DIGEST_LETTERS = 10
"""Of a digest, by which the browser knows the models of a file that is dropped on the page."""
METRIC = "imagenet-1k/top1"


class Choice(NamedTuple):
    """What the page shows before anybody chooses."""

    task: str
    metric: str
    device: str
    runtime: str
    form: str


class Line(NamedTuple):
    """A row of the table as it stands in the page, for readers without a script; `href` is "" where there is no page to go to, `mark`
    is what `zoo find` writes before milliseconds."""

    number: int
    name: str
    href: str
    accuracy: Shown | None
    mark: str
    ms: Shown | None
    low: Shown | None
    high: Shown | None
    state: str
    params: Shown
    macs: Shown
    memory: Shown
    input: str
    mixing: str
    weights: str
    licence: str


class Timing(NamedTuple):
    """A latency, as the browser gets it: the first four are positions in lists. `state` is a verdict, or `predicted`."""

    model: int
    device: int
    runtime: int
    form: int
    ms: float
    low: float | None
    high: float | None
    p90: float | None
    state: str
    date: str
    record: str
    stale: bool = False


def data(models: Sequence[Known], found: Measurements) -> dict[str, Any]:
    """The whole of it."""
    rows = [(row.device, row.runtime.key) for known in models for row in known.timings]
    rows += [(one.device, _runtime(one.runtime)) for one in found.calibrations]
    devices, runtimes = sorted({device for device, _ in rows}), sorted({runtime for _, runtime in rows})
    timings = [
        Timing(
            number, devices.index(row.device), runtimes.index(row.runtime.key), FORMS.index(row.form), row.p50_ms, row.low_ms, row.high_ms, row.p90_ms,
            row.verdict, row.date[:10], figures.row_record(row), known.is_stale(row),
        ) for number, known in enumerate(models) for row in known.timings
    ]  # fmt: skip
    for calibration in found.calibrations:
        place = devices.index(calibration.device), runtimes.index(_runtime(calibration.runtime))
        timings += _predictions(models, calibration, *place)
    return {
        "models": packed([_model(known) for known in models]),
        "blocks": by_kind(block for known in models for block in known.entry.blocks),
        "devices": [_device(name, found.devices) for name in devices],
        "runtimes": runtimes,
        "metrics": metrics(models),
        "units": {metric: unit_of(metric) for metric in metrics(models)},
        "less": [metric for metric in metrics(models) if less_is_better(metric)],
        "timings": timings,
        "choice": choice(models)._asdict(),
    }


def packed(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A column for each key, in which what recurs stands once; `assets/records.js` makes models of them again."""
    return {key: column(model[key] for model in models) for key in models[0]} if models else {}


def by_kind(blocks: Iterable[str]) -> dict[str, list[str]]:
    """The names of blocks under their kinds; one of which its package says nothing is of the kind `other`."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for block in set(blocks):
        info = known_block(block)
        kinds[info.kind if info else "other"].add(short_name(block))
    return {kind: sorted(names) for kind, names in sorted(kinds.items())}


def _model(known: Known) -> dict[str, Any]:
    entry = known.entry
    accuracies = {one.short: [one.figure.value, one.figure.record, one.metric] for one in reversed(known.own)}
    return {
        "name": known.name,
        "digest": entry.digest[:DIGEST_LETTERS],
        "family": entry.family,
        "title": entry.title,
        "task": entry.task,
        "input": known.input_words,
        "mixing": known.mixing,
        "licence": entry.licence,
        "class": known.licence_class,
        "sell": known.sellable,
        "weights": known.weights_state,
        "blocks": [short_name(block) for block in entry.blocks],
        "params": [figures.cost(known.name, form, "params").value for form in FORMS],
        "macs": [figures.cost(known.name, form, "macs").value for form in FORMS],
        "memory": [figures.memory(known.name, form).value for form in FORMS],
        "accuracy": accuracies,
    }


def _predictions(models: Sequence[Known], found: Calibration, device: int, runtime: int) -> Iterator[Timing]:
    """What a calibration says of models that its device did not measure under that runtime."""
    key = _runtime(found.runtime)
    for number, known in enumerate(models):
        measured = {row.form for row in known.timings if (row.device, row.runtime.key) == (found.device, key)}
        for form, guess in found.models.get(known.entry.digest, {}).items():
            if form in FORMS and form not in measured:
                run, record = (number, device, runtime, FORMS.index(form)), f"predicted:{found.device}"
                yield Timing(
                    *run, guess.ms, guess.low_ms, guess.high_ms, guess.high_ms, "predicted", found.date[:10], record
                )


def _runtime(key: str) -> str:
    """A calibration's runtime without the version of torch, or of what runs instead."""
    return re.split(" (?:torch|version) ", key)[0]


def _device(name: str, devices: Iterable[Device]) -> dict[str, Any]:
    """A device as people know it, with the id that records carry."""
    return {"id": name, "label": next((label(device) for device in devices if device.id == name), name)}


def metrics(models: Sequence[Known]) -> list[str]:
    """The metrics that some model has, the one that most have first."""
    counts = Counter(short for known in models for short in {one.short for one in known.own})
    return [metric for metric, _ in counts.most_common()]


def choice(models: Sequence[Known]) -> Choice:
    """Pictures where there are some, the metric that most of these have, and the device, runtime and form with most rows of them."""
    tasks = Counter(known.entry.task for known in models)
    task = tasks.most_common(1)[0][0] if tasks else ""
    shown = [known for known in models if known.entry.task == task]
    known_metrics = metrics(shown)
    metric = METRIC if METRIC in known_metrics else known_metrics[0] if known_metrics else ""
    runs = Counter((row.form == "deploy", row.device, row.runtime.key) for known in shown for row in known.timings)
    if not runs:
        return Choice(task, metric, "", "", "deploy")
    preferred = max(
        runs, key=lambda run: (runs[run] >= runs.most_common(1)[0][1] - 5, run[0], run[2].endswith("t1"), runs[run])
    )
    deployed, device, runtime = preferred
    return Choice(task, metric, device, runtime, "deploy" if deployed else "train")


def lines(models: Sequence[Known], chosen: Choice) -> list[Line]:
    """The table as it is served: all models, those of the chosen task first, the best before the others."""
    rows = [(known.entry.task != chosen.task, _line(number, known, chosen)) for number, known in enumerate(models)]
    return [row for _, row in sorted(rows, key=lambda pair: (pair[0], *goodness(pair[1], chosen.metric)))]


def goodness(row: Line, metric: str) -> tuple[bool, float, float]:
    """What sorts lines: the best first, those without a figure last, and of equals the smallest."""
    sign = 1 if less_is_better(metric) else -1
    return row.accuracy is None, sign * row.accuracy.value if row.accuracy else 0.0, row.params.value


def _line(number: int, known: Known, chosen: Choice) -> Line:
    accuracy = next((one.figure for one in known.own if one.short == chosen.metric), None)
    run = (chosen.device, chosen.runtime, chosen.form)
    timing = next((row for row in known.timings if (row.device, row.runtime.key, row.form) == run), None)
    p50, low, high = (figures.timed(timing, field) if timing else None for field in ("p50_ms", "low_ms", "high_ms"))
    mark = "*" if timing and known.is_stale(timing) else ""
    params, macs = (figures.cost(known.name, chosen.form, field) for field in ("params", "macs"))
    return Line(
        number, known.name, address("models", known.name), accuracy, mark, p50, low, high, timing.verdict if timing else "", params, macs,
        figures.memory(known.name, chosen.form), known.input_words, known.mixing, known.weights_state, known.entry.licence,
    )  # fmt: skip
