"""Patterns of tensor names with placeholders, readable in both directions.

`{x}` stands for one dotted segment (or a part of one), `{x*}` for one or more segments, `{i+1}` for a number written
with an offset, `{x:a|b}` for one of these words, `{x:a=b|c=d}` for a word that is `a` in the source and `b` in the zoo.
A placeholder means the same in every pattern of a rule, so its kind need be written only once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
INSIDE = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?P<many>\*)?(?P<offset>[+-][0-9]+)?(?::(?P<words>.+))?")
MOST_PLACEHOLDERS, MOST_MANY = 8, 2  # these and the next bound the work of a match
LONGEST = 1_000
"""Letters of a name or a pattern: the names of tensors have no more."""

Values = dict[str, str]
"""What the placeholders stand for; a number without its offset, a word in the source's spelling."""


class PatternError(ValueError):
    """A sentence on what is wrong with a pattern."""


class Hole(NamedTuple):
    name: str
    offset: int


class Kind(NamedTuple):
    """What a placeholder may stand for; `words` maps source words to zoo words."""

    many: bool = False
    number: bool = False
    words: tuple[tuple[str, str], ...] = ()


class Pattern:
    """One side of a rule: `match` reads the values out of a name, `render` writes them into one."""

    def __init__(self, text: str, parts: Sequence[str | Hole], kinds: dict[str, Kind], side: int):
        self.text = text
        self._parts, self._kinds = parts, kinds
        self._read = {name: {pair[side]: pair[0] for pair in kind.words} for name, kind in kinds.items()}
        self._write = {name: {pair[0]: pair[side] for pair in kind.words} for name, kind in kinds.items()}
        self._holes = [part for part in parts if isinstance(part, Hole)]
        self.names = {hole.name for hole in self._holes}
        expressions = (re.escape(part) if isinstance(part, str) else f"({self._expression(part)})" for part in parts)
        self._regex = re.compile("".join(expressions))

    def match(self, name: str) -> Values | None:
        found = self._regex.fullmatch(name) if len(name) <= LONGEST else None
        if not found:
            return None
        values: Values = {}
        for hole, text in zip(self._holes, found.groups(), strict=True):
            value = self._value(hole, text)
            if value is None or values.setdefault(hole.name, value) != value:
                return None
        return values

    def render(self, values: Values) -> str | None:
        """The name, or None if a number would be negative there."""
        texts = []
        for part in self._parts:
            text: str | None = part if isinstance(part, str) else self._text(part, values[part.name])
            if text is None:
                return None
            texts.append(text)
        return "".join(texts)

    def _expression(self, hole: Hole) -> str:
        kind = self._kinds[hole.name]
        if kind.words:
            return "|".join(re.escape(word) for word in sorted(self._read[hole.name], key=len, reverse=True))
        if kind.number:
            return "0|[1-9][0-9]{0,8}"
        return r"[^.]+(?:\.[^.]+)*" if kind.many else r"[^.]+"

    def _value(self, hole: Hole, text: str) -> str | None:
        kind = self._kinds[hole.name]
        if kind.words:
            return self._read[hole.name][text]
        if not kind.number:
            return text
        return str(int(text) - hole.offset) if int(text) >= hole.offset else None

    def _text(self, hole: Hole, value: str) -> str | None:
        kind = self._kinds[hole.name]
        if kind.words:
            return self._write[hole.name].get(value)
        if not kind.number:
            return value
        return str(int(value) + hole.offset) if int(value) + hole.offset >= 0 else None


def compile_patterns(
    source: Sequence[str], zoo: Sequence[str], numbers: Sequence[str] = ()
) -> tuple[list[Pattern], list[Pattern]]:
    """The patterns of one rule's two sides. `numbers` names placeholders that must be numbers. Raises PatternError."""
    kinds: dict[str, Kind] = {name: Kind(number=True) for name in numbers}
    parsed = [[(text, _parse(text, kinds)) for text in texts] for texts in (source, zoo)]
    for name, kind in kinds.items():
        if kind.many + kind.number + bool(kind.words) > 1:
            both = "two of: many segments (`*`), a number (`+1`), a choice of words (`:`)"
            raise PatternError(f"`{{{name}}}` cannot be {both}")
    sides = [[Pattern(text, parts, kinds, side) for text, parts in texts] for side, texts in enumerate(parsed)]
    return sides[0], sides[1]


def _parse(text: str, kinds: dict[str, Kind]) -> list[str | Hole]:
    if len(text) > LONGEST:
        raise PatternError(f"`{text[:40]}...` has {len(text):,} letters; a pattern has at most {LONGEST:,}")
    parts: list[str | Hole] = []
    for place, piece in enumerate(PLACEHOLDER.split(text)):
        if place % 2:
            parts.append(_hole(piece, text, kinds))
        elif any(mark in piece for mark in "{}"):
            raise PatternError(f"`{text}` has a brace without its partner")
        elif piece:
            parts.append(piece)
    _check_parts(text, parts, kinds)
    return parts


def _hole(inside: str, text: str, kinds: dict[str, Kind]) -> Hole:
    match = INSIDE.fullmatch(inside)
    if not match:
        ways = "`{x}`, `{x*}`, `{x+1}` or `{x:a=b|c=d}`"
        raise PatternError(f"`{{{inside}}}` in `{text}` is no placeholder; write {ways}")
    name, offset = match["name"], int(match["offset"] or 0)
    old = kinds.get(name, Kind())
    words = _words(match["words"], inside) if match["words"] else old.words
    if old.words and words != old.words:
        raise PatternError(f"`{{{name}}}` has two different choices of words in one rule; write them once")
    kinds[name] = Kind(old.many or bool(match["many"]), old.number or match["offset"] is not None, words)
    return Hole(name, offset)


def _words(text: str, inside: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for choice in text.split("|"):
        source, _, zoo = choice.partition("=")
        pairs.append((source, zoo or source))
    if any(len({pair[side] for pair in pairs}) < len(pairs) for side in (0, 1)) or not all(a and b for a, b in pairs):
        raise PatternError(f"`{{{inside}}}` must give each word one partner, and no two the same")
    return tuple(pairs)


def _check_parts(text: str, parts: list[str | Hole], kinds: dict[str, Kind]) -> None:
    holes = [part for part in parts if isinstance(part, Hole)]
    if not parts:
        raise PatternError("a pattern is empty")
    if any(isinstance(a, Hole) and isinstance(b, Hole) for a, b in pairwise(parts)):
        raise PatternError(f"`{text}` has two placeholders side by side; nothing tells where the first one ends")
    if len(holes) > MOST_PLACEHOLDERS or sum(kinds[hole.name].many for hole in holes) > MOST_MANY:
        bounds = f"more than {MOST_PLACEHOLDERS} placeholders, or more than {MOST_MANY} with `*`"
        raise PatternError(f"`{text}` has {bounds}")
