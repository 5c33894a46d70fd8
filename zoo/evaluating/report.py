"""An evaluation as a page of Markdown, and as plain data for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.display.console import markdown_table
from zoo.display.markup import markdown
from zoo.evaluating.figures import ClassScore, Estimate

if TYPE_CHECKING:
    from zoo.evaluating.evaluate import Evaluation
    from zoo.evaluating.judged import Score
    from zoo.evaluating.paired import Pair

MOST_CLASSES = 200
"""That a page lists, the worst first."""
LEAST_P = 1e-4
WAYS = {
    "name": "by their names",
    "wordnet": "by their WordNet ids",
    "number": "by their numbers",
    "order": "by their order",
}


NUMBERS = ("r2", "mae", "rmse", "correlation")
"""Figures that are no shares."""


def shown(name: str, estimate: Estimate) -> str:
    """`83.12 % (82.79 to 83.45)`, or as it is what is no share: `0.9312 (0.9114 to 0.9472)`."""
    if name in NUMBERS:
        return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"
    return percent(estimate)


def percent(estimate: Estimate) -> str:
    """`83.12 % (82.79 to 83.45)`."""
    return f"{100 * estimate.value:.2f} % ({100 * estimate.low:.2f} to {100 * estimate.high:.2f})"


def score_cells(score: Score) -> list[str]:
    known = [shown(name, estimate) for name, estimate in score.figures.items()]
    name = score.weights if score.weights.startswith(score.model) else score.model
    return [name, score.data, f"{score.pictures:,}", *known, f"{score.pictures_per_second:.3g}"]


def score_columns(score: Score) -> list[str]:
    return ["model", "data", "pictures", *(name.replace("_", " ") for name in score.figures), "pictures/s"]


def pair_columns(pair: Pair) -> list[str]:
    if pair.metric == "nearer":
        return ["model", "against", "data", "difference of shares", "it is nearer", "the other", "p", "verdict"]
    difference = f"difference of {'top-1' if pair.metric == 'top1' else pair.metric}"
    return ["model", "against", "data", difference, "only it right", "only the other", "p", "verdict"]


def pair_cells(pair: Pair) -> list[str]:
    points = [100 * value for value in (pair.difference, pair.low, pair.high)]
    p = f"{pair.p:.2g}" if pair.p >= LEAST_P else f"< {LEAST_P:g}"
    difference = f"{points[0]:+.2f} ({points[1]:+.2f} to {points[2]:+.2f})"
    return [
        pair.model,
        pair.other,
        pair.data,
        difference,
        f"{pair.only_model:,}",
        f"{pair.only_other:,}",
        p,
        pair.verdict,
    ]


def notes(found: Evaluation) -> list[str]:
    """What a reader of the figures must know."""
    first = found.scores[0]
    among = "each has its own chance" if _tells_several(first) else f"models chose among {first.among:,}"
    if first.numbers:
        lines = [f"Intervals are of 95 %. Numbers were matched {WAYS[first.matched]}; mae and rmse have their units."]
    else:
        lines = [f"Intervals are of 95 %. Classes were matched {WAYS[first.matched]}; {among}."]
    lines += ["Pictures a second are those of the model alone while it was judged: `zoo bench` measures."]
    if found.unreadable:
        lines.append(f"{len(found.unreadable):,} pictures could not be read and were left out.")
    return lines


def page(found: Evaluation) -> str:
    """The whole evaluation in Markdown."""
    lines = ["# Evaluation", ""]
    lines += [markdown_table(score_columns(found.scores[0]), _escaped(map(score_cells, found.scores))), ""]
    if found.pairs:
        lines += [
            "## In pairs",
            "",
            markdown_table(pair_columns(found.pairs[0]), _escaped(map(pair_cells, found.pairs))),
            "",
        ]
        lines += ["McNemar's exact test on the same pictures; the verdict is at 5 %, shared among all rows.", ""]
    for score in found.scores:
        if score.numbers:
            lines += [f"## Numbers of {markdown(score.weights)} on {markdown(score.data)}", ""]
            rows = [
                [each.label, *(shown(name, figure) for name, figure in each.figures.items())] for each in score.numbers
            ]
            lines += [markdown_table(["number", *NUMBERS], _escaped(rows)), ""]
            continue
        worst = sorted(score.classes, key=lambda each: each.recall)[:MOST_CLASSES]
        rows = [_class_cells(each) for each in worst]
        more = ["average precision"] if _tells_several(score) else []
        lines += [f"## Classes of {markdown(score.weights)} on {markdown(score.data)}", ""]
        lines += [markdown_table(["class", "pictures", "recall", "precision", "F1", *more], _escaped(rows)), ""]
    if found.unreadable:
        rows = [[name, reason] for name, reason in found.unreadable.items()]
        lines += ["## Left out", "", markdown_table(["picture", "reason"], _escaped(rows)), ""]
    return "\n".join([*lines, *notes(found)]) + "\n"


def _class_cells(each: ClassScore) -> list[str]:
    recall = f"{each.recall:.2%} ({each.low:.2%} to {each.high:.2%})"
    shares = [each.precision, each.f1, *([] if each.average_precision is None else [each.average_precision])]
    return [each.label, f"{each.pictures:,}", recall, *(f"{value:.2%}" for value in shares)]


def _tells_several(score: Score) -> bool:
    return bool(score.classes) and score.classes[0].average_precision is not None


def _escaped(rows: Any) -> list[list[str]]:
    return [[markdown(cell) for cell in row] for row in rows]


def plain(found: Evaluation) -> dict[str, Any]:
    """What JSON has of it."""
    return {"scores": found.scores.to_dicts(), "pairs": found.pairs.to_dicts(), "unreadable": found.unreadable}
