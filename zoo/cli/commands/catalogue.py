"""`zoo list`, `zoo info`, `zoo blocks`: what there is. None of them imports torch but `info --tree`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from blocks import registry
from blocks.registry.words import short_name
from zoo.cli.options import command
from zoo.display.console import complain, count, dump, table
from zoo.errors import listed

if TYPE_CHECKING:
    from zoo.artifacts.repository import Repository
    from zoo.catalog import Entry
    from zoo.measure.block_latency import BlockLatency
    from zoo.specs.model import Spec
    from zoo.weights.manifest import Manifest


def add(commands: Any) -> None:
    listing = command(commands, "list", list_models)
    listing.add_argument("pattern", nargs="?", default="", help="a glob: '*former_s*'")
    listing.add_argument("--family", default="", help="only this family")
    listing.add_argument("--task", default="", help="only this task")
    listing.add_argument("--block", default="", help="only models that use this block, or one of a kind: router")
    listing.add_argument(
        "--pretrained", action="store_true", help="only models with weights at hand: shipped or pinned"
    )
    listing.add_argument("--listed", action="store_true", help="only models with weights that `zoo pin` fetches")
    listing.add_argument("--names", action="store_true", help="names only, one a line")

    about = command(commands, "info", info)
    about.add_argument("name", help="a model, or what `zoo.save` wrote")
    about.add_argument("--tree", action="store_true", help="one line for each layer: shape, parameters, MACs")

    registered = command(commands, "blocks", blocks)
    registered.add_argument("name", nargs="?", default="", help="a block to describe, or a glob")
    registered.add_argument("--kind", default=None)
    registered.add_argument("--ability", default=None)


def list_models(arguments: Namespace) -> int:
    import msgspec

    from zoo import catalog
    from zoo.catalog import listing
    from zoo.catalog.manifests import at_hand

    pattern = arguments.pattern
    if pattern and not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    names = listing.list_models(
        pattern, family=arguments.family, task=arguments.task, block=arguments.block, pretrained=arguments.pretrained
    )
    shown_entries = [catalog.entries()[name] for name in names]
    if arguments.listed:
        shown_entries = [entry for entry in shown_entries if entry.listed]
    if arguments.names:
        print("\n".join(entry.name for entry in shown_entries))
        return 0 if shown_entries else 1
    if arguments.json:
        dump([msgspec.to_builtins(entry) for entry in shown_entries])
        return 0
    if not shown_entries:
        complain(f"no model matches; {len(catalog.entries())} models are known: `zoo list`")
        return 1
    loadable = set(at_hand())
    rows = [
        [e.name, e.family, count(e.params), count(e.macs), "x".join(map(str, e.input_size)), _states(e, loadable)]
        for e in shown_entries
    ]
    table(["model", "family", "parameters", "MACs", "input", "weights"], rows)
    return 0


def _states(entry: Entry, loadable: set[str]) -> str:
    """The tags; those that are not at hand in brackets."""
    names = {tag: f"{entry.name}.{tag}" for tag in [*entry.tags, *entry.listed]}
    return " ".join(tag if name in loadable else f"({tag})" for tag, name in names.items())


def info(arguments: Namespace) -> int:
    import msgspec

    from zoo import catalog
    from zoo.catalog.manifests import manifests
    from zoo.catalog.published import published_spec
    from zoo.catalog.saved import described

    saved = described(arguments.name)
    entry = _entry_of(saved) if saved else catalog.entry(arguments.name)
    weights = [saved.manifest] if saved else manifests(arguments.name)
    facts = msgspec.to_builtins(entry) | {"weights": [_weights(manifest) for manifest in weights]}
    facts |= _how_it_sees(saved) if saved else {}
    rows = _tree(saved.spec if saved else published_spec(entry.name)) if arguments.tree else []
    if arguments.json:
        dump(facts | ({"tree": rows} if rows else {}))
        return 0
    shown = {
        "title": entry.title, "paper": entry.paper, "code": entry.code, "task": entry.task, "licence": entry.licence,
        "input": "x".join(map(str, entry.input_size)), "parameters": f"{entry.params:,}", "MACs": f"{entry.macs:,} (1 MAC = 2 FLOPs)",
        "digest": entry.digest, "blocks": ", ".join(short_name(block) for block in entry.blocks),
    }  # fmt: skip
    shown |= {key: _said(facts[key]) for key in ("form", "preprocess", "labels") if facts.get(key)}
    table([entry.name, ""], [[key, value] for key, value in shown.items() if value])
    for row in facts["weights"]:
        figures = ", ".join(f"{name} {value:.2%}" for name, value in row["metrics"].items())
        how = f"`zoo pin {row['name']}`" if row["state"] == "listed" else ""
        parts = [row["state"], f"{row['licence']} ({row['licence_class']})", figures, how]
        print(f"weights {row['name']}: " + ", ".join(part for part in parts if part))
    if rows:
        table(
            ["module", "block", "output", "parameters", "MACs"],
            [
                [row["path"], row["block"], "x".join(map(str, row["shape"])), f"{row['params']:,}", f"{row['macs']:,}"]
                for row in rows
            ],
        )
    return 0


def _weights(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "state": manifest.state,
        "licence": manifest.licence,
        "licence_class": manifest.licence_class,
        "size_bytes": manifest.size_bytes,
        "source": manifest.source,
        "metrics": {key: metric.value for key, metric in manifest.metrics.items()},
    }


def _tree(spec: Spec) -> list[dict[str, Any]]:
    from zoo.build.builder import build
    from zoo.measure.layers import layer_rows

    return layer_rows(build(spec))


def _entry_of(found: Repository) -> Entry:
    """What the catalogue would know of a model that `zoo.save` or `zoo.push` wrote; its costs are counted."""
    from zoo import catalog
    from zoo.build.builder import build
    from zoo.build.inputs import input_size
    from zoo.build.params import count_params
    from zoo.measure.macs import count_macs

    spec, text, net = found.spec, found.spec.family, build(found.spec)
    return catalog.Entry(
        spec.name, text.name, "", text.task, spec.digest, count_params(net),
        count_macs(net).total, list(input_size(spec.input)), text.title, text.paper, text.licence, text.code, spec.blocks(),
    )  # fmt: skip


def _how_it_sees(found: Repository) -> dict[str, Any]:
    """The form in which the model was saved, how pictures are prepared for it, and the names of its classes."""
    import msgspec

    manifest = found.manifest
    prepared = msgspec.to_builtins(manifest.preprocess) if manifest.preprocess else {}
    return {"form": found.made.form, "preprocess": prepared, "labels": list(manifest.labels)}


def _said(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(
            f"{key} {' '.join(map(str, value)) if isinstance(value, list) else value}" for key, value in fact.items()
        )
    return listed(fact, 12) if isinstance(fact, list) else str(fact)


def blocks(arguments: Namespace) -> int:
    import msgspec

    name = arguments.name
    covering = registry.covering(name) if registry.identity_of(name) is None else []
    if name and len(covering) < 2 and not any(sign in name for sign in "*?["):
        from zoo.authoring.report import described

        return _describe(described(covering[0] if covering else name), arguments.json)
    names = covering or registry.list_blocks(name, kind=arguments.kind, ability=arguments.ability)
    infos = {name: registry.known(registry.identity_of(name) or "") for name in names}
    registered = [info for info in infos.values() if info is not None]
    if silent := [name for name, info in infos.items() if info is None]:
        complain(f"their packages say nothing of {listed(silent)}; `zoo blocks NAME` loads and describes one")
    if arguments.json:
        dump([msgspec.to_builtins(info) for info in registered])
        return 0
    table(
        ["block", "kind", "layout", "abilities"],
        [[info.name, info.kind, info.layout, " ".join(info.abilities)] for info in registered],
    )
    return 0


def _describe(found: registry.BlockInfo, as_json: bool) -> int:
    import msgspec

    from blocks.registry.schema import words
    from zoo.measure.store import block_rows
    from zoo.measure.task_table import scores

    learned, rows = scores(found.name), block_rows(found.id)
    if as_json:
        timed = [msgspec.to_builtins(row) | {"stale": row.is_stale} for row in rows]
        dump(msgspec.to_builtins(found) | {"latency": timed} | ({"tasks": learned} if learned else {}))
        return 0
    print(f"{found.id}  {found.kind}, layout {found.layout}" + (f", {found.paper}" if found.paper else ""))
    print(found.summary)
    if found.covers:
        print("covers: " + ", ".join(found.covers))
    if found.abilities:
        print("abilities: " + ", ".join(found.abilities))
    if found.params:
        parameters = [
            [name, words(param.schema), "required" if param.required else _default(param.default)]
            for name, param in found.params.items()
        ]
        table(["parameter", "value", "default"], parameters)
    if learned:
        shares = ", ".join(f"{task} {share:.0%}" for task, share in learned.items())
        print(f"learned, of generated tasks: {shares} (model_cards/mixers.md)")
    for row in rows:
        print(_alone(row))
    if not rows:
        print(f"by itself: not timed yet; `zoo bench --blocks {found.name}` does")
    return 0


def _alone(row: BlockLatency) -> str:
    """What a block takes by itself: how long, beside what everybody knows, and whether that can be believed."""
    size = "x".join(map(str, row.input))
    took = f"by itself: {row.p50_ms:g} ms ({row.low_ms:g} to {row.high_ms:g}), {row.ratio:g} times a {row.anchor}"
    where = f"input {size}, {row.runtime.key}, {row.device}, {row.date[:10]}, {row.verdict}"
    return f"{took}; {where}{', measured before its code changed' if row.is_stale else ''}"


def _default(value: Any) -> str:
    import msgspec

    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
