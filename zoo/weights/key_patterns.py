"""Patterns of tensor names with placeholders, readable in both directions.

`{x}` stands for one dotted segment (or a part of one), `{x*}` for one or more segments, `{i+1}` for a number written
with an offset, `{x:a|b}` for one of these words, `{x:a=b|c=d}` for a word that is `a` in the source and `b` in the zoo.
A placeholder means the same in every pattern of a rule, so its kind need be written only once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
INSIDE = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?P<many>\*)?(?P<offset>[+-][0-9]+)?(?::(?P<words>.+))?")
MOST_PLACEHOLDERS, MOST_MANY = 8, 2  # these and the next bound the work of a match
LONGEST, LONGEST_SPLIT = 1_000, 250
"""Letters of a name or a pattern: the names of tensors have no more; and of a name that a pattern can split up in many ways."""

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


Reach = Callable[[str, int], Iterable[int]]


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
        self._splits = self._has_many_splits()

    def match(self, name: str) -> Values | None:
        """What the placeholders stand for in `name`; of several ways to read it the one in which the first stands for most."""
        texts = self._texts(name) if len(name) <= LONGEST else None
        if texts is None:
            return None
        values: Values = {}
        for hole, text in zip(self._holes, texts, strict=True):
            value = self._value(hole, text)
            if value is None or values.setdefault(hole.name, value) != value:
                return None
        return values

    def _texts(self, name: str) -> Sequence[str] | None:
        """The text of each placeholder, None where the name is none of the pattern's."""
        if self._splits:
            return (
                None
                if len(name) > LONGEST_SPLIT
                else _read(name, [part if isinstance(part, str) else self._reach(part) for part in self._parts])
            )
        match = self._regex.fullmatch(name)
        return match.groups() if match else None

    def _has_many_splits(self) -> bool:
        """Whether a segment may be shared out between placeholders in many ways, all of which a regular expression would try in turn."""
        free = [hole for hole in self._holes if not self._kinds[hole.name].words and not self._kinds[hole.name].number]
        inside = "".join("*" if part in free else part if isinstance(part, str) else "0" for part in self._parts)
        many = sum(self._kinds[hole.name].many for hole in self._holes)
        return many > 1 or any(segment.count("*") > 1 for segment in inside.split("."))

    def _reach(self, hole: Hole) -> Reach:
        """Where the text of a placeholder may end that begins at a place: the farthest first."""
        kind = self._kinds[hole.name]
        if kind.words or kind.number:
            expression = re.compile(self._expression(hole))
            words = sorted(self._read[hole.name], key=len, reverse=True)
            if kind.words:
                return lambda name, at: [at + len(word) for word in words if name.startswith(word, at)]
            return lambda name, at: range(match.end(), at, -1) if (match := expression.match(name, at)) else ()
        free = re.compile(self._expression(hole))

        def ends(name: str, at: int) -> Iterable[int]:
            match = free.match(name, at)
            return [end for end in range(match.end(), at, -1) if name[end - 1] != "."] if match else ()

        return ends

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


def _read(name: str, parts: Sequence[str | Reach]) -> list[str] | None:
    """The texts of the placeholders. What is known to lead nowhere from a part and a place is not tried again, so the work is bounded by
    parts x letters x letters."""
    dead: set[tuple[int, int]] = set()

    def ends(part: int, at: int) -> Iterator[int]:
        piece = parts[part]
        if isinstance(piece, str):
            return iter([at + len(piece)] if name.startswith(piece, at) else [])
        return iter(piece(name, at))

    trail = [(0, ends(0, 0))]  # (where a part begins, its ends that were not tried yet)
    while trail:
        at, pending = trail[-1]
        end = next((end for end in pending if (len(trail), end) not in dead), None)
        if end is None:
            dead.add((len(trail) - 1, at))
            trail.pop()
        elif len(trail) < len(parts):
            trail.append((end, ends(len(trail), end)))
        elif end == len(name):
            starts = [at for at, _ in trail] + [end]
            return [name[starts[i] : starts[i + 1]] for i, part in enumerate(parts) if not isinstance(part, str)]
    return None


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
