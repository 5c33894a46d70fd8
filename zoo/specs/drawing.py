"""A spec as a picture: what flows where, in Mermaid's language, which Markdown viewers draw."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from blocks.registry.words import short_name
from zoo.specs.model import Spec

WIDEST = 60
"""Letters of one label."""


def mermaid(spec: Spec) -> str:
    """A flow chart of the input, the stem, the stages and the head, and of all nodes of the graph behind them."""
    return "\n".join(["flowchart TD", *(f"  {line}" for line in _lines(spec))]) + "\n"


def _lines(spec: Spec) -> Iterator[str]:
    yield 'input(["input"])'
    for named in spec.inputs:
        yield f'{_id(named.name)}(["{named.name}"])'
    before = "input"
    for name, label in _chain(spec):
        yield f'{_id(name)}["{label}"]'
        yield f"{_id(before)} --> {_id(name)}"
        before = name
    if spec.graph is not None:
        yield from _graph(spec.graph)


def _chain(spec: Spec) -> Iterator[tuple[str, str]]:
    """(place, label) of everything that stands in a row."""
    if spec.stem != "none":
        yield "stem", f"stem: {_words(spec.stem)}"
    for i, (stage, dim) in enumerate(zip(spec.stages, spec.dims, strict=True)):
        yield (
            f"stages.{i}",
            f"stages.{i}, {dim} wide: {len(stage.layers)} x {_words(stage.layers[0]) if stage.layers else 'nothing'}",
        )
    if spec.head != "none":
        yield "head", f"head: {_words(spec.head)}"


def _graph(graph: Mapping[str, Any]) -> Iterator[str]:
    nodes = {node["name"] for node in graph["parts"]}
    for place in graph["inputs"]:
        if ".layers." in place:
            yield f"{_id(place.partition('.layers.')[0])} --> {_id(place)}"
    for node in graph["parts"]:
        merge = "" if node["merge"] == "none" else _words(node["merge"])
        label = " | ".join(word for word in (merge, _words(node["do"]) if node["do"] != "none" else "") if word)
        yield f'{_id(node["name"], nodes)}["{node["name"]}{": " if label else ""}{label}"]'
        for edge in node["from"]:
            of = edge if isinstance(edge, str) else edge["of"]
            like = "none" if isinstance(edge, str) else edge["like"]
            arrow = "-->" if like == "none" else f'-- "as {like}" -->'
            yield f"{_id(of, nodes)} {arrow} {_id(node['name'], nodes)}"
    for output in graph["outputs"]:
        when = "" if output["when"] == "always" else f", {output['when']} only"
        yield f'out_{output["name"]}(["{output["name"]}{when}"])'
        yield f"{_id(output['of'], nodes)} --> out_{output['name']}"


def _words(call: Any) -> str:
    """The blocks of a call by name, what is inside them left out."""
    if isinstance(call, list):
        text = ", ".join(_words(part) for part in call if part != "none")
    elif isinstance(call, dict):
        text = short_name(call["block"])
        text += f" of {len(call['parts'])} nodes" if text == "graph" else ""
    else:
        text = str(call)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}\u2026"


def _id(name: str, nodes: set[str] | None = None) -> str:
    """A name as Mermaid takes it: `cell.p3` is the node `cell`, `stages.2` a place of its own; words of the language are none."""
    home = name.partition(".")[0] if nodes and name.partition(".")[0] in nodes else name
    return f"n_{home}" if nodes and home in nodes else re.sub(r"\W", "_", home)
