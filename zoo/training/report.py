"""A training as a page that stands alone: figures, curves, what is taken for what, the worst mistakes as pictures, the recipe."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from blocks.registry.words import printable
from zoo.data.labelled import Labelled, Target, classes_of
from zoo.data.transforms import in_mode
from zoo.training.judging import Judgement
from zoo.training.recipe import Recipe, values

if TYPE_CHECKING:
    from zoo.training.outcome import Run

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #ddd }
td.n { text-align: right } figure { display: inline-block; margin: .5rem; width: 9rem; vertical-align: top; font-size: 13px }
figure img { width: 9rem; height: 9rem; object-fit: contain; background: #f4f4f4 } svg { max-width: 100% }
"""
MOST_CLASSES, MOST_MISTAKES, MOST_NAMES, SIDE = 40, 24, 50, 144
WIDTH, HEIGHT, EDGE = 440, 220, 44
COLOURS = ("#1f77b4", "#d62728")


def page(run: Run, data: Labelled, judged: Judgement, recipe: Recipe) -> str:
    """One HTML file without scripts; names of files and classes are shown, never meant."""
    form = ".4f" if run.task == "regression" else ".2%"
    interval = f" (95 % interval {run.ci95[0]:{form}} to {run.ci95[1]:{form}})" if run.ci95 else ""
    value = f"{run.value:{form}}"
    epochs = [row.epoch for row in run.history]
    losses = {"training": [row.loss for row in run.history], "held out": [row.held_out_loss for row in run.history]}
    parts = [
        f"<h1>{_text(run.model)}</h1>",
        f"<p>{run.figure} on {run.n} held-out pictures: <b>{value}</b>{interval}, after epoch {run.best_epoch} of {len(run.history)}. "
        f"Begun with {_text(run.start)}.</p>",
        *_errors(judged, data),
        _curve("loss", epochs, losses),
        _curve(run.figure, epochs, {"held out": [row.figure for row in run.history]}),
        "<h2>Pictures</h2>",
        _counts(data),
        *(_confusion(judged, data.labels) if run.task == "classification" else ()),
        "<h2>The worst mistakes</h2>",
        *_mistakes(judged, data),
        *_named("Left out: they cannot be read", [f"{name}: {reason}" for name, reason in run.unreadable]),
        *_named("In the training part and held out, too", [f"{train} = {other}" for train, other in run.doubles]),
        "<h2>Recipe</h2>",
        _table(["field", "value"], [[path, str(value)] for path, value in values(recipe).items()]),
    ]
    body = "\n".join(parts)
    head = '<meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">'
    return (
        f"<!doctype html><html lang=en>{head}<title>{_text(run.model)}</title><style>{STYLE}</style>\n{body}\n</html>\n"
    )


def _errors(judged: Judgement, data: Labelled) -> list[str]:
    """Of numbers the mean absolute error of each, in its units."""
    if judged.task != "regression":
        return []
    errors = (judged.answers - judged.targets).abs().mean(0).tolist()
    return [
        _table(
            ["number", "mean absolute error"],
            [[name, f"{error:.4g}"] for name, error in zip(data.labels, errors, strict=True)],
        )
    ]


def _counts(data: Labelled) -> str:
    parts = [part for part in ("train", "val", "test") if data.parts.get(part)]
    columns = [data.counts(part) for part in parts]
    rows = [[label, *(str(column[i]) for column in columns)] for i, label in enumerate(data.labels[:MOST_NAMES])]
    return _table(["", *parts], rows)


