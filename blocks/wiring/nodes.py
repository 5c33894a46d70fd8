"""What the nodes of a graph read, in which order they run, and what is wrong with their names. Data alone: imports no torch.

A node is a table `{ name, from, merge, do, same_as }`. `from` lists what it reads: names of the graph's inputs and of other nodes, each
alone or as an edge `{ of, do, like, mode }`. `cell.p3` is the output `p3` of the node `cell`, whose graph has several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blocks.registry.errors import nearest
from blocks.registry.schema import Issue, Path
from blocks.registry.words import PART, is_name

GRAPH = "core/graph@1"
MOST_NODES = 4096

Nodes = Sequence[Mapping[str, Any]]


def readings(node: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """(place in the node, name) of all that it reads: its inputs, the sizes that edges take, and the node whose module it shares."""
    for i, edge in enumerate(node["from"]):
        if isinstance(edge, str):
            yield ("from", i), edge
            continue
        yield ("from", i, "of"), edge["of"]
        if edge.get("like") not in (None, "none"):
            yield ("from", i, "like"), edge["like"]
    if (shared := shares(node)) is not None:
        yield ("same_as",), shared


def shares(node: Mapping[str, Any]) -> str | None:
    """The node whose module this one runs; None for one with a module of its own, as has the node that names itself."""
    shared: str | None = node.get("same_as")
    return None if shared in (None, "none", node["name"]) else shared


def owner(name: str, inputs: Sequence[str]) -> str:
    """The node, or the input, that a name belongs to: `cell` of `cell.p3`, but the whole of an input `stages.2`."""
    return name if name in inputs else name.partition(".")[0]


def in_order(nodes: Nodes, inputs: Sequence[str]) -> list[int]:
    """Positions of the nodes so that each stands behind all that it reads, else as they are written; those of a circle are left out.

    Names of nothing are nothing to wait for."""
    names = {node["name"] for node in nodes}
    waiting = {i: {owner(name, inputs) for _, name in readings(node)} & names for i, node in enumerate(nodes)}
    order: list[int] = []
    done: set[str] = set()
    while ready := [i for i, needs in waiting.items() if needs <= done]:
        for i in ready:
            del waiting[i]
            done.add(nodes[i]["name"])
        order += ready
    return order


def several(node: Mapping[str, Any]) -> list[str]:
    """The names of a node's outputs, where a graph in it has more than one."""
    call = node.get("do") if node.get("do") not in (None, "none") else node.get("merge")
    outputs = call.get("outputs", []) if isinstance(call, dict) and call.get("block") == GRAPH else []
    return [output["name"] for output in outputs] if len(outputs) > 1 else []


def faults(nodes: Nodes, inputs: Sequence[str], outputs: Sequence[Mapping[str, Any]]) -> Iterator[Issue]:
    """All that is wrong with the names of a graph: taken twice, read and not there, in a circle, or read by nobody."""
    names = [str(node["name"]) for node in nodes]
    for i, name in enumerate(names):
        if not is_name(name, PART):
            yield Issue(("parts", i, "name"), "a name of letters, digits and _, no word of Python's", f"`{name}`")
        if name in names[:i] or name in inputs:
            yield Issue(("parts", i, "name"), "nodes and inputs with different names", f"`{name}` twice")
    places = [(("parts", i, *place), name) for i, node in enumerate(nodes) for place, name in readings(node)]
    places += [(("outputs", i, "of"), output["of"]) for i, output in enumerate(outputs)]
    known = [*inputs, *names]
    outputs_of = {str(node["name"]): several(node) for node in nodes}
    for place, name in places:
        home = owner(name, inputs)
        if home not in known:
            yield Issue(place, "a node or an input of this graph", f"`{name}`", nearest(name, known))
        elif place[-1] != "same_as" and (fault := _output_fault(name, home, outputs_of.get(home, []))):
            yield Issue(place, *fault)
    yield from _circles(nodes, inputs)
    read = {owner(name, inputs) for place, name in places if place[-1] != "same_as"}
    for i, name in enumerate(names):
        if name not in read:
            yield Issue(("parts", i), "a node that another one reads, or an output", f"`{name}`, which nobody reads")


def _output_fault(name: str, home: str, outputs: Sequence[str]) -> tuple[str, str, str] | None:
    """(expected, found, nearest) for a name that picks no single value of a node."""
    wanted = name[len(home) + 1 :]
    if outputs and wanted not in outputs:
        options = [f"{home}.{output}" for output in outputs]
        return f"one of the outputs of `{home}`", f"`{name}`", nearest(name, options) or options[0]
    if not outputs and wanted:
        return f"`{home}`, which has one output", f"`{name}`", home
    return None


def _circles(nodes: Nodes, inputs: Sequence[str]) -> Iterator[Issue]:
    stuck = sorted(set(range(len(nodes))) - set(in_order(nodes, inputs)))
    if stuck:
        where, circle = _circle(nodes, inputs, stuck)
        yield Issue(
            ("parts", where, "from"), "nodes that do not wait for themselves", "a circle: " + " -> ".join(circle)
        )


def _circle(nodes: Nodes, inputs: Sequence[str], stuck: Sequence[int]) -> tuple[int, list[str]]:
    """(position of its first node, names as the data flows) of one circle among nodes of which each waits for another."""
    place = {str(nodes[i]["name"]): i for i in stuck}
    path = [next(iter(place))]
    while True:
        needs = (owner(name, inputs) for _, name in readings(nodes[place[path[-1]]]))
        following = next(name for name in needs if name in place)
        if following in path:
            circle = [*path[path.index(following) :], following][::-1]
            return place[circle[0]], [f"`{name}`" for name in circle]
        path.append(following)
