"""Changing a tree: variants and overrides as deep merges, literal paths into the source, selectors into the filled tree.

A string, a list, a number or a table that says what it is (`block`, a wiring, `use`, an indexed value) replaces; any other
table merges. Integer steps address list positions. What matches nothing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from blocks import registry
from blocks.registry import BlockInfo
from blocks.registry.calls import is_wiring
from blocks.registry.schema import shown
from zoo.errors import Problem, listed, nearest
from zoo.specs.tree import Items, Origin, Path, Table, calls, children, place_in, position, rooted, walk

INDEXED = ("per_stage", "cycle", "runs", "grow")
EXTENDS = "extends"
"""What a variant calls the sibling that it changes."""
DEFINE = "define"
"""The key of the parts that are used by their names."""
MIXERS = ("token_mixer", "channel_mixer")
SELECTOR = re.compile(r"[*<>]")
RANGE = re.compile(r"([0-9]{1,7})-([0-9]{1,7})")


class Edit:
    """One change: a path in words, the value to put there, and who asked for it."""

    def __init__(self, path: str, value: Any, origin: Origin):
        self.path, self.value, self.origin = path.removeprefix("spec."), value, origin

    @property
    def is_selector(self) -> bool:
        return bool(SELECTOR.search(self.path)) or any(RANGE.fullmatch(step) for step in self.path.split("."))

    def problem(self, expected: str, found: str, near: str = "", next_step: str = "") -> Problem:
        return Problem(str(self.origin), expected, found, near, next_step)


def edits_of(patch: Table) -> list[Edit]:
    """A variant's own changes as edits, one per leaf that replaces or merges at its dotted path."""
    return [Edit(key, value, patch.origins[key]) for key, value in patch.items() if key != EXTENDS]


def swap_edits(swap: Mapping[str, Any], at: str = "") -> list[Edit]:
    """A swap by role, {kind or block: block}, as selector edits; `at` narrows it to a part of the tree (`stages.2-3`).

    Mixers are those of the layers: what stands in a stem or a downsample changes the width, and goes only where `at` leads there."""
    edits = []
    for role, value in swap.items():
        where = (at or "stages.*") if role in MIXERS else at
        if role in MIXERS and where.count(".") == 1 and where.startswith("stages."):
            where += ".layers"
        path = f"{where}.**.<{role}>" if where else f"**.<{role}>"
        edits.append(Edit(path, value, Origin("swap", f"{at}.<{role}>" if at else f"<{role}>")))
    return edits


def replaces(value: Any) -> bool:
    """Whether a value stands for itself, rather than for changes to what is there."""
    if not isinstance(value, dict):
        return True
    return bool({"block", "use", *INDEXED} & set(value)) or any(is_wiring(key) for key in value)


def apply_literal(tree: Table, edit: Edit, stage_count: int) -> list[Problem]:
    """Makes the edit in the source tree, in place; returns what is wrong with it."""
    if edit.path == DEFINE and isinstance(edit.value, dict) and isinstance(tree.get(DEFINE), Table):
        parts = rooted(edit.value, edit.origin)  # its keys are names of parts, also where a call has such a key
        named = (Edit(f"{DEFINE}.{name}", value, parts.origins[name]) for name, value in parts.items())
        return [problem for part in named for problem in apply_literal(tree, part, stage_count)]
    steps = edit.path.split(".")
    node: Any = tree
    for i, step in enumerate(steps[:-1]):
        following, problem = _descend(node, step, steps[: i + 1], edit, stage_count)
        if problem is not None:
            return [problem]
        node = following
    return _put(node, steps[-1], edit.value, edit)


