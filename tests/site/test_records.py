"""Every figure on a page has a record behind it: the page and the data files are read side by side, each on its own."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import zoo
from blocks.registry.words import short_name
from tests.site.conftest import ALONE, MODELS
from zoo import catalog
from zoo.measure.latency import Latency
from zoo.measure.store import shipped_blocks, shipped_rows
from zoo.site.build import Site
from zoo.site.known import Known

DATA = Path(zoo.__file__).parent / "models"
COUNTED = ("starnet_s1", "moe_vit_nano")
"""Models whose places are counted once more."""


class Figure(NamedTuple):
    value: float
    record: str
    text: str
    page: str


class Figures(HTMLParser):
    """The figures of a page, and what stands in cells of numbers but in no figure."""

    def __init__(self, page: str, text: str):
        super().__init__()
        self.page, self.found, self.loose = page, list[Figure](), list[str]()
        self.open: dict[str, str] | None = None
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attributes}
        if tag == "span" and "data-record" in found:
            self.open = found
        elif tag in ("td", "th"):
            self.cell = "num" in found.get("class", "").split() and tag == "td"

    def handle_data(self, text: str) -> None:
        if self.open is not None:
            self.found.append(
                Figure(float(self.open.get("data-value", text)), self.open["data-record"], text, self.page)
            )
        elif self.cell and re.search(r"\d", text):
            self.loose.append(text)

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self.open = None
        elif tag in ("td", "th", "table"):
            self.cell = False


@pytest.fixture(scope="module")
def pages(rendered: dict[str, str]) -> list[Figures]:
    return [Figures(name, text) for name, text in rendered.items()]


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (DATA / "data/latency.jsonl").read_text().splitlines()]
    return {msgspec.convert(line["row"], Latency).id[:12]: line["row"] for line in lines if "row" in line}


def figures(pages: list[Figures], kind: str) -> Iterator[tuple[Figure, list[str]]]:
    """The figures of one kind of record, each with the parts of its record's name."""
    for page in pages:
        for figure in page.found:
            if figure.record.startswith(f"{kind}:"):
                yield figure, figure.record.split(":")[1:]


def test_every_kind_of_record_is_known(pages: list[Figures]) -> None:
    kinds = {figure.record.partition(":")[0] for page in pages for figure in page.found}
    assert kinds == {"cost", "row", "block", "printed", "weights", "count", "task", "total"}


def test_costs_are_those_of_the_profiles_that_ship(pages: list[Figures]) -> None:
    profiles = json.loads((DATA / "data/profiles.json").read_text())
    found = list(figures(pages, "cost"))
    for figure, (name, form, fields) in found:
        assert figure.value == sum(profiles[name][form][field] for field in fields.split("+")), figure
    assert len(found) > 100


def test_latencies_are_those_of_the_rows(pages: list[Figures], rows: dict[str, Any]) -> None:
    found = list(figures(pages, "row"))
    for figure, (number, field) in found:
        assert figure.value == rows[number][field], figure
    assert len(found) > 100


def test_figures_of_blocks_by_themselves_are_those_of_their_rows(
    pages: list[Figures], rendered: dict[str, str]
) -> None:
    known = {row.id[:12]: row for row in [*ALONE, *shipped_blocks().blocks]}
    found = list(figures(pages, "block"))
    for figure, (number, field) in found:
        assert figure.value == getattr(known[number], field), figure
        assert figure.page == f"blocks/{short_name(known[number].block)}.html"
    assert {field for _, (_, field) in found} == {"p50_ms", "low_ms", "high_ms", "ratio", "params", "macs"}
    mlp, norm = (rendered[f"blocks/{name}.html"].partition('id="alone"')[2] for name in ("mlp", "layer_norm"))
    assert (
        "<code>zoo bench --blocks mlp</code>" in mlp
        and "1 x 196 x 64" in mlp
        and ALONE[0].anchor in mlp
        and "Slow chip, 2 cores" in mlp
    )
    assert "older code" in norm and "2026-01-01" in norm


