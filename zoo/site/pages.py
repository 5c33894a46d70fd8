"""What stands on the page of a model, of a family, of a block: texts, figures and drawings for their templates."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from blocks.registry import BlockInfo, describe, identity_of
from blocks.registry.schema import words
from blocks.registry.words import printable, short_name
from zoo import catalog
from zoo.catalog.published import published_spec, spec_file
from zoo.display.console import count
from zoo.measure.device import Device
from zoo.measure.latency import Latency
from zoo.measure.task_table import shipped as task_table
from zoo.publish.cards import bibtex
from zoo.site import figures
from zoo.site.counts import Cost, Counts
from zoo.site.figures import Shown
from zoo.site.known import Known
from zoo.site.render import address, code
from zoo.site.runs import label
from zoo.site.structure import Node, places

if TYPE_CHECKING:
    from markupsafe import Markup

FORMS = ("train", "deploy")
MOST_USERS = 12
"""Models whose share of a block is told on the block's page."""


class PlaceRow(NamedTuple):
    """A place of the net: its blocks; where it begins, what all of it costs, and its shares of the whole."""

    name: str
    note: str
    nodes: list[Node]
    width: int | None
    params: Shown | None
    macs: Shown | None
    params_share: float
    macs_share: float


class TimingRow(NamedTuple):
    """A row of latency with the command that measures it again; `stale` says that the code of its blocks has changed since."""

    row: Latency
    device: str
    stale: bool
    command: str
    p50: Shown
    low: Shown
    high: Shown
    p90: Shown
    peak: Shown | None


class Use(NamedTuple):
    """What a block is of a model: how often it stands there, and what it costs with all in it."""

    model: str
    places: Shown
    params: Shown
    macs: Shown
    share: float


def model_page(known: Known, devices: Mapping[str, Device], pages: Iterable[str]) -> dict[str, Any]:
    """`pages` are the blocks that have one."""
    entry, name = known.entry, known.name
    timings = [timing_row(known, row, devices.get(row.device)) for row in known.timings]
    return {
        "title": name,
        "best": best(known),
        "fastest": min(
            (one for one in timings if one.row.verdict == "clean"), key=lambda one: one.row.p50_ms, default=None
        ),
        "known": known,
        "entry": entry,
        "paper": link_of(entry.paper),
        "code_link": entry.code if is_web(entry.code) else "",
        "costs": [(label, *(figures.cost(name, form, field) for form in FORMS)) for label, field in COSTS],
        "memory": [figures.memory(name, form) for form in FORMS],
        "places": place_rows(known),
        "classes": class_rows(known),
        "timings": timings,
        "usage": usage(known),
        "bibtex": bibtex(entry),
        "block_pages": set(pages),
    }


COSTS = (
    ("Parameters", "params"),
    ("MACs", "macs"),
    ("Weights", "weight_bytes"),
    ("Activations at one time", "peak_activation_bytes"),
)


def place_rows(known: Known) -> list[PlaceRow]:
    """The spec from the stem to the head. The costs of a stage stand beside its layers, and hold for all of it."""
    if not known.entry.file:
        return []
    counted = known.counts.stages if known.counts else {}
    most = Cost(
        0,
        max((cost.params for cost in counted.values()), default=0),
        max((cost.macs for cost in counted.values()), default=0),
    )
    rows: list[PlaceRow] = []
    told: set[str] = set()
    for place in places(published_spec(known.name)):
        cost = counted.get(place.name) if place.name not in told else None
        told.add(place.name)
        figure = functools.partial(_counted, known.name, place.name)
        rows.append(
            PlaceRow(
                place.name, place.note, place.nodes, place.width, figure("params", cost.params) if cost else None, figure("macs", cost.macs) if cost else None,
                cost.params / max(1, most.params) if cost else 0.0, cost.macs / max(1, most.macs) if cost else 0.0,
            )
        )  # fmt: skip
    return rows


def _counted(name: str, place: str, field: str, value: int) -> Shown:
    return Shown(value, count(value) if field != "places" else f"{value:,}", f"count:{name}:{place}:{field}")


def class_rows(known: Known) -> list[tuple[str, Shown, float]]:
    """MACs by class of operation, the largest first, as shares of the largest; scans and Fourier transforms in FLOPs."""
    classes = known.counts.classes if known.counts else {}
    most = max(classes.values(), default=1)
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    units = {"scan": "FLOPs", "fft": "FLOPs"}
    return [
        (f"{kind}, {units.get(kind, 'MACs')}", _counted(known.name, kind, "class", value), value / most)
        for kind, value in ordered
    ]


def timing_row(known: Known, row: Latency, device: Device | None) -> TimingRow:
    peak = figures.timed(row, "peak_bytes") if row.peak_bytes else None
    p50, low, high, p90 = (figures.timed(row, field) for field in ("p50_ms", "low_ms", "high_ms", "p90_ms"))
    name = label(device) if device else row.device
    return TimingRow(row, name, known.is_stale(row), _bench(row, device), p50, low, high, p90, peak)


def _bench(row: Latency, device: Device | None) -> str:
    """The command that measures a row again."""
    run = row.runtime
    options = {
        "--threads": run.threads if run.threads != 1 else "",
        "--batch": run.batch if run.batch != 1 else "",
        "--dtype": run.dtype if run.dtype != "float32" else "",
        "--device": "cuda" if device and device.kind == "cuda" else "",
        "--runtime": run.name if run.name != "torch" else "",
    }
    words = [f"{option} {value}" for option, value in options.items() if value]
    return " ".join(["zoo bench", row.model, f"--form {row.form}", *words])