def _descend(node: Any, step: str, so_far: list[str], edit: Edit, stage_count: int) -> tuple[Any, Problem | None]:
    if isinstance(node, Items):
        at = place_in(node, step)
        if at is None:
            return None, edit.problem(
                f"a position from 0 to {len(node) - 1} of the list `{'.'.join(so_far[:-1])}`", f"`{step}`"
            )
        node[at] = _opened(node[at], node.origins[at])
        return node[at], None
    if isinstance(node, Table):
        if step not in node and (
            so_far == ["stages"]
            or (len(so_far) == 2 and so_far[0] == "stages" and position(step, stage_count) is not None)
        ):
            node.put(step, Table(edit.origin), edit.origin)
        if step in node:
            node[step] = _opened(node[step], node.origins[step])
            return node[step], None
        place = f"below `{'.'.join(so_far[:-1]) or 'spec'}`"
        if not node:
            way = "state all of its value, or change the finished tree by a selector, a path with `*` or `<block>`"
            return None, edit.problem(f"a key that is stated {place}, where none is", f"`{step}`", next_step=way)
        return None, edit.problem(f"one of {listed(list(node), 12)} {place}", f"`{step}`", nearest(step, node))
    return None, edit.problem(f"a table or list at `{'.'.join(so_far[:-1])}`", shown(node))


def _opened(value: Any, origin: Origin) -> Any:
    """A block named by a string becomes a table, so that its parameters can be set."""
    if isinstance(value, str) and value != "none" and not value.startswith("@"):
        table = Table(origin)
        table.put("block", value, origin)
        return table
    if isinstance(value, str) and value.startswith("@"):
        table = Table(origin)
        table.put("use", value, origin)
        return table
    return value


def _put(node: Any, step: str, value: Any, edit: Edit) -> list[Problem]:
    if isinstance(node, Table):
        node.put(
            step,
            merged(node.get(step), value, edit.origin),
            edit.origin if replaces(value) else node.origins.get(step, edit.origin),
        )
        return []
    if isinstance(node, Items):
        at = place_in(node, step)
        if at is None:
            return [edit.problem(f"a position from 0 to {len(node) - 1}", f"`{step}`")]
        node[at] = merged(node[at], value, edit.origin)
        if replaces(value):
            node.origins[at] = edit.origin
        return []
    return [edit.problem("a table or a list to change", shown(node))]


def merged(old: Any, new: Any, origin: Origin) -> Any:
    """`old` with the changes `new`: the one rule of merging."""
    new = rooted(new, origin)
    if replaces(new):
        return new
    if isinstance(old, Items):
        for key, value in new.items():
            at = place_in(old, key)
            if at is None:
                return new  # names a position that is not there: the check will say that a list stood here
            old[at] = merged(old[at], value, new.origins[key])
            if replaces(value):
                old.origins[at] = new.origins[key]
        return old
    base = _opened(old, origin) if old is not None else None
    if not isinstance(base, Table):
        return new
    for key, value in new.items():
        step, _, rest = key.partition(".")
        if rest:  # a quoted dotted key inside a table means the same as an unquoted one
            value = rooted({rest: value}, new.origins[key])
        base.put(
            step,
            merged(base.get(step), value, new.origins[key]),
            new.origins[key] if replaces(value) else base.origins.get(step, new.origins[key]),
        )
    return base


def apply_selector(tree: Table, edit: Edit, name: str = "the model") -> list[Problem]:
    """Makes the edit at every place of the filled tree that its path selects; `name` is what a refusal calls the model."""
    steps = edit.path.split(".")
    target = _last_is_key(steps)
    sites = list(select(tree, steps[:-1] if target else steps))
    if not sites and edit.origin.place == "swap":
        return [Problem(str(edit.origin), found=f"{name} has {_without_role(tree, steps)}")]
    if not sites:
        return [
            edit.problem(
                "a path that selects something", f"`{edit.path}`, which matches nothing", _near_block(tree, steps)
            )
        ]
    problems: list[Problem] = []
    for path in sites:
        if not _reaches(tree, path):
            continue  # it went when a place around it was replaced
        if target:
            problems += _put(_at(tree, path), steps[-1], edit.value, edit)
        else:
            problems += _put(_at(tree, path[:-1]), str(path[-1]), edit.value, edit)
    return problems[:1]


def _last_is_key(steps: list[str]) -> bool:
    """`**.<mlp>.ratio` sets a key of what the rest selects; `stages.*.<mlp>` and `stages.*` select what is replaced."""
    return len(steps) > 1 and not SELECTOR.search(steps[-1]) and not re.fullmatch(r"[0-9]+(-[0-9]+)?", steps[-1])


