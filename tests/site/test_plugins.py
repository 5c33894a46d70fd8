"""The models of a plugin, as `zoo site` publishes them: whatever their texts say, and whatever their code does."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from tests.plugins.conftest import run_in as run_in
from tests.plugins.packages import install, models_of, spec

HOSTILE = "<img src=x onerror=alert(1)></title><script>alert(2)</script>"


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.seen: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag in ("script", "img"):
            self.scripts.append(dict(attributes).get("src") or "none")


def entry(name: str, file: str) -> dict[str, object]:
    return {
        "name": name, "family": "net", "file": file, "task": HOSTILE[:60], "digest": f"{len(name):064x}", "params": 1, "macs": 1, "input_size": [32, 32],
        "title": HOSTILE, "paper": HOSTILE, "licence": HOSTILE, "code": f"javascript:{HOSTILE}",
    }  # fmt: skip


def test_a_plugin_publishes_its_models_alone_and_what_is_broken_is_left_out(tmp_path: Path, run_in: object) -> None:
    index = [entry("net_nano", "net.toml"), entry("gone", "gone.toml"), entry("bad_nano", "bad.toml")]
    files = {
        "models/index.json": json.dumps(index),
        "models/net.toml": spec(),
        "models/bad.toml": spec().replace("[16]", '["wide"]'),
    }
    site = install([models_of("evil-nets", "evil", files)], tmp_path / "packages")
    done = run_in(
        site,
        "-m",
        "zoo",
        "site",
        str(tmp_path / "out"),
        "--models",
        "evil/*",
        "--json",
        ZOO_DATA=str(tmp_path / "data"),
    )  # type: ignore[operator]
    assert done.returncode == 0, done.stderr
    assert [name for name in json.loads(done.stdout)["files"] if name.startswith("models/")] == [
        "models/evil.net_nano.html"
    ]
    assert "left out of the site" in done.stderr
    for path in (tmp_path / "out").rglob("*.html"):
        tags = Tags(path.read_text())
        assert all(source.endswith((".js", "icon.svg")) and ":" not in source for source in tags.scripts), path
