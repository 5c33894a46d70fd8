"""A catalogue of 1,500 models on 20 devices: scrolling holds the browser up nowhere. And how large our site is."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.site.conftest import opened
from tests.site.test_records import unpacked
from zoo import catalog
from zoo.site.build import Site, write_site
from zoo.site.explorer import packed
from zoo.site.render import address

MODELS, DEVICES = 1500, 20
LONGEST_MS = 50
"""A task that takes longer is one that a person notices; Chromium's observer of long tasks tells of those alone."""
MOST_BYTES, MOST_BYTES_A_MODEL = 1_500_000, 1_450
"""Of the whole catalogue, and of it for each model; each file is compressed by itself, as a server sends it."""
MOST_BYTES_A_PAGE = {"models": 360, "blocks": 340}
"""Of what is there for each model and block once more, compressed; the facts of a family are shared by its members."""


OBSERVER = """
    self.long = [];
    const note = list => self.long.push(...list.getEntries().map(entry => entry.duration));
    new PerformanceObserver(note).observe({type: 'longtask'});
"""
BUSY = """
    const done = arguments[0];
    setTimeout(() => { const end = performance.now() + 120; while (performance.now() < end); }, 10);
    setTimeout(done, 600);
"""


def multiplied(site: Site, folder: Path) -> Path:
    """The explorer with copies of its models and devices, under other names; returns its page."""
    shutil.copytree(site.folder / "assets", folder / "assets")
    data = json.loads((folder / "assets/data.js").read_text().removeprefix("self.zooData = ").removesuffix(";\n"))
    columns = {key: unpacked(column) for key, column in data["models"].items()}
    models = [
        {key: values[i % len(values)] for key, values in columns.items()} | {"name": f"net_{i}", "digest": f"{i:010x}"}
        for i in range(MODELS)
    ]
    devices = [{"id": f"chip-4c-{i:08x}", "label": f"Chip {i}"} for i in range(DEVICES)]
    accuracy = {"imagenet-1k/top1": [70.0, "printed:x:top1", "imagenet-1k/top1@224"]}
    for i, model in enumerate(models):
        model["accuracy"] = {key: [60 + i * 0.02, *value[1:]] for key, value in accuracy.items()}
        model["task"] = "image-classification"
    timings = [
        [i, device, 0, 1, 1 + (i * 7919 + device) % 997, 1.0, 1000.0, 1000.0, "clean", "2026-11-01", "row:x", False]
        for i in range(MODELS)
        for device in range(DEVICES)
    ]
    choice = data["choice"] | {"device": devices[0]["id"], "runtime": data["runtimes"][0]}
    data |= {"models": packed(models), "devices": devices, "timings": timings, "choice": choice}
    (folder / "assets/data.js").write_text(f"self.zooData = {json.dumps(data)};\n")
    page = (site.folder / "index.html").read_text()
    row = re.findall(r"<tr data-i=.*?</tr>", page, re.DOTALL)[0]
    rows = [re.sub(r'data-i="\d+"', f'data-i="{i}"', row) for i in range(MODELS)]
    before, _, rest = page.partition("<tbody>")
    (folder / "index.html").write_text(
        before + "<tbody>" + "\n".join(rows) + "</tbody>" + rest.partition("</tbody>")[2]
    )
    return folder / "index.html"


@pytest.mark.slow  # a trace is of a quiet machine
def test_scrolling_1500_models_has_no_task_that_a_person_notices(chromium: Any, site: Site, tmp_path: Path) -> None:
    page = opened(chromium, multiplied(site, tmp_path / "many"))
    assert page.execute_script("return document.querySelectorAll('#models tbody tr:not([hidden])').length") == MODELS
    page.set_script_timeout(30)
    page.execute_async_script("setTimeout(arguments[0], 1500)")
    page.execute_script(OBSERVER)
    page.execute_async_script(BUSY)
    assert page.execute_script("return self.long.splice(0).length") >= 1  # the observer sees what is too long
    gesture = {"x": 900, "y": 500, "yDistance": -15000, "speed": 6000}
    page.execute_cdp_cmd("Input.synthesizeScrollGesture", gesture)
    moved = page.execute_script("return scrollY")
    tasks = page.execute_script("return self.long")
    assert moved > 10_000 and max(tasks, default=0) <= LONGEST_MS, tasks


def test_pages_that_are_there_for_each_model_and_block_are_short(site: Site) -> None:
    for room, most in MOST_BYTES_A_PAGE.items():
        sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in (site.folder / room).glob("*.html")}
        sizes.pop("index.html", None)
        assert sizes and max(sizes.values()) <= most, max(sizes.items(), key=lambda item: item[1])


@pytest.mark.slow  # reads every spec of the catalogue
def test_the_site_of_the_whole_catalogue_is_small_and_has_a_page_for_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    made = write_site(tmp_path / "site")
    pages = {name for name in made.files if name.startswith("models/")}
    assert pages == {address("models", name) for name in catalog.entries()} and made.models == len(pages)
    assert made.gzipped <= min(MOST_BYTES, MOST_BYTES_A_MODEL * made.models)
