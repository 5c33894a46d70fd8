"""A spec as a picture: what flows where, in Mermaid's language, which Markdown viewers draw, or as SVG, which browsers draw."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from blocks.registry.words import short_name
from zoo.specs.model import Spec

WIDEST = 60
"""Letters of one label."""


LETTER, LINE, GAP = 6.6, 26, 22
"""Of the SVG, in pixels: how wide a letter is, how high a box, and what lies between two boxes."""


class Box(NamedTuple):
    """A place where something is computed; `end`: an input or an output."""

    id: str
    label: str
    end: bool = False


class Arrow(NamedTuple):
    """What one place hands to another, and how it is brought to its size."""

    start: str
    end: str
    label: str = ""


def mermaid(spec: Spec) -> str:
    """A flow chart of the input, the stem, the stages and the head, and of all nodes of the graph behind them."""
    return "\n".join(["flowchart TD", *(f"  {_line(part)}" for part in _parts(spec))]) + "\n"


def _line(part: Box | Arrow) -> str:
    if isinstance(part, Box):
        return f'{part.id}(["{part.label}"])' if part.end else f'{part.id}["{part.label}"]'
    arrow = f'-- "{part.label}" -->' if part.label else "-->"
    return f"{part.start} {arrow} {part.end}"


def svg(spec: Spec) -> str:
    """The same chart as a drawing: every box stands below all that it reads, boxes of one row in the order of the spec."""
    parts = list(_parts(spec))
    boxes = {part.id: part for part in parts if isinstance(part, Box)}
    arrows = [part for part in parts if isinstance(part, Arrow)]
    for name in (end for arrow in arrows for end in arrow[:2]):  # layers that are read have no box of their own
        boxes.setdefault(name, Box(name, name))
    rows: dict[int, list[Box]] = {}
    for name, depth in _depths(boxes, arrows).items():
        rows.setdefault(depth, []).append(boxes[name])
    widths = {box.id: len(box.label) * LETTER + 16 for box in boxes.values()}
    lengths = {depth: sum(widths[box.id] + GAP for box in row) - GAP for depth, row in rows.items()}
    whole = max(lengths.values()) + 2 * GAP
    middles: dict[str, tuple[float, float]] = {}
    for depth, row in rows.items():
        ends = accumulate((widths[box.id] + GAP for box in row), initial=(whole - lengths[depth]) / 2)
        for box, left in zip(row, ends, strict=False):
            middles[box.id] = (left + widths[box.id] / 2, GAP + depth * (LINE + 2 * GAP) + LINE / 2)
    height = max(y for _, y in middles.values()) + LINE / 2 + GAP
    lines = [_curve(middles[arrow.start], middles[arrow.end], arrow.label) for arrow in arrows]
    lines += [_frame(box, widths[box.id], *middles[box.id]) for box in boxes.values()]
    size = f'width="{whole:.0f}" height="{height:.0f}" viewBox="0 0 {whole:.0f} {height:.0f}"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    style = 'font-family="monospace" font-size="11" text-anchor="middle"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', ground, *lines, "</svg>"]) + "\n"


def _depths(boxes: Mapping[str, Box], arrows: list[Arrow]) -> dict[str, int]:
    """Of each box how many stand above it at least: a graph has no circles, so this comes to an end."""
    depths = dict.fromkeys(boxes, 0)
    moved = True
    while moved:
        moved = False
        for arrow in arrows:
            if depths[arrow.end] <= depths[arrow.start]:
                depths[arrow.end], moved = depths[arrow.start] + 1, True
    return depths


def _curve(start: tuple[float, float], end: tuple[float, float], label: str) -> str:
    (x0, y0), (x1, y1) = (start[0], start[1] + LINE / 2), (end[0], end[1] - LINE / 2)
    path = f"M{x0:.1f} {y0:.1f} C{x0:.1f} {y0 + GAP:.1f} {x1:.1f} {y1 - GAP:.1f} {x1:.1f} {y1:.1f}"
    title = f"<title>{html.escape(label)}</title>" if label else ""
    dashes = ' stroke-dasharray="4 2"' if label else ""
    return f'<path d="{path}" fill="none" stroke="#777"{dashes}>{title}</path>'


def _frame(box: Box, width: float, x: float, y: float) -> str:
    corner, ground = (LINE / 2, "#eef") if box.end else (3, "#f6f6f6")
    place = f'x="{x - width / 2:.1f}" y="{y - LINE / 2:.1f}" width="{width:.1f}" height="{LINE}" rx="{corner}"'
    text = f'<text x="{x:.1f}" y="{y + 4:.1f}">{html.escape(box.label)}</text>'
    return f'<rect {place} fill="{ground}" stroke="#333"/>{text}'


def _parts(spec: Spec) -> Iterator[Box | Arrow]:
    yield Box("input", "input", end=True)
    for named in spec.inputs:
        yield Box(_id(named.name), named.name, end=True)
    before = "input"
    for name, label in _chain(spec):
        yield Box(_id(name), label)
        yield Arrow(_id(before), _id(name))
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


def _graph(graph: Mapping[str, Any]) -> Iterator[Box | Arrow]:
    nodes = {node["name"] for node in graph["parts"]}
    for place in graph["inputs"]:
        if ".layers." in place:
            yield Arrow(_id(place.partition(".layers.")[0]), _id(place))
    for node in graph["parts"]:
        merge = "" if node["merge"] == "none" else _words(node["merge"])
        label = " | ".join(word for word in (merge, _words(node["do"]) if node["do"] != "none" else "") if word)
        yield Box(_id(node["name"], nodes), f"{node['name']}{': ' if label else ''}{label}")
        for edge in node["from"]:
            of = edge if isinstance(edge, str) else edge["of"]
            like = "none" if isinstance(edge, str) else edge["like"]
            yield Arrow(_id(of, nodes), _id(node["name"], nodes), "" if like == "none" else f"as {like}")
    for output in graph["outputs"]:
        when = "" if output["when"] == "always" else f", {output['when']} only"
        yield Box(f"out_{output['name']}", f"{output['name']}{when}", end=True)
        yield Arrow(_id(output["of"], nodes), f"out_{output['name']}")


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