def select(tree: Table, steps: list[str]) -> Iterator[Path]:
    """Paths of the filled tree that the steps match: a key, a position, `2-3`, `*`, `**`, or `<name>`."""
    paths = _matches(tree, steps, (), set())
    yield from (path for path in dict.fromkeys(paths) if path)


def _matches(node: Any, steps: list[str], path: Path, seen: set[tuple[Path, int]]) -> Iterator[Path]:
    if (path, len(steps)) in seen:  # `**.**.**` comes by in many ways
        return
    seen.add((path, len(steps)))
    if not steps:
        yield path
        return
    step, rest = steps[0], steps[1:]
    if step.startswith("<") and step.endswith(">"):
        for below in blocks_named(node, step[1:-1], path):
            yield from _matches(_at(node, below[len(path) :]), rest, below, seen)
        return
    if step == "**" and rest and rest[0].startswith("<"):
        yield from _matches(node, rest, path, seen)  # `<name>` reaches down by itself, and stops at the outermost
        return
    if step == "**":
        yield from _matches(node, rest, path, seen)
        for key, child in children(node):
            yield from _matches(child, steps, (*path, key), seen)
        return
    for key, child in children(node):
        named = isinstance(node, list) and isinstance(child, dict) and child.get("name") == step
        if step in ("*", str(key)) or named or _in_range(step, key):
            yield from _matches(child, rest, (*path, key), seen)


def _in_range(step: str, key: str | int) -> bool:
    match = RANGE.fullmatch(step)
    return bool(match) and isinstance(key, int) and int(match[1]) <= key <= int(match[2])  # type: ignore[index]


def blocks_named(node: Any, name: str, path: Path = ()) -> Iterator[Path]:
    """The outermost calls at or below `node` whose block, or whose block's kind, is `name`."""
    match = partial(_is_call_of, name)
    return (place for place, value in walk(node, path, ends_at=match) if match(value))


def _is_call_of(name: str, value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get("block"), str)):
        return False
    identity = registry.identity_of(value["block"])
    if identity is None:
        return False
    return identity == registry.identity_of(name) or registry.describe(identity).kind == name


def _at(node: Any, path: Path) -> Any:
    for step in path:
        node = node[step]
    return node


def _reaches(tree: Table, path: Path) -> bool:
    try:
        _at(tree, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _near_block(tree: Table, steps: list[str]) -> str:
    """A hint for a selector that matches nothing: the block or kind of this tree that was probably meant."""
    name = next((step[1:-1] for step in steps if step.startswith("<")), None)
    if name is None:
        return ""
    present = {word for info in _blocks_of(tree) for word in (info.name, info.kind)}
    near = nearest(name, present - {name})
    return f"<{near}>" if near else ""


def _without_role(tree: Table, steps: list[str]) -> str:
    """What a swap is told that finds nothing to swap: the roles that there are, where it looked."""
    role, place = steps[-1][1:-1], ".".join(steps[:-2])
    if place == "stages.*.layers":
        place, parts = "", list(select(tree, ["stages", "*", "layers"]))
    else:
        parts = list(select(tree, steps[:-2])) if place else [()]
    kinds = {info.kind for part in parts for info in _blocks_of(_at(tree, part))}
    roles = listed(sorted(kinds - {"wiring"}), 12)
    near = _near_block(tree, steps)
    where = f" at `{place}`" if place else ""
    sentence = (
        f"no {role.replace('_', ' ')}{where}; its roles{where and ' there'} are {roles}" if roles else f"nothing{where}"
    )
    return sentence + (f"; nearest `{near}`" if near and role not in MIXERS else "")


def _blocks_of(node: Any) -> Iterator[BlockInfo]:
    """What the registry says of the block of every call at and below `node` that names one; an edit before may have put anything."""
    names = (call["block"] for _, call in calls(node))
    return (registry.describe(name) for name in names if isinstance(name, str) and registry.identity_of(name))