def test_accuracies_are_those_that_are_printed_or_of_weights(pages: list[Figures]) -> None:
    printed = {
        key: row
        for table in tomllib.loads((DATA / "data/published.toml").read_text()).values()
        for key, row in table.items()
    }
    for figure, (name, _) in figures(pages, "printed"):
        assert figure.value == printed[name][2], figure
    for figure, (name, metric, *end) in figures(pages, "weights"):
        path = DATA / f"weights/{name}.json"
        if end:
            assert figure.value == json.loads(path.read_text())["metrics"][metric]["ci95"][int(end[0][-1])], figure
        elif path.is_file():
            value = json.loads(path.read_text())["metrics"][metric]["value"]
            assert figure.value == pytest.approx(value if "bits" in metric else 100 * value, abs=1e-3), figure
        else:
            model, tag = name.split(".")
            text = next(
                text
                for text in (path.read_text() for path in (DATA / "weights").glob("*.toml"))
                if re.search(rf"^{model} = ", text, re.M)
            )
            assert tomllib.loads(text)[tag]["models"][model]["top1"] == figure.value, figure


def test_costs_of_places_are_those_of_a_profile(pages: list[Figures]) -> None:
    for name in COUNTED:
        found = zoo.profile(name)
        macs = {kind: value for kind, value in found.by_class.items() if value}
        counted = {tuple(parts[1:]): figure.value for figure, parts in figures(pages, "count") if parts[0] == name}
        assert {kind: counted[kind, "class"] for kind in macs} == macs
        stages = {
            place
            for place, field in counted
            if field == "macs" and (place in ("stem", "head") or place.startswith("stages."))
        }
        assert sum(counted[place, "params"] for place in stages) == found.params
        assert sum(counted[place, "macs"] for place in stages) == found.macs


def test_no_cell_of_numbers_holds_a_number_without_a_record(pages: list[Figures]) -> None:
    widths = {str(width) for name in MODELS for width in zoo.spec(name).dims}
    inputs = {Known(catalog.entry(name), (), None).input_words for name in MODELS}
    assert {text.strip() for page in pages for text in page.loose} - widths - inputs == set()


def unpacked(column: Any) -> list[Any]:
    return column if isinstance(column, list) else [column["of"][place] for place in column["at"]]


def test_data_of_the_explorer_are_the_same_records(site: Site, rows: dict[str, Any]) -> None:
    text = (site.folder / "assets/data.js").read_text()
    data = json.loads(text.removeprefix("self.zooData = ").removesuffix(";\n"))
    profiles = json.loads((DATA / "data/profiles.json").read_text())
    names, params, macs, digests = (unpacked(data["models"][key]) for key in ("name", "params", "macs", "digest"))
    assert names == MODELS
    for name, *figures in zip(names, params, macs, strict=True):
        cost = profiles[name]
        assert figures == [[cost[form][field] for form in ("train", "deploy")] for field in ("params", "macs")]
    for number, device, _, form, p50, low, high, p90, verdict, _, record, _ in data["timings"]:
        row = rows[record.removeprefix("row:")]
        shown = [data["devices"][device]["id"], ("train", "deploy")[form], p50, low, high, p90, verdict]
        assert shown == [row[key] for key in ("device", "form", "p50_ms", "low_ms", "high_ms", "p90_ms", "verdict")]
        assert row["digest"].startswith(digests[number])
    assert data["timings"]


def test_what_is_not_known_is_said(rendered: dict[str, str]) -> None:
    timed = {row.digest for row in shipped_rows()}
    silent = [name for name in MODELS if catalog.entry(name).digest not in timed]
    assert silent
    for name in silent:
        command = f"<code>zoo bench {name} --form deploy</code>"
        assert f"No row for any device. {command}" in rendered[f"models/{name}.html"]
    page = rendered["models/efficientdet_nano.html"]
    assert "No accuracy of it is printed anywhere" in page and "no accuracy is known" in page
