"""One key rule, read from data: which names it takes, which names it gives, and what happens to the tensors.

["from", "to"]                                       a rename; the same as { from = ..., to = ... }
{ from, to, shape = "o i 1 1 -> o i" }               a rename that rearranges axes
{ from, to, optional = true }                        a rename of what a checkpoint may lack
{ from, split = { dim, to = [...] } }                one source tensor -> several
{ to, cat = { dim, from = [...], sizes = [...] } }   several -> one; sizes when they differ
{ from, to, stack = { dim, index = "e" } }           `{e}` of `from` counts along a new axis
{ from, to, unstack = { dim, index = "e" } }         an axis is counted by `{e}` of `to`
{ …, when = NAME, unless = NAME }                    any of these in models that have the tensor NAME of ours, or do not; or [NAME, …]
{ tie, with }                                        a second name of the tensor `with`
{ ignore, beside, fill, dtype }                      carries no value; export writes the scalar `fill` beside it
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from zoo.errors import listed, nearest
from zoo.weights.axes import Axes
from zoo.weights.header import DTYPES
from zoo.weights.key_patterns import Pattern, PatternError, Values, compile_patterns
from zoo.weights.operations import Cat, Operation, Rename, Split, Stack, Unstack

MEMBERS = {  # the member that gives an operation its name -> (required members, optional members)
    "split": ({"from", "split"}, {"when", "unless"}),
    "cat": ({"to", "cat"}, {"when", "unless"}),
    "stack": ({"from", "to", "stack"}, {"when", "unless"}),
    "unstack": ({"from", "to", "unstack"}, {"when", "unless"}),
    "tie": ({"tie", "with"}, set()),
    "ignore": ({"ignore"}, {"beside", "fill", "dtype"}),
    "from": ({"from", "to"}, {"shape", "optional", "when", "unless"}),  # a plain rename, looked for last
}

Group = tuple[tuple[str, str], ...]
"""The placeholders' values, sorted, without the index: what the names of one application of a rule have in common."""


@dataclass(frozen=True)
class Side:
    """The names on one side of a rule: one per pattern, or any number counted by the placeholder `index`."""

    patterns: list[Pattern]
    index: str = ""

    def claim(self, name: str) -> tuple[Group, int] | None:
        """The group and the slot of `name`, or None if it is not of this side."""
        for slot, pattern in enumerate(self.patterns):
            values = pattern.match(name)
            if values is not None:
                slot = int(values.pop(self.index)) if self.index else slot
                return tuple(sorted(values.items())), slot
        return None

    def names(self, group: Group, count: int = 1) -> list[str] | None:
        """The names of a group; `count` of them if they are counted. None if a number would be negative."""
        values = dict(group)
        if self.index:
            names = [self.patterns[0].render(values | {self.index: str(slot)}) for slot in range(count)]
        else:
            names = [pattern.render(values) for pattern in self.patterns]
        return None if None in names else [name for name in names if name is not None]


class Move(NamedTuple):
    """Source tensors become zoo tensors; with `guards` (name, present) in models alone that have these tensors, or do not."""

    source: Side
    zoo: Side
    operation: Operation
    optional: bool = False
    """Whether a checkpoint may lack it: the model then keeps its first values."""
    guards: tuple[tuple[str, bool], ...] = ()

    def holds(self, there: Container[str]) -> bool:
        """Whether the rule is one of a model with these tensors; of none in particular all are."""
        return there == () or all((name in there) == present for name, present in self.guards)

    def claim_source(self, name: str) -> tuple[Group, int] | None:
        claim = self.source.claim(name)
        return claim if claim and self.zoo.names(claim[0]) is not None else None

    def claim_zoo(self, name: str) -> tuple[Group, int] | None:
        claim = self.zoo.claim(name)
        return claim if claim and self.source.names(claim[0]) is not None else None


