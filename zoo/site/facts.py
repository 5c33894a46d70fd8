"""What the pages of models, families and blocks tell, which the browser makes sections of.

Families whose names begin with the same letter share a volume, a script with their facts, and another with their specs: they have most words in
common, so that a volume is little larger than any of them. A drawing that recurs stands in its volume once. What follows from
other facts is left out: `assets/facts.js` puts it back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from blocks.registry import BlockInfo
from blocks.registry.schema import words
from blocks.registry.words import printable, short_name
from zoo.measure.block_latency import BlockLatency
from zoo.measure.device import Device
from zoo.measure.latency import Latency
from zoo.measure.profiles import costs
from zoo.measure.task_table import shipped as task_table
from zoo.publish.cards import bibtex
from zoo.selection.figures import unit_of
from zoo.site.figures import row_record
from zoo.site.known import Accuracy, Known
from zoo.site.pages import is_web, link_of, spec_text
from zoo.site.pool import Pool
from zoo.site.render import slug
from zoo.site.runs import label
from zoo.site.structure import Node, places
from zoo.weights.manifest import Manifest

FORMS = ("train", "deploy")
DIGEST_SHOWN = 12


class Volume(NamedTuple):
    """Families that share two scripts: their facts with the drawings that these point to, and their specs."""

    letter: str
    facts: dict[str, Any]
    specs: dict[str, str]


def volumes(
    families: Mapping[str, Sequence[Known]], devices: Mapping[str, Device], pages: Iterable[str]
) -> Iterator[Volume]:
    """`pages` are the blocks of the site that have one."""
    linked = set(pages)
    alike: dict[str, list[str]] = defaultdict(list)
    for family in sorted(families):
        alike[slug(family)[0].lower()].append(family)
    for letter, names in alike.items():
        drawings = Pool()
        facts = {name: _family(families[name], devices, linked, drawings) for name in names}
        yield Volume(
            letter,
            {"drawings": drawings.values, "families": facts},
            {name: spec_text(families[name][0]) for name in names},
        )


def _family(members: Sequence[Known], devices: Mapping[str, Device], pages: set[str], drawings: Pool) -> dict[str, Any]:
    entry = members[0].entry
    used = {short_name(block) for known in members for block in known.entry.blocks}
    seen = {row.device for known in members for row in known.timings}
    return {
        "title": entry.title,
        "cite": bibtex(entry),
        "paper": link_of(entry.paper),
        "code": entry.code if is_web(entry.code) else "",
        "blocks": sorted(used & pages),
        "devices": {name: label(devices[name]) for name in sorted(seen) if name in devices},
        "units": {one.metric: unit_of(one.metric) for known in members for one in known.accuracies},
        "models": {known.name: _title(known, entry.title) | _model(known, devices, drawings) for known in members},
    }


def _title(known: Known, shared: str) -> dict[str, str]:
    return {"title": known.entry.title} if known.entry.title != shared else {}


def _model(known: Known, devices: Mapping[str, Device], drawings: Pool) -> dict[str, Any]:
    entry = known.entry
    return {
        "task": entry.task,
        "mixing": known.mixing,
        "input": known.input_words,
        "digest": entry.digest[:DIGEST_SHOWN],
        "licence": [entry.licence, known.licence_class],
        "costs": _costs(known.name),
        "places": _places(known, drawings),
        "classes": known.parts.classes if known.parts else {},
        "timings": [_timing(known, row, devices.get(row.device)) for row in known.timings],
        "accuracies": [_accuracy(one) for one in known.accuracies],
        "weights": [_weights(one) for one in known.weights],
    }


def _costs(name: str) -> list[list[int]]:
    """Parameters, MACs, bytes of weights, bytes of activations held at one time: of the train form, and of the deploy form where it is another."""
    forms = [costs()[name][form] for form in FORMS]
    rows = [[cost.params, cost.macs, cost.weight_bytes, cost.peak_activation_bytes] for cost in forms]
    return rows[:1] if rows[0] == rows[1] else rows


def _places(known: Known, drawings: Pool) -> list[list[Any]] | None:
    """[place, which layers, width, drawing] from the stem to the head, None where no spec tells. Beside the first layers of a stage stand the
    parameters and MACs of all of it."""
    if known.spec is None:
        return None
    counted = dict(known.parts.stages) if known.parts else {}
    rows = []
    for place in places(known.spec):
        row = [place.name, place.note, place.width, drawings.place_of([_tree(node) for node in place.nodes])]
        cost = counted.pop(place.name, None)
        rows.append([*row, cost.params, cost.macs] if cost else row)
    return rows


def _tree(node: Node) -> list[Any]:
    return [node.block, node.params, [_tree(part) for part in node.parts]]


def _timing(known: Known, row: Latency, device: Device | None) -> list[Any]:
    return [
        row.device, row.form, row.runtime.key, row.p50_ms, row.low_ms, row.high_ms, row.p90_ms, row.peak_bytes, row.verdict, known.is_stale(row),
        row.date[:10], row_record(row), _options(row, device),
    ]  # fmt: skip


def _options(row: Latency, device: Device | None) -> str:
    """Those with which `zoo bench` measures a row again."""
    run = row.runtime
    options = {
        "--threads": run.threads if run.threads != 1 else "",
        "--batch": run.batch if run.batch != 1 else "",
        "--dtype": run.dtype if run.dtype != "float32" else "",
        "--device": "cuda" if device and device.kind == "cuda" else "",
        "--runtime": run.name if run.name != "torch" else "",
    }
    return " ".join([f"--form {row.form}", *(f"{option} {value}" for option, value in options.items() if value)])


def _accuracy(one: Accuracy) -> list[Any]:
    figure = one.figure
    ends = [end.value for end in one.interval]
    return [one.metric, figure.value, figure.record, one.weights, one.source, one.command, ends]


def _weights(one: Manifest) -> dict[str, Any]:
    how = one.preprocess
    return {
        "name": one.name, "state": one.state, "licence": [one.licence, one.licence_class], "origin": one.origin, "source": one.source,
        "preprocess": f"{how.size} px, {how.interpolation}, crop {how.crop}" if how else "",
    }  # fmt: skip


MOST_USERS = 12
"""Models whose share of a block is told on the block's page."""


