"""Plain data that remembers where each value came from: the trees that specs are merged, inlined and expanded in."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from blocks.registry.calls import is_wiring
from blocks.registry.schema import INVALID, shown
from blocks.registry.words import short_name
from zoo.errors import Problem

Path = tuple[str | int, ...]


class Origin(NamedTuple):
    """Where a value was written: a file, a variant of it, code or the shell; and the path within."""

    place: str
    path: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}" if self.path else self.place

    def below(self, step: str | int) -> Origin:
        return Origin(self.place, f"{self.path}.{step}" if self.path else str(step))


class Table(dict[str, Any]):
    """A table whose keys remember their origins."""

    def __init__(self, origin: Origin):
        super().__init__()
        self.origin = origin
        self.origins: dict[str, Origin] = {}

    def put(self, key: str, value: Any, origin: Origin) -> None:
        self[key] = value
        self.origins[key] = origin

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        twin = Table(self.origin)
        for key, value in self.items():
            twin.put(key, copy.deepcopy(value, memo), self.origins.get(key, self.origin.below(key)))
        return twin


class Items(list[Any]):
    """A list whose positions remember their origins."""

    def __init__(self, origin: Origin):
        super().__init__()
        self.origin = origin
        self.origins: list[Origin] = []

    def push(self, value: Any, origin: Origin) -> None:
        self.append(value)
        self.origins.append(origin)

    def __deepcopy__(self, memo: dict[int, Any]) -> Items:
        twin = Items(self.origin)
        for value, origin in zip(self, self.origins, strict=True):
            twin.push(copy.deepcopy(value, memo), origin)
        return twin


def rooted(value: Any, origin: Origin) -> Any:
    """Plain data as a tree: each value's origin is its own path below `origin`."""
    if isinstance(value, (Table, Items)):
        return copy.deepcopy(value)
    if isinstance(value, Mapping):
        table = Table(origin)
        for key, item in value.items():
            table.put(str(key), rooted(item, origin.below(key)), origin.below(key))
        return table
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        items = Items(origin)
        for i, item in enumerate(value):
            items.push(rooted(item, origin.below(i)), origin.below(i))
        return items
    return value


def plain(value: Any) -> Any:
    """A tree as dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def position(step: str, count: int) -> int | None:
    """The position below `count` that a step names, None when it names none; one spelling only: `1`, never `01`."""
    return int(step) if re.fullmatch(r"0|[1-9][0-9]{0,6}", step) and int(step) < count else None


def place_in(items: list[Any], step: str) -> int | None:
    """The position of a list that a step names, by its number or by the name of what stands there."""
    at = position(step, len(items))
    if at is not None:
        return at
    named = [i for i, item in enumerate(items) if isinstance(item, dict) and item.get("name") == step]
    return named[0] if len(named) == 1 else None


def child_origin(container: Any, step: str | int) -> Origin | None:
    """The origin of one child, None when there is no such child."""
    if isinstance(container, Table):
        return container.origins.get(str(step))
    if isinstance(container, Items) and isinstance(step, int) and 0 <= step < len(container):
        return container.origins[step]
    return None


def origin_of(tree: Table, path: Path) -> Origin:
    """Where the value at `path` was written; steps that no one wrote are appended to the last that someone did."""
    node: Any = tree
    origin = tree.origin
    for step in path:
        if step == "parts" and isinstance(node, Table) and step not in node:  # written as { residual = [...] }
            step = next((key for key in node if is_wiring(key)), step)
        step_origin = child_origin(node, step)
        if step_origin is not None:
            origin, node = step_origin, node[step]
        elif not (step == "block" and isinstance(node, str)):  # a name that stands for {block = name}
            origin, node = origin.below(step), None
    return origin


def report(problems: list[Problem], origin: Origin, expected: str, value: Any) -> None:
    """Adds the problem of a value that is not what is expected there; none for INVALID, whose problem is among them."""
    if value is not INVALID:
        problems.append(Problem(str(origin), expected, shown(value)))


def children(node: Any) -> list[tuple[Any, Any]]:
    """(step, value) of everything that stands directly in a table or list; nothing for other values."""
    return list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []


def walk(node: Any, path: Path = (), ends_at: Callable[[Any], bool] | None = None) -> Iterator[tuple[Path, Any]]:
    """Every value at and below `node`, which stands at `path`, with its path, parents first; nothing below a value that `ends_at` names."""
    yield path, node
    if ends_at is None or not ends_at(node):
        for step, child in children(node):
            yield from walk(child, (*path, step), ends_at)


def mentions(node: Any, wiring: str) -> bool:
    """Whether a table at or below `node` has this wiring, by its short form or as its block."""
    tables = (value for _, value in walk(node) if isinstance(value, dict))
    return any(wiring in table or short_name(str(table.get("block"))) == wiring for table in tables)


def calls(node: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every call at and below `node`, a table with `block`; outermost first."""
    return ((place, value) for place, value in walk(node, path) if isinstance(value, dict) and "block" in value)


def graft(filled: Any, written: Any, origin: Origin) -> Any:
    """`filled` (plain data with every default) as a tree that keeps the origins of `written`, the tree it was filled from.

    A value that nobody wrote gets the origin `default of BLOCK`.
    """
    if isinstance(filled, dict):
        table = Table(origin)
        short = (
            next(iter(set(written) - set(filled)), None) if isinstance(written, dict) and "parts" in filled else None
        )
        for key, item in filled.items():
            source = short if key == "parts" and short is not None and "parts" not in written else key
            inner = child_origin(written, source)
            if inner is None and "block" in filled and key not in ("block", "parts"):
                inner = Origin("default", f"{_short(filled)}{key}")
            table.put(key, graft(item, _child(written, source), inner or origin), inner or origin)
        return table
    if isinstance(filled, list):
        items = Items(origin)
        for i, item in enumerate(filled):
            inner = child_origin(written, i) or origin.below(i)
            items.push(graft(item, _child(written, i), inner), inner)
        return items
    return filled


def _short(call: Mapping[str, Any]) -> str:
    block = call.get("block")
    return f"`{short_name(block)}`." if isinstance(block, str) else ""


def _child(node: Any, step: Any) -> Any:
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None
