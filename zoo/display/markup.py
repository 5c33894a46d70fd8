"""Names and texts of others in pages that we write: Markdown, the YAML in front of it, code within it. Plain ones stay as they are."""

from __future__ import annotations

import json
import re

from blocks.registry.words import LONGEST_TEXT, printable

SPECIAL = re.compile(r"[\\`<>|\[\]]")


def markdown(text: str) -> str:
    """One line in which nothing is a tag, a link, a column or code."""
    return SPECIAL.sub(
        lambda sign: {"<": "&lt;", ">": "&gt;"}.get(sign[0], f"\\{sign[0]}"), printable(text, LONGEST_TEXT)
    )


def yaml(text: str) -> str:
    """A scalar of YAML, in a block or a flow: as it is where it can only mean itself, else in double quotes, as JSON has them."""
    line = printable(text, LONGEST_TEXT)
    plain = re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9./@:%?=&_+~,()-]*[A-Za-z0-9./@_+)-])?", line)
    return line if plain else json.dumps(line, ensure_ascii=False)


def flow(text: str) -> str:
    """The same within braces, where a comma ends a scalar."""
    return yaml(text) if "," not in text else json.dumps(printable(text, LONGEST_TEXT), ensure_ascii=False)


def fenced(text: str, language: str = "") -> str:
    """Code of several lines between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
