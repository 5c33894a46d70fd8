"""Pages hold together without a browser: links, the policy, texts of others, refusals."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.site.conftest import opened
from zoo import catalog, cli
from zoo.catalog import index
from zoo.errors import InputError
from zoo.selection.figures import Figure
from zoo.selection.find import Candidate, find
from zoo.site import build, guides, render
from zoo.site.build import Site, write_site
from zoo.site.sheet import sheet, write_sheet
from zoo.site.structure import nodes, places
from zoo.system.folders import write_text

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>{{7*7}}"


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {key: value or "" for key, value in attributes}))

    def links(self) -> list[str]:
        return [found[key] for _, found in self.seen for key in ("href", "src") if key in found]


@pytest.fixture(scope="module")
def read(rendered: dict[str, str]) -> dict[str, Tags]:
    """The pages as a reader gets them."""
    return {name: Tags(text) for name, text in rendered.items()}


def pages(site: Site) -> dict[str, Tags]:
    """The pages as they are written."""
    return {name: Tags((site.folder / name).read_text()) for name in site.files if name.endswith(".html")}


def test_every_link_leads_to_a_file_of_the_site_or_to_the_web(site: Site, read: dict[str, Tags]) -> None:
    anchors = {name: {found["id"] for _, found in tags.seen if "id" in found} for name, tags in read.items()}
    for name, tags in read.items():
        for link in tags.links():
            if re.match("https?://", link):
                continue
            path, _, anchor = link.partition("#")
            target = (
                (site.folder / name).parent.joinpath(path).resolve().relative_to(site.folder.resolve())
                if path
                else Path(name)
            )
            assert target.as_posix() in site.files, f"{name}: {link}"
            assert not anchor or "=" in anchor or anchor in anchors[target.as_posix()], f"{name}: {link}"


def test_the_policy_allows_own_files_alone_and_pages_have_no_inline_script_or_style(site: Site) -> None:
    for name, tags in pages(site).items():
        policy = next(
            found["content"] for tag, found in tags.seen if found.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';") and "unsafe" not in policy
        assert all("src" in found for tag, found in tags.seen if tag == "script"), name
        assert not [key for tag, found in tags.seen for key in found if key == "style" or key.startswith("on")], name
        assert "style" not in {tag for tag, _ in tags.seen}


def test_nothing_is_loaded_from_elsewhere(site: Site, read: dict[str, Tags]) -> None:
    for name, tags in read.items():
        loaded = [
            found.get("src") or found.get("href", "") for tag, found in tags.seen if tag in ("script", "img", "link")
        ]
        assert not [link for link in loaded if "//" in link], name
    code = "".join(
        (site.folder / name).read_text() for name in site.files if name.endswith((".js", ".css")) and "data" not in name
    )
    assert not re.search(r"\bfetch\(|XMLHttpRequest|sendBeacon|WebSocket|@import|innerHTML|\beval\(", code)


def pictures(tags: Tags) -> set[str]:
    return {found.get("src", "") for tag, found in tags.seen if tag == "img"}


def hostile_catalogue(monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """The catalogue, with texts of others in one entry."""
    entries = dict(catalog.entries())
    name = "starnet_nano"
    entries[name] = msgspec.structs.replace(
        entries[name], title=text, paper=f"javascript:{text}", licence=text, code=f"javascript:alert(1)//{text}"
    )
    for place in (catalog, index):
        monkeypatch.setattr(place, "entries", lambda: entries)
    return name


def test_texts_of_others_stay_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    name = hostile_catalogue(monkeypatch, HOSTILE)
    made = write_site(tmp_path / "site", [name])
    for page, tags in pages(made).items():
        assert pictures(tags) <= {"assets/icon.svg", "../assets/icon.svg"}, page
        assert all(found.get("src", "").endswith(".js") for tag, found in tags.seen if tag == "script"), page
        assert not [link for link in tags.links() if link.strip().lower().startswith(("javascript:", "data:"))], page
    shown = (made.folder / "families/starnet.html").read_text()
    assert "{{7*7}}" in shown and "&lt;img src=x" in shown and "49" not in re.sub(r"\d[\d.]+", "", shown)
    facts(made.folder / "assets/families/s.js")
    for script in ("data", "index"):
        json.loads((made.folder / f"assets/{script}.js").read_text().partition(" = ")[2].removesuffix(";\n"))


def test_texts_of_others_stay_texts_where_scripts_draw_them(
    chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_site(tmp_path / "site", [hostile_catalogue(monkeypatch, HOSTILE)], title=HOSTILE)
    for name in ("models/starnet_nano.html", "families/starnet.html", "index.html"):
        page = opened(chromium, made.folder / name)
        assert page.execute_script("return document.querySelectorAll('main img, header img, main script').length") == 0
        assert name == "index.html" or page.execute_script(
            "return document.querySelector('.lead').textContent"
        ).startswith(HOSTILE)
        assert page.title.endswith(f" · {HOSTILE}") and page.get_log("browser") == []


def test_a_device_of_a_file_is_shown_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    lines = [json.loads(line) for line in (catalog.collection.CORE.data / "latency.jsonl").read_text().splitlines()]
    device = next(line["device"] for line in lines if "device" in line) | {"name": HOSTILE}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"device": device}) + "\n")
    made = write_site(tmp_path / "site", ["starnet_nano"], [tmp_path / "rows.jsonl"])
    assert all(pictures(tags) <= {"assets/icon.svg", "../assets/icon.svg"} for tags in pages(made).values())


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", "<x>", ".hidden", ""])
def test_an_address_stays_in_its_room(name: str) -> None:
    assert re.fullmatch(r"models/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.html", build.address("models", name))


def some(name: str) -> list[Candidate]:
    figure = Figure("imagenet-1k/top1@224", 78.0, name)
    return [
        Candidate(
            name, name, "deploy", 1, 10**9, 4, name, "unknown", ms=ms, latency="measured", device="d", figure=figure
        )
        for ms in (1.0, 2.0)
    ]


def test_a_sheet_of_hostile_names_has_the_tags_of_a_plain_one() -> None:
    plain, hostile = (sheet(some(name), "imagenet-1k/top1") for name in ("plain", HOSTILE))
    assert [tag for tag, _ in Tags(hostile).seen] == [tag for tag, _ in Tags(plain).seen]


def test_find_writes_a_sheet_with_all_that_it_found_and_a_policy_of_hashes(tmp_path: Path) -> None:
    path = tmp_path / "found.html"
    found = find(device="xeon-2c-699df0ef", max_latency_ms=20, min_metric=75)
    write_sheet(found, path, "imagenet-1k/top1")
    text = path.read_text()
    runs = [tag for tag, _ in Tags(text).seen if tag in ("script", "style")]
    assert all(f">{one.name}<" in text for one in found)
    assert html.unescape(text).count("'sha256-") == len(runs) and "unsafe" not in text
    assert not [link for link in Tags(text).links() if not link.startswith(("#", "index.html"))]


def test_a_sheet_has_a_name_that_ends_in_html(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in .html; found \.pdf"):
        write_sheet([], tmp_path / "a.pdf", "m")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theses.txt").write_text("x")
    with pytest.raises(InputError, match="expected an empty folder, or one with an earlier site; found other files"):
        write_site(tmp_path, ["starnet_nano"])


def test_a_site_that_was_broken_off_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def killed(path: Path, text: str) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_text(path, text)

    monkeypatch.setattr(build, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_site(tmp_path / "site", ["starnet_nano"], counted=False)
    monkeypatch.undo()
    (tmp_path / "site" / ".index.html.0123456789abcdef.tmp").write_text("of a process that was killed")
    found = write_site(tmp_path / "site", ["starnet_nano"], counted=False)
    assert not [name for name in found.files if name.endswith(".tmp")]


def test_a_site_that_is_written_again_drops_the_pages_of_models_that_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    write_site(tmp_path / "site", ["starnet_nano", "vim_nano"])
    again = write_site(tmp_path / "site", ["vim_nano"])
    assert [name for name in again.files if name.startswith("models/")] == ["models/vim_nano.html"]


def test_the_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    assert cli.main(["site", str(tmp_path / "out"), "--models", "starnet_nano", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["models"] == 1 and "models/starnet_nano.html" in said["files"] and said["gzipped"] < 200_000


def facts(path: Path) -> Any:
    """What a file of facts enters into its table."""
    return json.loads(path.read_text().partition("] = ")[2].removesuffix(";\n"))


def test_a_quick_site_leaves_the_costs_of_parts_out_where_none_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "parts", dict)
    made = write_site(tmp_path / "out", ["convnext_tiny"], counted=False)
    model = facts(made.folder / "assets/families/c.js")["families"]["convnext"]["models"]["convnext_tiny"]
    assert model["costs"][0][0] > 28e6 and not model["classes"] and all(len(place) == 4 for place in model["places"])


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["site", str(tmp_path / "out"), "--models", "starnet_nono"]) == 2
    assert "nearest `starnet_nano`" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_layer_is_a_tree_of_blocks_with_what_is_not_at_its_default() -> None:
    call = {
        "block": "core/residual@1",
        "parts": ["core/layer_norm@1", {"block": "core/depthwise_conv@1", "kernel_size": 7}],
    }
    assert [node.text() for node in nodes(call)] == ["residual(layer_norm, depthwise_conv kernel size 7)"]
    assert nodes("none") == []


def test_the_nodes_of_a_graph_stand_behind_the_stages_each_kind_once() -> None:
    from zoo.catalog.published import published_spec

    found = places(published_spec("efficientdet_nano"))
    notes = [place.note for place in found if place.name == "graph"]
    assert "p6 from stages.6" in notes[0] and "class0 to class4, 5 alike" in notes and len(notes) < 15
    cell = next(node for place in found if "cell0" in place.note for node in place.nodes if node.block == "graph")
    assert {"weighted_sum", "silu", "conv"} <= {node.block for part in cell.parts for node in part.parts}


def test_layers_that_are_alike_are_told_once_with_their_places() -> None:
    from zoo.catalog.published import published_spec

    names = [place.name for place in places(published_spec("convnext_tiny"))]
    assert names[:4] == ["stem", "stages.0", "stages.1.downsample", "stages.1"] and names[-1] == "head"


def test_guides_link_to_each_other_and_show_tags_as_text() -> None:
    guide = guides.guide("measuring")
    assert 'href="specs.html#the-digest"' in guide.body and 'id="verdicts"' in guide.body
    assert {heading.anchor for heading in guide.headings} >= {"verdicts", "predictions"}


def test_every_guide_has_its_place_in_the_navigation() -> None:
    assert sorted(guides.names()) == sorted(path.stem for path in guides.folder().glob("*.md"))
    assert [group for group, _ in guides.groups()][:2] == ["Begin", "Using"]


def test_blocks_in_the_spec_of_a_family_lead_to_their_pages(rendered: dict[str, str]) -> None:
    spec = rendered["families/starnet.html"].partition('id="spec"')[2]
    assert '<a href="../blocks/depthwise_conv.html">"depthwise_conv"</a>' in spec


def test_words_between_backticks_are_code_and_a_lone_one_stays() -> None:
    assert render.ticked("`a` < b") == "<code>a</code> &lt; b" and render.ticked("a ` b") == "a ` b"
