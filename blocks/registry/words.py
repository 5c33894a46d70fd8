"""What others wrote, and how far it is let in: one rule for names, one for text that is shown. Imports no torch.

A name stands in paths, commands, TOML, generated Python and the shell, so it has few letters that mean the same everywhere. A text
stands in a terminal, an error, HTML, Markdown or a docstring, so it is one line of letters that can be seen.
"""

from __future__ import annotations

import keyword
import re

LONGEST_NAME = 100
LONGEST_TEXT = 500
LONGEST_PART = 2_000
"""Letters of one part of an error: a path has up to 4,096, and the middle of such a one tells nobody anything."""

WORD = r"[a-z][a-z0-9_]{0,99}"
"""A namespace, a block, a family."""
MODEL = r"[a-z0-9][a-z0-9_]{0,99}"
"""A variant."""
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
MAJOR = r"[1-9][0-9]{0,8}"
PART = r"[A-Za-z_][A-Za-z0-9_]{0,99}"
"""What a spec calls a part of a chain, or a slot that blocks write and read."""
DISTRIBUTION = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
"""A distribution as an index of packages knows it; it may stand in a command that we print."""
VERSION = r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,99}"
DEVICE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"


def is_name(text: object, pattern: str = WORD) -> bool:
    """Whether a text is a name of this pattern, and no word that Python keeps for itself (`class`, `lambda`)."""
    return isinstance(text, str) and bool(re.fullmatch(pattern, text)) and not keyword.iskeyword(text)


def is_text(text: object, most: int = LONGEST_TEXT) -> bool:
    """Whether a text is one line that can be shown as it is."""
    return isinstance(text, str) and len(text) <= most and text.isprintable()


def printable(text: object, most: int = LONGEST_PART) -> str:
    """One line that every terminal shows as it stands.

    What cannot be seen (control characters, line breaks, marks that turn the direction of writing, halves of surrogate pairs)
    becomes its escape, `\\x1b`; what goes on after `most` letters is left out.
    """
    line = str(text)
    line = line if len(line) <= most else f"{line[:most]}..."
    return (
        line if line.isprintable() else "".join(letter if letter.isprintable() else _escape(letter) for letter in line)
    )


def printable_lines(text: str) -> str:
    """The same for lines and tabs, which stay, of any length."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escape(letter) for letter in text)


def raised(error: BaseException) -> str:
    """What code of others raised, as one line: its class, and what it says if it can say it."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # __str__ is theirs, too
        text = "an error that cannot be shown"
    kind = type(error).__name__
    return printable(f"{kind}: {text}" if text else kind, LONGEST_TEXT)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def short_name(identity: str) -> str:
    """`mlp` for a block of the core, `acme/dynconv` otherwise: the shortest spelling that means this block."""
    return identity.removeprefix("core/").removesuffix("@1")
