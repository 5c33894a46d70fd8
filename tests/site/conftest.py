"""A site of a few models, as `zoo site` writes it, and a browser to look at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.measure.rows import block_row
from zoo import catalog
from zoo.measure.device import Device, Fingerprint
from zoo.measure.store import export_rows
from zoo.site import guides
from zoo.site.build import Site, write_site
from zoo.site.render import render
from zoo.system.folders import write_text

MODELS = [
    "starnet_nano",
    "starnet_s1",
    "starnet_s4",
    "mobilenetv4_conv_medium",
    "mambavision_t",
    "vim_nano",
    "gla_nano",
    "efficientvit_m5",
    "moe_vit_nano",
    "efficientdet_nano",
    "movinet_nano",
]
"""Figures and rows to filter by, a licence that forbids to sell, a model without rows, one of language, one with a routed mixture, a detector
that is a graph, a net of clips."""
IMAGES = [name for name in MODELS if catalog.entry(name).task == "image-classification"]


MACHINE = Device("cpu", "Slow chip", "test", "avx2", 2, 8.0, False, Fingerprint(10.0, 1.0, 9.0))
ALONE = [block_row(device=MACHINE.id), block_row(2.0, block="core/layer_norm@1", source="0" * 12)]
"""Rows of blocks by themselves, which a site is given in a file: of today's code, and of older code on a machine without a label."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("data")
    export_rows([], [MACHINE], home / "blocks.jsonl", ALONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_DATA", str(home))
        made = write_site(tmp_path_factory.mktemp("site") / "out", MODELS, [home / "blocks.jsonl"])
        write_guides(made.folder)
        yield made


def write_guides(folder: Path) -> None:
    """The guides, which a site of a few models is without."""
    for name in ("specs", "reference"):
        shown = guides.guide(name)
        values = {"site": "blockzoo", "root": "../", "guides": [("Begin", [(name, shown.title)])], "title": shown.title}
        write_text(folder / f"guides/{name}.html", render("guide.html", **values, guide=shown))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by Selenium; no network is needed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium: pip install -e '.[test]'")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture(scope="session")
def rendered(chromium: Any, site: Site) -> dict[str, str]:
    """The pages as a reader gets them: by name, the HTML that scripts have made; none of them may complain."""
    pages: dict[str, str] = {}
    for name in site.files:
        if name.endswith(".html"):
            page = opened(chromium, site.folder / name)
            pages[name] = page.execute_script("return document.documentElement.outerHTML")
            assert (name, page.get_log("browser")) == (name, [])
    return pages


@pytest.fixture
def explorer(chromium: Any, site: Site) -> Any:
    """The first page, opened anew, in the width of a desk."""
    return opened(chromium, site.folder / "index.html")


COMPLETE = """
    const done = arguments[0], look = () => (document.readyState === 'complete' ? done() : setTimeout(look, 10));
    look();
"""
"""The driver may return while deferred scripts still wait."""


def opened(chromium: Any, page: Path, anchor: str = "", width: int = 1400, height: int = 1000) -> Any:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.get("about:blank")
    chromium.get_log("browser")
    chromium.get(page.as_uri() + anchor)
    chromium.set_script_timeout(10)
    chromium.execute_async_script(COMPLETE)
    return chromium
