"""Bounds of nesting, counted in a text of TOML or JSON before a parser recurses into it."""

from __future__ import annotations

import re

MAX_NESTING = 48
TOKEN = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?|'{3}(?:[^']|'(?!''))*+(?:'{3})?|"(?:[^"\\\n]|\\[^\n])*+"?|'[^'\n]*+'?|\#[^\n]*+|[\[{\]}.=,\n]''',
    re.DOTALL,
)
"""Strings and comments, whole, so that nothing in them counts; brackets, and what steps and ends a key. Possessive: a string without
an end is read once."""


class TooDeep(ValueError):
    """A text that nests too deep: what was expected of it, and what was found."""

    def __init__(self, expected: str, found: str):
        super().__init__(f"expected {expected}; found {found}")
        self.expected, self.found = expected, found


def check_nesting(text: str) -> None:
    """Counts brackets, and the steps of dotted keys, in one pass over the text. Raises TooDeep."""
    depth = deepest = steps = 0
    for match in TOKEN.finditer(text):
        token = match[0]
        if token == ".":
            steps += 1
            if steps >= MAX_NESTING:  # tomllib takes a minute for a key of a hundred thousand steps
                raise TooDeep(f"keys of at most {MAX_NESTING} steps", "a longer one")
        elif len(token) == 1:
            steps = 0
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token, 0)
            deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise TooDeep(f"at most {MAX_NESTING} levels of nesting", f"{deepest}")