def usage(known: Known) -> dict[str, Markup]:
    """How to load, measure and deploy a model, as code."""
    name, entry = known.name, known.entry
    tag = next(iter([*entry.tags, *entry.listed]), "")
    loads = f'model = zoo.create("{name}")' if not tag else f'model = zoo.create("{name}.{tag}", pretrained=True)'
    pinned = (
        [f"$ zoo pin {name}.{tag}        # fetches the listed weights, proves them, keeps them"]
        if entry.listed and not entry.tags
        else []
    )
    shell = [*pinned, f"$ zoo bench {name} --form deploy", f"$ zoo deploy {name}"]
    return {
        "load": code(f"import zoo\n\n{loads}", "python"),
        "shell": code("\n".join(shell), "console"),
    }


def family_page(family: str, members: Sequence[Known], pages: Iterable[str]) -> dict[str, Any]:
    entry = members[0].entry
    text = spec_file(entry.name).read_text(encoding="utf-8") if entry.file else ""
    text = re.split(r"^\[keys\.", text, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return {
        "title": family,
        "entry": entry,
        "members": members,
        "rows": [
            (known, figures.cost(known.name, "train", "params"), figures.cost(known.name, "train", "macs"), best(known))
            for known in members
        ],
        "paper": link_of(entry.paper),
        "code_link": entry.code if is_web(entry.code) else "",
        "spec": with_links(code(text, "toml"), set(pages)),
        "bibtex": bibtex(entry),
    }


def best(known: Known) -> Any:
    """The first of what is known of its accuracy."""
    return next(iter(known.accuracies), None)


def with_links(shown: Markup, pages: set[str]) -> Markup:
    """Code of a spec in which the name of a block leads to its page."""
    from markupsafe import Markup

    def linked(match: re.Match[str]) -> str:
        name = match[1]
        return f'<a href="../{address("blocks", name)}">{match[0]}</a>' if name in pages else match[0]

    return Markup(re.sub(r"(?<=&#34;)([a-z0-9_/]+)(?=&#34;)", linked, str(shown)))


def block_page(info: BlockInfo, models: Mapping[str, Known]) -> dict[str, Any]:
    """`models` are those of the site."""
    users = [known for known in models.values() if info.id in known.entry.blocks]
    return {
        "title": info.name,
        "info": info,
        "paper": link_of(info.paper),
        "parameters": [
            (name, words(param.schema), "required" if param.required else default(param.default))
            for name, param in info.params.items()
        ],
        "families": by_family(users),
        "users": users,
        "uses": uses(info.name, users)[:MOST_USERS],
        "learned": [
            (task, Shown(share, f"{share:.0%}", f"task:{info.name}:{task}"))
            for task, share in task_table().scores(info.name).items()
        ],
    }


def default(value: Any) -> str:
    import msgspec

    return printable(value if isinstance(value, str) else msgspec.json.encode(value).decode(), 200)


def by_family(users: Iterable[Known]) -> dict[str, list[Known]]:
    families: dict[str, list[Known]] = defaultdict(list)
    for known in users:
        families[known.entry.family].append(known)
    return dict(families)


def uses(block: str, users: Iterable[Known]) -> list[Use]:
    """What a block costs in the models that hold it at a place of their spec; where it takes most of the MACs comes first."""
    found = []
    for known in users:
        counts: Counts | None = known.counts
        cost = counts.blocks.get(block) if counts else None
        total = figures.cost(known.name, "train", "macs").value
        if cost is not None:
            figure = functools.partial(_counted, known.name, block)
            found.append(
                Use(
                    known.name,
                    figure("places", cost.places),
                    figure("params", cost.params),
                    figure("macs", cost.macs),
                    cost.macs / max(1, total),
                )
            )
    return sorted(found, key=lambda use: -use.share)


def link_of(paper: str) -> tuple[str, str]:
    """(text, address) of a paper; the address is "" for one that is no web page."""
    if re.fullmatch(r"arXiv:[0-9.]+(v[0-9]+)?", paper):
        return paper, f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    return paper, paper if is_web(paper) else ""


def is_web(text: str) -> bool:
    """Whether a text of others may stand in a link."""
    return bool(re.fullmatch(r"https?://[^\s\"'<>`\\]+", text))


def blocks_in_use(models: Iterable[Known]) -> list[BlockInfo]:
    """The blocks of the models, by name."""
    identities = sorted({block for known in models for block in known.entry.blocks})
    return [describe(identity) for identity in identities if identity_of(identity)]


def facts(known: Known) -> dict[str, Any]:
    """What the comparison shows side by side: the spec place by place, the drawing of the main layer, costs by class."""
    entry = known.entry
    rows = places(published_spec(known.name)) if entry.file else []
    return {
        "input": " x ".join(map(str, entry.input_size)),
        "places": [
            [place.name + (f" {place.note}" if place.note else ""), place.width, [_tree(node) for node in place.nodes]]
            for place in rows
        ],
        "classes": known.counts.classes if known.counts else {},
        "stages": {
            name: [cost.params, cost.macs] for name, cost in (known.counts.stages if known.counts else {}).items()
        },
        "licence": entry.licence,
    }


def _tree(node: Node) -> list[Any]:
    return [node.block, node.params, [_tree(part) for part in node.parts]]


def entry_of_search(known: Known) -> list[str]:
    entry: catalog.Entry = known.entry
    return [known.name, address("models", known.name), "model", printable(f"{entry.family} {entry.title}", 160)]


def block_of_search(info: BlockInfo) -> list[str]:
    covered = " ".join(info.covers)
    return [
        short_name(info.id),
        address("blocks", info.name),
        "block",
        printable(f"{info.kind} {covered} {info.summary}", 200),
    ]
