"""A filled spec as people read it: its places from the stem to the head, and in each the blocks as a drawing. Imports no torch.

A drawing is a tree of nodes; a template, and the comparison in the browser, make boxes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from blocks.registry import describe, identity_of
from blocks.registry.words import printable, short_name
from zoo.specs.model import Spec
from zoo.specs.tree import plain

LONGEST_VALUE = 60
"""Letters of a parameter in a drawing; the whole of it is in the spec."""
INSIDE = ("parts", "branches", "within", "blocks")
"""Parameters whose blocks are drawn one after the other, inside the block that holds them."""


class Node(NamedTuple):
    """One block: its short name, the parameters that are not at their default, and the blocks in it."""

    block: str
    params: str
    parts: list[Node]

    def text(self) -> str:
        """`residual(layer_norm, mlp ratio 4)`."""
        inside = f"({', '.join(part.text() for part in self.parts)})" if self.parts else ""
        return f"{self.block}{inside}{' ' + self.params if self.params else ''}"


class Place(NamedTuple):
    """A part of the net. `name` is its path in the state dict; `note` says which layers of a stage these nodes are."""

    name: str
    nodes: list[Node]
    note: str = ""
    width: int | None = None


def places(spec: Spec) -> list[Place]:
    """The stem; of each stage what leads into it, what looks at its layers, the layers, each kind of them once; the nodes of the graph behind
    them, likewise; the head."""
    found = _part("stem", spec.stem)
    for number, stage in enumerate(spec.stages):
        name = f"stages.{number}"
        for part in ("downsample", "view"):
            found += _part(f"{name}.{part}", getattr(stage, part))
        found += [Place(name, nodes(list(layer)), note, spec.dims[number]) for layer, note in _kinds_of(stage.layers)]
        found += _part(f"{name}.post", stage.post)
    if spec.graph is not None:
        found += [Place("graph", drawn, note) for note, drawn in _wired(plain(spec.graph)["parts"])]
    return [*found, *_part("head", spec.head)]


def _part(name: str, call: Any) -> list[Place]:
    drawn = nodes(call)
    return [Place(name, drawn)] if drawn else []


MOST_NAMES = 3
"""Nodes of a graph that are told by name where several are alike."""


def _wired(parts: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[Node]]]:
    """The nodes of a graph that do something, each kind once: which they are, and what is done on their edges, where these meet, and then."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        edges = [edge["do"] for edge in part["from"] if isinstance(edge, dict)]
        alike.setdefault(json.dumps([edges, part["merge"], part["do"]], sort_keys=True), []).append(part)
    for key, members in alike.items():
        edges, merge, do = json.loads(key)
        drawn = [node for call in (*edges, merge, do) for node in nodes(call)]
        if drawn:
            yield _which(members), drawn


def _which(parts: Sequence[dict[str, Any]]) -> str:
    """`d1 from stages.1, d2`; of many that are alike, the first and the last."""
    names = [part["name"] for part in parts]
    if len(names) > MOST_NAMES:
        return printable(f"{names[0]} to {names[-1]}, {len(names)} alike")
    sources = [edge if isinstance(edge, str) else edge["of"] for edge in parts[0]["from"]]
    came = f" from {', '.join(sources)}" if len(names) == 1 and sources else ""
    return printable(f"{', '.join(names)}{came}")


def _kinds_of(layers: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Each layer that is unlike those before it, and where such layers stand."""
    positions: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        positions.setdefault(json.dumps(plain(layer), sort_keys=True), []).append(number)
    for key, numbers in positions.items():
        alike = len(positions) == 1
        yield json.loads(key), f"x {len(numbers)}" if alike else f"layers {_ranges(numbers)}"


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> `0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def nodes(call: Any) -> list[Node]:
    """The blocks of a call or a chain, in the order of the data."""
    call = plain(call)
    if call in (None, "none", []):
        return []
    if isinstance(call, list):
        return [node for part in call for node in nodes(part)]
    if isinstance(call, str):
        return [Node(short_name(call), "", [])]
    return [_node(call)]


def _node(call: dict[str, Any]) -> Node:
    name = str(call.get("block", ""))
    if short_name(name) == "graph" and isinstance(call.get("parts"), list):
        parts = [Node(which, "", drawn) for which, drawn in _wired(call["parts"])]
        return Node("graph", f"{len(call['parts'])} nodes", parts)
    known = describe(name).params if identity_of(name) else {}
    inside = [key for key in INSIDE if isinstance(call.get(key), list)]
    said = [
        f"{key.replace('_', ' ')} {_value(value)}"
        for key, value in call.items()
        if key not in ("block", *inside) and not _is_default(known.get(key), value)
    ]
    return Node(printable(short_name(name)), ", ".join(said), [node for key in inside for node in nodes(call[key])])


def _is_default(param: Any, value: Any) -> bool:
    return param is not None and not param.required and (_bare(param.default) == _bare(value) or value == "none")


def _bare(value: Any) -> Any:
    """A call without the defaults that were written into it: what it names."""
    name = value.get("block") if isinstance(value, dict) else value
    return short_name(name) if isinstance(name, str) else name


def _value(value: Any) -> str:
    """One parameter in few letters."""
    text = _said(value)
    return printable(text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "...")


def _said(value: Any) -> str:
    if isinstance(value, dict):
        node = nodes(value)[0].text() if "block" in value else ""
        return node or ", ".join(
            f"{key} {_said(inner)}" for key, inner in value.items() if inner not in ("none", 1, False)
        )
    if isinstance(value, list):
        return "[" + ", ".join(_said(inner) for inner in value) + "]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
