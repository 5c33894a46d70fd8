"""Accuracy against latency, or MACs against latency where no accuracy is known: points, the Pareto front, labels that do not overlap.

Drawn by Pillow. `zoo.site` draws the same in a browser, where one can filter and ask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from zoo.errors import InputError, Problem
from zoo.selection.figures import in_percent, less_is_better
from zoo.selection.find import Candidate, pareto_front

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 640, 76, 24, 48, 60
LETTER, LINE = 6.4, 13
"""Width and height of a label's letter, in points of the picture."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f")


class Point(NamedTuple):
    """Where a model stands, and its label, which may be left out."""

    x: float
    y: float
    candidate: Candidate
    colour: str
    on_front: bool
    label: tuple[float, float] | None


class Picture(NamedTuple):
    """All that is drawn. Ticks are (position, text)."""

    title: str
    across: str
    up: str
    points: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def draw(found: Sequence[Candidate], path: str | Path, metric: str) -> None:
    """Writes a .png. Raises InputError for nothing to draw and another ending."""
    path = Path(path)
    if path.suffix != ".png":
        raise InputError(str(path), Problem("", "a name that ends in .png", path.suffix or "no ending"))
    points = [candidate for candidate in found if candidate.ms]
    if not points:
        raise InputError(str(path), Problem("", "models with a latency", "none", next="`zoo calibrate` or `zoo bench`"))
    _png(layout(points, metric), path)


def layout(known: Sequence[Candidate], metric: str) -> Picture:
    """Latency goes across, in powers, or MACs where few have one; accuracy goes up, or where there is none, MACs in powers."""
    scored = [candidate for candidate in known if candidate.figure is not None]
    candidates, rises = (scored, False) if scored else (list(known), True)
    shown = [candidate for candidate in candidates if candidate.ms]
    timed = 2 * len(shown) >= len(candidates)
    shown = shown if timed else candidates
    xs = [candidate.ms if timed and candidate.ms else candidate.macs / 1e9 for candidate in shown]
    ys = [candidate.figure.value if candidate.figure else candidate.macs / 1e9 for candidate in shown]
    ends = (TOP, HEIGHT - BOTTOM) if scored and less_is_better(metric) else (HEIGHT - BOTTOM, TOP)
    across, x_ticks = _scale(xs, LEFT, WIDTH - RIGHT, True)
    up, y_ticks = _scale(ys, *ends, rises)
    families = sorted({candidate.family for candidate in shown})
    front = {candidate.name for candidate in pareto_front(shown)}
    places = [(across(x), up(y)) for x, y in zip(xs, ys, strict=True)]
    order = sorted(range(len(shown)), key=lambda i: (shown[i].name not in front, xs[i]))
    labels = _labels([shown[i].name for i in order], [places[i] for i in order], places)
    by_name = {shown[i].name: label for i, label in zip(order, labels, strict=True)}
    points = [
        Point(
            x,
            y,
            candidate,
            COLOURS[families.index(candidate.family) % len(COLOURS)],
            candidate.name in front,
            by_name[candidate.name],
        )
        for candidate, (x, y) in zip(shown, places, strict=True)
    ]
    guessed = any(candidate.latency == "predicted" for candidate in shown)
    across_text = ("latency in ms" if timed else "GMACs") + (", open points are predictions" if guessed else "")
    across_text += f"; {len(candidates) - len(shown)} were not measured" if len(candidates) > len(shown) else ""
    return Picture(
        "Accuracy and latency" if scored else "Work and latency",
        across_text,
        _with_unit(metric) if scored else "GMACs",
        points,
        x_ticks,
        y_ticks,
    )


def _with_unit(metric: str) -> str:
    return f"{metric} in %" if in_percent(metric) else metric


def _scale(values: list[float], start: float, end: float, powers: bool):  # type: ignore[no-untyped-def]
    """(value -> position, ticks) with a margin of 5 % on both sides."""
    to = math.log10 if powers else float
    low, high = to(min(values)), to(max(values))
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return start + (to(value) - low) / (high - low) * (end - start)

    back = (lambda value: 10**value) if powers else (lambda value: value)
    return place, [(place(tick), f"{tick:g}") for tick in _ticks(back(low), back(high), powers)]


def _ticks(low: float, high: float, powers: bool) -> list[float]:
    """1, 2 and 5 times powers of ten, or five or so equal steps of such a width."""
    decades = range(math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9))) + 1)
    if powers:
        return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    rough = (high - low) / 6
    step = next(
        m * 10.0 ** math.floor(math.log10(rough))
        for m in (1, 2, 5, 10)
        if m * 10.0 ** math.floor(math.log10(rough)) >= rough
    )
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _labels(
    names: list[str], own: list[tuple[float, float]], points: list[tuple[float, float]]
) -> list[tuple[float, float] | None]:
    """The place of each name: the first of eight places round its point where it meets neither a label, a point nor the border; else none."""
    boxes: list[tuple[float, float, float, float]] = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    placed: list[tuple[float, float] | None] = []
    for name, (x, y) in zip(names, own, strict=True):
        width = LETTER * len(name)
        tries = [
            (x + 7, y + 4), (x + 7, y - 6), (x - 7 - width, y + 4), (x - width / 2, y - 9), (x - width / 2, y + 17), (x + 7, y + 15),
            (x - 7 - width, y - 6), (x - 7 - width, y + 15),
        ]  # fmt: skip
        for left, base in tries:
            box = (left, base - LINE + 3, left + width, base + 3)
            inside = box[0] >= LEFT and box[2] <= WIDTH - RIGHT and box[1] >= TOP and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_meet(box, other) for other in boxes):
                boxes.append(box)
                placed.append((left, base))
                break
        else:
            placed.append(None)
    return placed


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _front(picture: Picture) -> list[tuple[float, float]]:
    return sorted((point.x, point.y) for point in picture.points if point.on_front)


def _png(picture: Picture, path: Path, zoom: int = 2) -> None:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH * zoom, HEIGHT * zoom), "white")
    pen = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(11 * zoom), ImageFont.load_default(15 * zoom)

    def line(*ends: float, fill: str = "#e5e5e5") -> None:
        pen.line([end * zoom for end in ends], fill=fill, width=zoom)

    def text(x: float, y: float, said: str, anchor: str = "ls", font: object = small) -> None:
        pen.text((x * zoom, y * zoom), said, fill="black", font=font, anchor=anchor)  # type: ignore[arg-type]

    for x, said in picture.x_ticks:
        line(x, TOP, x, HEIGHT - BOTTOM)
        text(x, HEIGHT - BOTTOM + 16, said, "ms")
    for y, said in picture.y_ticks:
        line(LEFT, y, WIDTH - RIGHT, y)
        text(LEFT - 8, y + 4, said, "rs")
    front = _front(picture)
    for (x1, y1), (x2, y2) in pairwise(front):
        line(x1, y1, x2, y2, fill="#888888")
    for point in picture.points:
        fill = "white" if point.candidate.latency == "predicted" else point.colour
        box = [(point.x - 4) * zoom, (point.y - 4) * zoom, (point.x + 4) * zoom, (point.y + 4) * zoom]
        pen.ellipse(box, fill=fill, outline=point.colour, width=zoom)
        if point.label:
            text(*point.label, point.candidate.name)
    text(WIDTH / 2, 26, picture.title, "ms", large)
    text(WIDTH / 2, HEIGHT - 18, picture.across, "ms")
    text(LEFT, TOP - 10, picture.up)
    image.save(path)
