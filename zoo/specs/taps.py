"""The graph behind the stages: what it reads of the net becomes its inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from blocks.registry.schema import INVALID
from blocks.wiring.nodes import GRAPH
from zoo.errors import Problem, listed, nearest
from zoo.specs.graphs import Writer
from zoo.specs.tree import Items, Origin, Table, report

TAP = re.compile(r"input|stem(?:\.[0-9]{1,3})?|stages\.[0-9]{1,3}(?:\.layers\.[0-9]{1,4}(?:\.tokens)?)?")
"""What a graph behind the stages may read of them; `tokens` of a layer inside a view are those that flow there, a class token among them."""
LEVEL = re.compile(r"levels\.([0-9]{1,3})(\.tokens)?")


def graph_behind(
    source: Table, writer: Writer, stages: Sequence[Any], levels: Sequence[str] | None, named: Sequence[str] = ()
) -> Any:
    """The graph behind the stages, `[spec.graph]` with `nodes`, as a call whose inputs are the places of the net that it reads.

    `named` are inputs of the model beside its first, which the graph reads by their names.

    A filled one is a call already, whose inputs are found anew."""
    graph, origin = source["graph"], source.origins["graph"]
    key_of_nodes = "parts" if isinstance(graph, Table) and graph.get("block") == GRAPH else "nodes"
    if not isinstance(graph, Table) or key_of_nodes not in graph:
        report(writer.problems, origin, "a table with `nodes`, and as a rule `outputs`", graph)
        return INVALID
    known = ("nodes", "outputs", "let")
    call = Table(origin)
    call.put("graph", graph[key_of_nodes], graph.origins[key_of_nodes])
    for key in graph:
        if key_of_nodes == "parts" and key in ("block", "parts", "inputs"):
            continue
        if key not in known:
            writer.problems.append(
                Problem(str(graph.origins[key]), f"one of {listed(known)}", f"`{key}`", nearest(key, known))
            )
        elif key != "nodes":
            call.put(key, graph[key], graph.origins[key])
    inputs = Items(origin)
    inputs.push(f"stages.{len(stages) - 1}" if stages else "input", origin)
    call.put("inputs", inputs, origin)
    written = writer.write(call, origin)
    return _with_taps(written, writer.problems, stages, levels, named)


def _with_taps(
    graph: Table, problems: list[Problem], stages: Sequence[Any], levels: Sequence[str] | None, named: Sequence[str]
) -> Table:
    """The graph with `levels.i` as the places they stand for, and with all that it reads of the net as its inputs."""
    taps: dict[str, Origin] = {}
    names = {node.get("name") for node in graph["graph"]}
    for node in graph["graph"]:
        if node.get("name") in named:
            expected = "nodes and inputs with different names"
            problems.append(Problem(str(node.origin), expected, f"`{node.get('name')}` twice"))

    def settled(name: Any, origin: Origin) -> Any:
        if not isinstance(name, str) or name in names:
            return name
        if match := LEVEL.fullmatch(name):
            if not levels:  # without a backbone, or with one that is refused
                if levels is None:
                    problems.append(Problem(str(origin), "a `backbone`, whose level that is", f"`{name}`"))
                return INVALID
            if int(match[1]) >= len(levels):
                problems.append(Problem(str(origin), f"a level from 0 to {len(levels) - 1}", f"`{name}`"))
                return INVALID
            name = levels[int(match[1])] + (match[2] or "")
        if name in named:
            taps.setdefault(name, origin)
        elif TAP.fullmatch(name):
            if fault := _tap_fault(name, stages):
                problems.append(Problem(str(origin), *fault))
                return INVALID
            taps.setdefault(name, origin)
        return name

    for node in graph["graph"]:
        reads = node["from"]
        for i, edge in enumerate(reads):
            if isinstance(edge, Table):
                for key in ("of", "like"):
                    if key in edge:
                        edge[key] = settled(edge[key], edge.origins[key])
            else:
                reads[i] = settled(edge, reads.origins[i])
    for output in graph.get("outputs", ()):
        output["of"] = settled(output.get("of"), output.origin)
    inputs = Items(graph.origin)
    for name, origin in taps.items():
        inputs.push(name, origin)
    graph.put("inputs", inputs, graph.origin)
    return graph


def _tap_fault(name: str, stages: Sequence[Any]) -> tuple[str, str] | None:
    steps = name.split(".")
    if steps[0] != "stages":
        return None
    if int(steps[1]) >= len(stages):
        return f"a stage from 0 to {len(stages) - 1}" if stages else "a net with stages", f"`{name}`"
    layers = stages[int(steps[1])].get("layers", [])
    if len(steps) > 2 and int(steps[3]) >= len(layers):
        return f"a layer from 0 to {len(layers) - 1} of `stages.{steps[1]}`", f"`{name}`"
    return None
