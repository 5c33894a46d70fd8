"""What `zoo find` found as one file that needs no other: the explorer with those models alone.

Scripts and styles stand in the page; its policy lets only these run, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zoo
from blocks.registry.words import short_name
from zoo import catalog
from zoo.display.console import count, size
from zoo.errors import InputError, Problem
from zoo.measure.latency import TORCH, Runtime
from zoo.selection.figures import less_is_better, unit_of
from zoo.selection.find import Candidate
from zoo.site.explorer import DIGEST_LETTERS, FORMS, Choice, Line, Timing, by_kind, goodness, packed
from zoo.site.figures import Shown, milliseconds
from zoo.site.known import Known, mixing_of
from zoo.site.render import ASSETS, render, script
from zoo.site.runs import run_words
from zoo.system.folders import write_text

SCRIPTS = ("words", "drawing", "records", "chart", "table", "drop", "compare", "asked", "explorer")


def write_sheet(found: Sequence[Candidate], path: Path, metric: str, threads: int = 1, batch: int = 1) -> None:
    """Raises InputError for another ending than .html."""
    if path.suffix != ".html":
        raise InputError(str(path), Problem("", "a name that ends in .html", path.suffix or "no ending"))
    write_text(path, sheet(found, metric, threads, batch))


def sheet(found: Sequence[Candidate], metric: str, threads: int = 1, batch: int = 1) -> str:
    """The page; the latencies are those of so many threads and inputs at a time."""
    device = next((one.device for one in found if one.device), "")
    form = found[0].form if found else "deploy"
    chosen = Choice("", metric, device, _runtime(found, threads, batch) if device else "", form)
    lines = sorted((_line(number, one) for number, one in enumerate(found)), key=lambda line: goodness(line, metric))
    style = (ASSETS / "site.css").read_text(encoding="utf-8")
    scripts = [script("zooData", _data(found, chosen))]
    scripts = [
        _closed(text) for text in scripts + [(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    ]
    return render(
        "sheet.html", site="blockzoo", version=zoo.__version__, guides=[], root="", title="What fits", lines=lines, choice=chosen,
        device=device, runtime=run_words(chosen.runtime), total=Shown(len(found), f"{len(found):,}", "total:models"),
        style=style, style_hash=_hash(style), scripts=scripts, script_hashes=" ".join(map(_hash, scripts)),
    )  # fmt: skip


def _runtime(found: Sequence[Candidate], threads: int, batch: int) -> str:
    """The key of the runtime that all ran in, or a word for several."""
    keys = {Runtime(threads, one.dtype, batch, TORCH.get(one.runtime, one.runtime)).key for one in found if one.latency}
    return keys.pop() if len(keys) == 1 else f"the fastest runtime of each, batch {batch}, {threads} threads"


def _closed(text: str) -> str:
    """A script in which no text can end it: `</script` and `<!--` within strings are written as escapes."""
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")


def _hash(text: str) -> str:
    """As a policy names the one text that may run. Browsers read every line end as \\n."""
    digest = base64.b64encode(hashlib.sha256(text.replace("\r\n", "\n").encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _line(number: int, one: Candidate) -> Line:
    def shown(field: str, text: str) -> Shown:
        return Shown(getattr(one, field), text, f"find:{one.name}:{field}")

    def time(field: str) -> Shown | None:
        value = getattr(one, field)
        return None if value is None else shown(field, milliseconds(value))

    accuracy = Shown(one.figure.value, f"{one.figure.value:g}", f"find:{one.name}:figure") if one.figure else None
    memory = one.memory_bytes or one.weight_bytes
    mark = "~" if one.latency == "predicted" else "*" if one.stale else ""
    entry = catalog.entries().get(one.name)
    return Line(
        number, one.name, "", accuracy, mark, time("ms"), time("low_ms"), time("high_ms"), one.latency, shown("params", count(one.params)),
        shown("macs", count(one.macs)),
        Shown(memory, size(memory), f"find:{one.name}:memory_bytes"), _input(entry), _mixing(entry), _weights(entry), one.licence,
    )  # fmt: skip


def _input(entry: catalog.Entry | None) -> str:
    return Known(entry, (), None).input_words if entry else ""


def _mixing(entry: catalog.Entry | None) -> str:
    return mixing_of(entry.blocks) if entry else "other"


def _weights(entry: catalog.Entry | None) -> str:
    return "none" if entry is None else "shipped" if entry.tags else "listed" if entry.listed else "none"


def _data(found: Sequence[Candidate], chosen: Choice) -> dict[str, Any]:
    """As `explorer.data` has it, with one device and runtime."""
    timings = [
        Timing(
            number, 0, 0, FORMS.index(one.form), one.ms, one.low_ms, one.high_ms, one.p90_ms, "predicted" if one.latency == "predicted" else "clean",
            "", f"find:{one.name}", one.stale,
        ) for number, one in enumerate(found) if one.ms is not None
    ]  # fmt: skip
    return {
        "models": packed([_model(one, chosen.metric) for one in found]),
        "blocks": by_kind(
            block
            for entry in map(catalog.entries().get, (one.name for one in found))
            if entry
            for block in entry.blocks
        ),
        "devices": [{"id": chosen.device, "label": chosen.device}] if chosen.device else [],
        "runtimes": [chosen.runtime] if chosen.runtime else [],
        "metrics": [chosen.metric],
        "units": {chosen.metric: unit_of(chosen.metric)},
        "less": [chosen.metric] if less_is_better(chosen.metric) else [],
        "timings": timings if chosen.device else [],
        "choice": chosen._asdict(),
    }


def _model(one: Candidate, metric: str) -> dict[str, Any]:
    entry = catalog.entries().get(one.name)
    memory = one.memory_bytes or one.weight_bytes
    return {
        "name": one.name, "digest": entry.digest[:DIGEST_LETTERS] if entry else "", "family": one.family, "title": entry.title if entry else "",
        "task": entry.task if entry else "", "input": _input(entry), "mixing": _mixing(entry), "licence": one.licence,
        "class": one.licence_class, "sell": one.licence_class == "permissive", "weights": _weights(entry),
        "blocks": [short_name(block) for block in entry.blocks] if entry else [],
        "params": [one.params] * 2, "macs": [one.macs] * 2, "memory": [memory] * 2,
        "accuracy": {metric: [one.figure.value, f"find:{one.name}:figure", one.figure.metric]} if one.figure else {},
    }  # fmt: skip
