"""What the pages of models and blocks tell: a script for each family, and one for each kind of block, which the browser makes sections of.

The models of a family share most of their words, so that a file of all of them is little larger than one of any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from blocks.registry import BlockInfo
from blocks.registry.schema import words
from blocks.registry.words import printable, short_name
from zoo.catalog.published import published_spec
from zoo.measure.device import Device
from zoo.measure.latency import Latency
from zoo.measure.profiles import costs
from zoo.measure.task_table import shipped as task_table
from zoo.publish.cards import bibtex
from zoo.selection.figures import unit_of
from zoo.site.figures import row_record
from zoo.site.known import Accuracy, Known
from zoo.site.pages import is_web, link_of
from zoo.site.runs import label
from zoo.site.structure import Node, places
from zoo.weights.manifest import Manifest

FORMS = ("train", "deploy")
DIGEST_SHOWN = 12


def family_facts(members: Sequence[Known], devices: Mapping[str, Device], pages: Iterable[str]) -> dict[str, Any]:
    """`pages` are the blocks of the site that have one."""
    entry = members[0].entry
    used = {short_name(block) for known in members for block in known.entry.blocks}
    seen = {row.device for known in members for row in known.timings}
    return {
        "cite": bibtex(entry),
        "paper": link_of(entry.paper),
        "code": entry.code if is_web(entry.code) else "",
        "blocks": sorted(used & set(pages)),
        "devices": {name: label(devices[name]) for name in sorted(seen) if name in devices},
        "models": {known.name: _model(known, devices) for known in members},
    }


def _model(known: Known, devices: Mapping[str, Device]) -> dict[str, Any]:
    entry = known.entry
    load, shell = usage(known)
    return {
        "task": entry.task,
        "mixing": known.mixing,
        "input": known.input_words,
        "digest": entry.digest[:DIGEST_SHOWN],
        "licence": [entry.licence, known.licence_class],
        "costs": [_costs(known.name, form) for form in FORMS],
        "places": _places(known),
        "classes": dict(sorted(known.counts.classes.items(), key=lambda item: -item[1])) if known.counts else {},
        "timings": [_timing(known, row, devices.get(row.device)) for row in known.timings],
        "accuracies": [_accuracy(one) for one in known.accuracies],
        "weights": [_weights(one) for one in known.weights],
        "load": load,
        "shell": shell,
    }


def _costs(name: str, form: str) -> list[int]:
    """Parameters, MACs, bytes of weights, bytes of activations held at one time, and of both."""
    cost = costs()[name][form]
    return [
        cost.params,
        cost.macs,
        cost.weight_bytes,
        cost.peak_activation_bytes,
        cost.weight_bytes + cost.peak_activation_bytes,
    ]


def _places(known: Known) -> list[list[Any]] | None:
    """[place, which layers, width, blocks, parameters, MACs] from the stem to the head, None where no spec tells. The costs of a stage stand
    beside its first layers, and hold for all of it."""
    if not known.entry.file:
        return None
    counted = dict(known.counts.stages) if known.counts else {}
    rows = []
    for place in places(published_spec(known.name)):
        cost = counted.pop(place.name, None)
        params, macs = (cost.params, cost.macs) if cost else (None, None)
        rows.append([place.name, place.note, place.width, [_tree(node) for node in place.nodes], params, macs])
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


def _accuracy(one: Accuracy) -> dict[str, Any]:
    figure = one.figure
    return {
        "metric": one.metric, "value": figure.value, "text": figure.text, "record": figure.record, "unit": unit_of(one.metric),
        "ends": [[end.value, end.text] for end in one.interval], "weights": one.weights, "source": one.source, "command": one.command,
    }  # fmt: skip


def _weights(one: Manifest) -> dict[str, Any]:
    how = one.preprocess
    return {
        "name": one.name, "state": one.state, "licence": [one.licence, one.licence_class], "origin": one.origin, "source": one.source,
        "preprocess": f"{how.size} px, {how.interpolation}, crop {how.crop}" if how else "",
    }  # fmt: skip


def usage(known: Known) -> tuple[str, str]:
    """How to load a model in Python; how to fetch, measure and deploy it in a shell."""
    name, entry = known.name, known.entry
    tag = next(iter([*entry.tags, *entry.listed]), "")
    load = f'model = zoo.create("{name}")' if not tag else f'model = zoo.create("{name}.{tag}", pretrained=True)'
    unseen = bool(entry.listed and not entry.tags)
    pin = [f"$ zoo pin {name}.{tag}        # fetches the listed weights, proves them, keeps them"] if unseen else []
    return f"import zoo\n\n{load}", "\n".join([*pin, f"$ zoo bench {name} --form deploy", f"$ zoo deploy {name}"])


MOST_USERS = 12
"""Models whose share of a block is told on the block's page."""


def block_facts(info: BlockInfo, models: Iterable[Known]) -> dict[str, Any]:
    """`models` are those of the site."""
    users = [known for known in models if info.id in known.entry.blocks]
    families = Counter(known.entry.family for known in users)
    return {
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
        "uses": _uses(info.name, users)[:MOST_USERS],
        "families": sorted(families.items()),
    }


def _default(value: Any) -> str:
    return printable(value if isinstance(value, str) else msgspec.json.encode(value).decode(), 200)


def _uses(block: str, users: Iterable[Known]) -> list[tuple[str, int, int, int, float]]:
    """(model, places, parameters, MACs, share of all MACs) where a block stands at a place of the spec; the largest share comes first."""
    found = []
    for known in users:
        cost = known.counts.blocks.get(block) if known.counts else None
        if cost is not None:
            share = cost.macs / max(1, costs()[known.name]["train"].macs)
            found.append((known.name, cost.places, cost.params, cost.macs, round(share, 4)))
    return sorted(found, key=lambda use: -use[-1])