def _confusion(judged: Judgement, labels: Sequence[str]) -> list[str]:
    """A row for each class, a column for each answer; of many classes the pairs that are mistaken most."""
    matrix = judged.confusion()
    if len(labels) > MOST_CLASSES:
        wrong = matrix - np.diag(np.diag(matrix))
        order = np.argsort(-wrong, axis=None)[:MOST_NAMES]
        pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
        rows = [[labels[i], labels[j], str(wrong[i, j])] for i, j in pairs if wrong[i, j]]
        return ["<h2>What is taken for what</h2>", _table(["is", "taken for", "times"], rows)]
    lines = ["<tr><th>is \\ taken for</th>" + "".join(f"<th>{_text(label)}</th>" for label in labels) + "</tr>"]
    for i, label in enumerate(labels):
        total = max(1, int(matrix[i].sum()))
        cells = ""
        for j, count in enumerate(matrix[i]):
            colour = "44,160,44" if i == j else "214,39,40"
            cells += f'<td class=n style="background:rgba({colour},{0.7 * count / total:.2f})">{count}</td>'
        lines.append(f"<tr><th>{_text(label)}</th>{cells}</tr>")
    return ["<h2>What is taken for what</h2>", "<table>" + "\n".join(lines) + "</table>"]


def _mistakes(judged: Judgement, data: Labelled) -> list[str]:
    """The pictures whose answers were furthest from the truth, with both."""
    regrets = judged.regrets()
    order = regrets.argsort(descending=True, stable=True).tolist()
    if judged.task == "classification":
        order = [i for i in order if int(judged.answers[i].argmax()) != int(judged.targets[i])]
    if not order:
        return ["<p>None.</p>"]
    figures = []
    for i in order[:MOST_MISTAKES]:
        picture, target = data.parts["val"][i]
        words = f"{_told(target, data)}; answer: {_answer(judged, i, data)}"
        figures.append(
            f'<figure><img alt="" src="{_thumbnail(picture)}"><figcaption>{_text(picture.name)}<br>{_text(words)}</figcaption></figure>'
        )
    return figures


def _told(target: Target, data: Labelled) -> str:
    if data.task == "regression":
        return ", ".join(f"{value:.4g}" for value in target)  # type: ignore[union-attr]
    return ", ".join(data.labels[i] for i in classes_of(target)) or "none"


def _answer(judged: Judgement, row: int, data: Labelled) -> str:
    answer = judged.answers[row]
    if data.task == "regression":
        return ", ".join(f"{value:.4g}" for value in answer.tolist())
    if data.task == "multilabel":
        return (
            ", ".join(label for label, logit in zip(data.labels, answer.tolist(), strict=True) if logit > 0) or "none"
        )
    best = int(answer.argmax())
    return f"{data.labels[best]} ({float(answer.softmax(-1)[best]):.0%})"


def _thumbnail(picture: object) -> str:
    image: Image.Image = in_mode(picture.shown(), "RGB")  # type: ignore[attr-defined]
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _curve(title: str, across: Sequence[int], lines: dict[str, list[float]]) -> str:
    """A small chart: epochs go across, values up from their smallest to their largest."""
    points = [value for line in lines.values() for value in line]
    if not points:
        return ""
    low, high = min(points), max(points)
    span, last = (high - low) or 1.0, max(1, len(across) - 1)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{_text(title)} by epoch">']
    for (name, values_), colour, row in zip(lines.items(), COLOURS, (14, 28), strict=False):
        places = [
            f"{EDGE + (WIDTH - EDGE - 8) * i / last:.1f},{HEIGHT - 24 - (HEIGHT - 60) * (value - low) / span:.1f}"
            for i, value in enumerate(values_)
        ]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(places)}"/>')
        parts.append(f'<text x="{EDGE}" y="{row}" font-size="12" fill="{colour}">{_text(title)}, {_text(name)}</text>')
    for value, y in ((high, 40), (low, HEIGHT - 24)):
        parts.append(f'<text x="0" y="{y}" font-size="11">{value:.4g}</text>')
    parts.append(f'<text x="{WIDTH - 90}" y="{HEIGHT - 6}" font-size="11">epoch {across[-1]}</text></svg>')
    return "".join(parts)


def _named(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    rest = [f"<li>and {len(names) - MOST_NAMES} more</li>"] if len(names) > MOST_NAMES else []
    return [f"<h2>{title}</h2>", "<ul>", *(f"<li>{_text(name)}</li>" for name in names[:MOST_NAMES]), *rest, "</ul>"]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    lines = ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"


def _text(text: str) -> str:
    return html.escape(printable(text))