class Tie(NamedTuple):
    """The source tensor `key` is the source tensor `other` once more."""

    key: Pattern
    other: Pattern

    def claim_source(self, name: str) -> tuple[Group, int] | None:
        return _claim_one(self.key, name)


class Ignore(NamedTuple):
    """The source tensor `key` carries no value. Export writes the scalar `fill` beside each tensor `beside`."""

    key: Pattern
    beside: Pattern | None = None
    fill: float = 0
    dtype: torch.dtype = torch.int64

    def claim_source(self, name: str) -> tuple[Group, int] | None:
        return _claim_one(self.key, name)


Rule = Move | Tie | Ignore


def read_rule(data: Any) -> Rule:
    """The rule that `data` (a table or a list of two names) states. Raises PatternError."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        if len(data) != 2 or not all(isinstance(name, str) for name in data):
            raise PatternError(f'expected ["from", "to"]; found {list(data)!r}')
        data = {"from": data[0], "to": data[1]}
    if not isinstance(data, Mapping):
        raise PatternError(f"expected a table or a list of two names; found {data!r}")
    kind = next((kind for kind in MEMBERS if kind in data), "")
    _check_members(data, kind)
    if kind == "tie":
        return Tie(*_same_side(_text(data, "tie"), _text(data, "with")))
    if kind == "ignore":
        return _read_ignore(data)
    return _read_move(data, kind)._replace(guards=_guards(data))


def _guards(data: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    """What `when` and `unless` say, each of a name or of several."""
    given = [
        (key, [data[key]] if isinstance(data[key], str) else data[key]) for key in ("when", "unless") if key in data
    ]
    for key, names in given:
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise PatternError(f"`{key}` must be a name or a list of names; found {data[key]!r}")
    return tuple((name, key == "when") for key, names in given for name in names)


def _read_move(data: Mapping[str, Any], kind: str) -> Move:
    if kind == "from":
        axes = Axes(_text(data, "shape")) if "shape" in data else None
        optional = data.get("optional", False)
        if not isinstance(optional, bool):
            raise PatternError(f"`optional` must be true or false; found {optional!r}")
        return _move([_text(data, "from")], [_text(data, "to")], Rename(axes))._replace(optional=optional)
    options = data[kind]
    required = {"split": {"dim", "to"}, "cat": {"dim", "from"}}.get(kind, {"dim", "index"})
    if not isinstance(options, Mapping):
        raise PatternError(f"`{kind}` must be a table with {listed(sorted(required))}; found {options!r}")
    _check_keys(options, required, {"sizes"} if kind == "cat" else set(), f" in `{kind}`")
    dim = _number(options["dim"], f"{kind}.dim")
    if kind == "split":
        return _move([_text(data, "from")], _texts(options["to"], "split.to"), Split(dim))
    if kind == "cat":
        parts = _texts(options["from"], "cat.from")
        return _move(parts, [_text(data, "to")], Cat(dim, len(parts), _sizes(options.get("sizes", []), len(parts))))
    operation = Stack(dim) if kind == "stack" else Unstack(dim)
    return _move([_text(data, "from")], [_text(data, "to")], operation, kind, _text(options, "index"))


def _move(source: list[str], zoo: list[str], operation: Operation, counted: str = "", index: str = "") -> Move:
    """`counted` is `stack` (the index is in the source names), `unstack` (in the zoo's) or ""."""
    source_patterns, zoo_patterns = compile_patterns(source, zoo, [index] if index else [])
    source_index, zoo_index = (index if counted == way else "" for way in ("stack", "unstack"))
    for word, pattern, marker in (("from", source_patterns[0], source_index), ("to", zoo_patterns[0], zoo_index)):
        if marker and marker not in pattern.names:
            raise PatternError(f"`{word}` lacks the index `{{{marker}}}`")
    first = source_patterns[0].names - {source_index}
    sides = [("from", p, source_index) for p in source_patterns] + [("to", p, zoo_index) for p in zoo_patterns]
    for word, pattern, marker in sides:
        _check_same(source_patterns[0].text, first, f"`{word}` `{pattern.text}`", pattern.names - {marker})
    return Move(Side(source_patterns, source_index), Side(zoo_patterns, zoo_index), operation)


def _read_ignore(data: Mapping[str, Any]) -> Ignore:
    key = _text(data, "ignore")
    key = key if "{" in key else _glob(key)
    if "fill" not in data and "beside" not in data:
        return Ignore(compile_patterns([key], [])[0][0])
    if "fill" not in data or "beside" not in data:
        raise PatternError("`fill` and `beside` go together: the value, and the source tensor beside which it stands")
    if isinstance(data["fill"], bool) or not isinstance(data["fill"], (int, float)):
        raise PatternError(f"`fill` must be a number; found {data['fill']!r}")
    dtype = data.get("dtype", "int64")
    if dtype not in (names := [torch_name for torch_name, _ in DTYPES.values()]):
        raise PatternError(f"`dtype` must be one of {', '.join(names)}; found {dtype!r}")
    return Ignore(*_same_side(key, _text(data, "beside")), data["fill"], getattr(torch, dtype))


def _glob(text: str) -> str:
    """`**` any number of segments, `*` one: as placeholders that nothing refers to."""
    numbers = iter(range(len(text)))
    return re.sub(r"\*\*?", lambda star: f"{{any{next(numbers)}{'*' if star[0] == '**' else ''}}}", text)


def _same_side(first: str, second: str) -> tuple[Pattern, Pattern]:
    one, other = compile_patterns([first, second], [])[0]
    _check_same(first, one.names, f"`{second}`", other.names)
    return one, other


def _check_same(text: str, names: set[str], other: str, other_names: set[str]) -> None:
    if missing := sorted(names - other_names):
        raise PatternError(f"{other} lacks the placeholder `{{{missing[0]}}}` of `{text}`")
    if new := sorted(other_names - names):
        raise PatternError(f"{other} has the placeholder `{{{new[0]}}}`, which `{text}` lacks")


def _claim_one(pattern: Pattern, name: str) -> tuple[Group, int] | None:
    values: Values | None = pattern.match(name)
    return None if values is None else (tuple(sorted(values.items())), 0)


def _check_members(data: Mapping[str, Any], kind: str) -> None:
    if not kind:
        members = {name for required, optional in MEMBERS.values() for name in required | optional}
        _check_keys(data, set(), members, "")
        found = listed(list(data)) or "an empty table"
        raise PatternError(f"expected a rule with {listed(list(MEMBERS))}; found {found}")
    required, optional = MEMBERS[kind]
    _check_keys(data, required, optional, "" if kind == "from" else f" with `{kind}`")


def _check_keys(data: Mapping[str, Any], required: set[str], optional: set[str], place: str) -> None:
    for key in data:
        if key not in required | optional:
            near = nearest(str(key), sorted(required | optional))
            raise PatternError(f"unknown key `{key}`{place}" + (f"; nearest `{near}`" if near else ""))
    if missing := sorted(required - set(data)):
        raise PatternError(f"no `{missing[0]}`{place}")


def _text(data: Mapping[str, Any], key: str) -> str:
    if not isinstance(data[key], str):
        raise PatternError(f"`{key}` must be a string; found {data[key]!r}")
    return str(data[key])


def _texts(value: Any, key: str) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        raise PatternError(f"`{key}` must be a list of at least two names; found {value!r}")
    return [_text({key: text}, key) for text in value]


def _number(value: Any, key: str) -> int:
    if type(value) is not int or not 0 <= value < 16:
        raise PatternError(f"`{key}` must be a number in [0, 16); found {value!r}")
    return value


def _sizes(value: Any, count: int) -> tuple[int, ...]:
    good = isinstance(value, Sequence) and all(type(size) is int and size > 0 for size in value)
    if not good or len(value) not in (0, count):
        raise PatternError(f"`cat.sizes` must be {count} numbers >= 1; found {value!r}")
    return tuple(value)
