"""The guides of `docs/` as pages: Markdown without HTML, links between pages kept, code coloured, `::: NAME` answered by a docstring."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.site.render import code, missing

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

CHECKOUT = Path(__file__).parents[2]
PACKED = Path(__file__).parents[1] / "_guides"
"""Where the guides lie in a wheel, and beside them the file that groups them."""
AUTODOC = re.compile(r"^::: ([\w.]+)(?:\n    options:\n      members: \[([\w, ]+)\])?", re.MULTILINE)


class Heading(NamedTuple):
    level: int
    anchor: str
    text: str


class Guide(NamedTuple):
    """One page: its file's name without ending, its title, its body as HTML, and its headings of the second level and below."""

    name: str
    title: str
    body: str
    headings: list[Heading]


def folder() -> Path:
    return PACKED if PACKED.is_dir() else CHECKOUT / "docs"


@functools.cache
def groups() -> list[tuple[str, list[str]]]:
    """The guides that are there, as the documentation's own navigation, `mkdocs.yml`, groups them."""
    import yaml

    home = folder()
    settings = PACKED if home == PACKED else CHECKOUT
    nav = yaml.safe_load((settings / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    first = [Path(entry).stem for entry in nav if isinstance(entry, str)]
    named = [
        (title, [Path(page).stem for page in pages])
        for entry in nav
        if isinstance(entry, dict)
        for title, pages in entry.items()
    ]
    return [("Begin", first), *named] if first else named


def names() -> list[str]:
    return [name for _, members in groups() for name in members]


def guide(name: str) -> Guide:
    text = (folder() / f"{name}.md").read_text(encoding="utf-8")
    text = AUTODOC.sub(lambda match: _autodoc(match[1], (match[2] or "").split(", ")), text)
    parser = _parser()
    tokens = parser.parse(text)
    headings = list(_anchored(tokens))
    for token in tokens:
        for inner in [token, *(token.children or [])]:
            if inner.type == "link_open":
                inner.attrSet("href", _page(str(inner.attrGet("href"))))
    title = next((heading.text for heading in headings if heading.level == 1), name)
    body = parser.renderer.render(tokens, parser.options, {})
    return Guide(name, title, body, [heading for heading in headings if heading.level > 1])


def _parser() -> MarkdownIt:
    """CommonMark and tables; a tag in a guide is text."""
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise missing("markdown-it-py") from None
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule(
        "table_open", lambda *_: '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>'
    )
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser


def _fence(renderer: Any, tokens: list[Token], place: int, *_: Any) -> str:
    token = tokens[place]
    language, rest = (*token.info.split(" ", 1), "")[:2]
    title = re.search(r'title="([^"]+)"', rest)
    caption = f"<figcaption>{code(title[1])}</figcaption>" if title else ""
    body = f'<pre tabindex="0"><code>{code(token.content.rstrip(), language)}</code></pre>'
    return f"<figure>{caption}{body}</figure>\n" if caption else f"{body}\n"


def _anchored(tokens: list[Token]) -> Iterator[Heading]:
    """The headings, each of which gets an anchor from its text, as MkDocs makes them."""
    used: dict[str, int] = {}
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or [])
            anchor = re.sub(r"[^\w\s-]", "", text).strip().lower()
            anchor = re.sub(r"[\s]+", "-", anchor) or "part"
            used[anchor] = used.get(anchor, -1) + 1
            anchor += f"_{used[anchor]}" if used[anchor] else ""
            opening.attrSet("id", anchor)
            yield Heading(int(opening.tag[1]), anchor, text)


def _page(link: str) -> str:
    """`weights.md#locks` -> `weights.html#locks`; other links as they are."""
    return link if "://" in link else re.sub(r"\.md(?=#|$)", ".html", link)


def _autodoc(path: str, members: list[str]) -> str:
    """A public name as Markdown: its signature as code, its docstring, and those of the members that the page names."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    parts = [f"### {path}", _documented(path, found)]
    for member in filter(None, members):
        parts += [f"#### {name}.{member}", _documented(f"{name}.{member}", getattr(found, member, None))]
    return "\n\n".join(part for part in parts if part)


def _documented(name: str, found: Any) -> str:
    fence = "`" * 3
    signature = f"{fence}python\n{name}{_signature(found)}\n{fence}" if callable(found) else ""
    return "\n\n".join(part for part in (signature, _docstring(found)) if part)


def _signature(found: Any) -> str:
    """Parameters as they are written, without long annotations of the interpreter's."""
    try:
        shown = str(inspect.signature(found))
    except (TypeError, ValueError):
        return "(...)"
    shown = re.sub(r"'([^']*)'", r"\1", shown) if "'" in shown else shown
    return shown if len(shown) <= 100 else _broken(shown)


def _broken(signature: str) -> str:
    """A parameter a line."""
    depth, lines = 0, [""]
    for letter in signature:
        depth += (letter in "([{") - (letter in ")]}")
        lines[-1] += letter
        if letter == "," and depth == 1:
            lines.append("   ")
        elif letter == "(" and depth == 1 and len(lines) == 1:
            lines.append("    ")
    return "\n".join(lines)


def _docstring(found: Any) -> str:
    """Paragraphs; what is indented in it stays code."""
    text = inspect.getdoc(found) or ""
    return re.sub(r"(?m)^(#+) ", r"\\\1 ", text)