def block_facts(
    info: BlockInfo, models: Iterable[Known], alone: Iterable[BlockLatency], devices: Mapping[str, Device]
) -> dict[str, Any]:
    """`models` are those of the site, `alone` the rows of the block by itself."""
    users = [known for known in models if info.id in known.entry.blocks]
    families = Counter(known.entry.family for known in users)
    return {
        "formula": printable(info.summary),
        "layout": info.layout,
        "abilities": info.abilities,
        "paper": link_of(info.paper),
        "covers": info.covers,
        "supplied": info.supplied,
        "parameters": [
            [name, words(param.schema), "required" if param.required else _default(param.default)]
            for name, param in info.params.items()
        ],
        "learned": list(task_table().scores(info.name).items()),
        "alone": [_alone(row, devices.get(row.device)) for row in alone],
        "uses": _uses(info.name, users)[:MOST_USERS],
        "families": sorted(families.items()),
    }


def _alone(row: BlockLatency, device: Device | None) -> list[Any]:
    """The last are the options with which `zoo bench --blocks` measures it again."""
    threads = f" --threads {row.runtime.threads}" if row.runtime.threads != 1 else ""
    cuda = " --device cuda" if device and device.kind == "cuda" else ""
    return [
        label(device) if device else "", row.device, row.runtime.key, row.input, row.params, row.macs, row.p50_ms, row.low_ms, row.high_ms,
        row.ratio, row.anchor, row.verdict, row.is_stale, row.date[:10], row_record(row), threads + cuda,
    ]  # fmt: skip


def _default(value: Any) -> str:
    return printable(value if isinstance(value, str) else msgspec.json.encode(value).decode(), 200)


def _uses(block: str, users: Iterable[Known]) -> list[tuple[str, int, int, int, float]]:
    """(model, places, parameters, MACs, share of all MACs) where a block stands at a place of the spec; the largest share comes first."""
    found = []
    for known in users:
        cost = known.parts.blocks.get(block) if known.parts else None
        if cost is not None:
            share = cost.macs / max(1, costs()[known.name]["train"].macs)
            found.append((known.name, cost.places, cost.params, cost.macs, round(share, 4)))
    return sorted(found, key=lambda use: -use[-1])
