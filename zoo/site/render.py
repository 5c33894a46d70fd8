"""Templates, addresses of pages, and colours of code.

Whatever is filled into a template is text, and is escaped; only what this file and `guides` made of it is markup.
"""

from __future__ import annotations

import functools
import json
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocks.registry.words import printable, printable_lines
from zoo.errors import InputError, Problem

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = Path(__file__).parent
ASSETS = HERE / "assets"
CODE_CLASSES = {
    "Comment": "c",
    "Keyword": "k",
    "Literal.String": "s",
    "Name.Tag": "k",
    "Literal.Number": "n",
    "Generic.Prompt": "k",
}
"""Kinds of code that have a colour, by the classes of the style sheet."""


@functools.cache
def environment() -> Environment:
    """Raises InputError where Jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing("jinja2") from None
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"code": code, "slug": slug, "ticked": ticked}
    made.globals |= {"address": address}
    return made


def missing(package: str) -> InputError:
    """The error for an installation without what pages are made with."""
    problem = Problem("", f"the package `{package}`", "none", next='pip install "blockzoo[site]"')
    return InputError("site", problem)


def render(template: str, **values: Any) -> str:
    """A page of a template."""
    return environment().get_template(template).render(**values)


def address(room: str, name: str) -> str:
    """The file of a page: `models/starnet_s1.html`, `blocks/acme.dynconv.html`."""
    return f"{room}/{slug(name)}.html"


def slug(name: str) -> str:
    """A name as that of a file: what is neither letter, digit, dot, dash nor `_` becomes a dot."""
    return re.sub(r"[^A-Za-z0-9_.-]", ".", name).lstrip(".") or "page"


def script(name: str, value: Any) -> str:
    """Data as a script, which pages from a disk may load where they may load no JSON. JSON is an expression of JavaScript."""
    return f"self.{name} = {_json(value)};\n"


def entry(table: str, key: str, value: Any) -> str:
    """A script that enters one value into a table, which others fill with theirs."""
    return f"(self.{table} ??= {{}})[{_json(key)}] = {_json(value)};\n"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def code(text: str, language: str = "") -> Markup:
    """Code with spans for its colours."""
    from markupsafe import Markup, escape

    try:
        from pygments.lexers import get_lexer_by_name
        from pygments.util import ClassNotFound
    except ImportError:
        raise missing("pygments") from None
    text = printable_lines(text)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return Markup(escape(text))
    coloured = ((_class_of(str(kind).removeprefix("Token.")), piece) for kind, piece in lexer.get_tokens(text))
    runs = ((name, "".join(piece for _, piece in run)) for name, run in groupby(coloured, key=lambda pair: pair[0]))
    shown = (
        Markup('<span class="{}">{}</span>').format(name, piece) if name else escape(piece) for name, piece in runs
    )
    return Markup("").join(shown)


def ticked(text: str) -> Markup:
    """A line of others in which words between backticks are code."""
    from markupsafe import Markup, escape

    parts = printable(text).split("`")
    if len(parts) % 2 == 0:
        return escape(printable(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _class_of(kind: str) -> str:
    return next((name for prefix, name in CODE_CLASSES.items() if kind.startswith(prefix)), "")
