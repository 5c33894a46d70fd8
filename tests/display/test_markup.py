"""Texts of others in pages: whatever they say, the page has the structure that we gave it."""

from __future__ import annotations

import ast
import re

import msgspec
import pytest
import yaml

from blocks.registry.words import LONGEST_TEXT, printable
from zoo import catalog
from zoo.catalog import index
from zoo.display import markup
from zoo.exporting.expressions import literal
from zoo.exporting.sources import docstring_text
from zoo.publish import cards
from zoo.publish.picked import RUN

HOSTILE = [
    "<script>alert(1)</script>", "a | b | c", "[x](javascript:alert(1))", "```\n# out", "x\nlicense: mit", "a: b # c", "{evil: 1}", "'", '"', "- a",
    "*alias", "&anchor", "!!python/object:x", "~", "null", "true", "1e3", "2026-01-01", "\x1b[31m", "\u202e", "a,b", "a}", "\\", "", "x" * 600, "@x", "%x", "a:",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_reads_back_what_was_said(text: str) -> None:
    shown = printable(text, LONGEST_TEXT)
    block = yaml.safe_load(f"a: {markup.yaml(text)}\nb: 1")
    inside = yaml.safe_load(f"{{a: {markup.flow(text)}, b: 1}}")
    assert set(block) == set(inside) == {"a", "b"}
    assert str(block["a"]) == str(inside["a"]) == shown or text in ("null", "true", "1e3", "2026-01-01")


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_holds_no_tag_column_link_or_line(text: str) -> None:
    shown = markup.markdown(text)
    assert not re.search(r"<|>|(?<!\\)[|`\[\]]", re.sub(r"\\\\", "", shown)) and shown.isprintable()


def test_code_ends_where_its_fence_does() -> None:
    assert markup.fenced("a\n````\nb", "toml") == "`````toml\na\n````\nb\n`````"
    assert markup.fenced("plain") == "```\nplain\n```"


def test_the_card_of_a_hostile_family_keeps_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<img onerror=x>` | ](javascript:x) {b: 1} # c"
    entries = dict(catalog.entries())
    first = next(name for name, entry in entries.items() if entry.family == "gmlp")
    entries[first] = msgspec.structs.replace(
        entries[first], title=text, paper=f"arXiv:{text}", licence=f"x\nlicense: mit {text}", code=text
    )
    for place in (catalog, index):
        monkeypatch.setattr(place, "entries", lambda: entries)
    made = cards.card("gmlp")
    _, front, body = made.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "other" and "pipeline_tag" in yaml.safe_load(front)
    assert "<img" not in body and "\nlicense" not in body


@pytest.mark.parametrize("text", HOSTILE)
def test_run_py_of_a_hostile_name_is_one_call(text: str) -> None:
    source = RUN.format(told=docstring_text(printable(text)), name=literal(text), form="deploy", threads=1)
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "zoo.create"]
    assert [ast.literal_eval(call.args[0]) for call in calls] == [text]
    assert len(tree.body) == len(ast.parse(RUN.format(told="x", name='"x"', form="deploy", threads=1)).body)
