"""The pages of `docs/`: what they show comes as they show it, and what they name exists."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import zoo
from tests import pages

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?:zoo|blocks|tests|docs|plugins|model_cards|\.github|\.ci)/[\w./-]*")


def prose_of(page: pathlib.Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def test_all_of_each_page_comes_as_it_is_shown() -> None:
    command = [sys.executable, "-m", "tests.pages", *map(str, PAGES)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_pages_and_headings(page: pathlib.Path) -> None:
    for target, anchor in LINK.findall(prose_of(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), f"{page.name}: no file {target}"
        assert path.is_relative_to(DOCS), f"{page.name}: {target} is no page of the site: name it in `code`"
        assert not anchor or anchor in anchors_of(path), f"{page.name}: {target} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: pathlib.Path) -> None:
    named = {
        code.partition("::")[0] for code in CODE.findall(prose_of(page)) if FILE.fullmatch(code.partition("::")[0])
    }
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_a_page_names_are_commands_of_the_zoo(page: pathlib.Path) -> None:
    from zoo.cli import parser

    commands = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]
    named = {match[1] for code in CODE.findall(prose_of(page)) if (match := re.match(r"zoo ([a-z][a-z-]*)", code))}
    assert named <= commands


def test_every_page_has_its_place_in_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def paths(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [path for item in (node.values() if isinstance(node, dict) else node) for path in paths(item)]  # type: ignore[attr-defined]

    assert sorted(paths(site["nav"])) == [page.name for page in PAGES]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_asks_for_what_it_needs(path: pathlib.Path) -> None:
    form = yaml.safe_load(path.read_text())
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert form["name"] and form["description"]
    assert all(field["id"] and field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference.md").read_text()
    entries = re.findall(r"^::: zoo\.(\w+)$", text, re.MULTILINE)
    others = re.findall(r"`zoo\.(\w+)` (?:is )?another name of", text)
    assert sorted({*entries, *others}) == sorted(zoo.__all__)


@pytest.mark.parametrize(
    ("expected", "output", "shown"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a ... ms\n", "a 3.5 ms  \n", True),
        ("a\n", "a\nb\n", False),
        ("(1)\n", "1\n", False),
    ],
)
def test_dots_stand_for_what_differs(expected: str, output: str, shown: bool) -> None:
    assert pages.is_shown(expected, output) == shown


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "the page shows"),
        ("```console\n$ zoo list starnet_nano --names\nresnet50\n```\n", "the page shows"),
        ("```console\n$ zoo info resnet5000\n```\n", "ends with 2, and the page says 0"),
        ("```console\n$ rm -r .\n```\n", "`rm` is not among the programs"),
    ],
)
def test_output_that_comes_otherwise_is_a_fault(
    text: str, fault: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    assert [fault in sentence for sentence in pages.faults_of(page)] == [True]
