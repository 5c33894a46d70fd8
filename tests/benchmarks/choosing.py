"""How good answers are: predictions against measurements, and what `zoo pick` loses against measuring everything."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from zoo import catalog
from zoo.measure.latency import Runtime
from zoo.measure.predict import predictions, read
from zoo.measure.published import METRIC
from zoo.measure.store import Store, newest
from zoo.measure.this_device import this_device
from zoo.selection.figures import figure_of
from zoo.selection.pick import REACH

BUDGETS = 200


def report(threads: int = 1) -> list[str]:
    """Lines of text, from the stored rows and the calibration of this machine; a sentence where there are none."""
    runtime, device = Runtime(threads), this_device().id
    with Store() as store:
        made = read(store, device, runtime)
        guesses = predictions(store, device, runtime)
        rows = [row for row in newest(store.rows(device=device, verdict="clean")) if row.runtime.key == runtime.key]
    if made is None or made.errors is None or not rows:
        return [
            f"nothing is measured or calibrated for {device}, {runtime.key}: `zoo bench --all`, then `zoo calibrate`"
        ]
    lines = [
        f"predictions, families left out in turn: median error {made.errors.median:.1%}, 95 % within {made.errors.p95:.1%} "
        f"({made.errors.models} models of {made.errors.families} families)"
    ]
    for form in ("train", "deploy"):
        truth = {row.model: row.p50_ms for row in rows if row.form == form and (row.digest, form) in guesses}
        guessed = {name: guesses[catalog.entry(name).digest, form].ms for name in truth}
        figures = {name: figure.value for name in truth if (figure := figure_of(name, METRIC)) is not None}
        truth = {name: truth[name] for name in figures}
        losses = [loss for budget in budgets(truth) if (loss := regret(truth, guessed, figures, budget)) is not None]
        median, worst = median_and_p95(losses)
        lines.append(
            f"zoo pick, {form} form: regret in points of {METRIC} over {len(losses)} budgets: median {median:.2f}, "
            f"95th percentile {worst:.2f}, {sum(loss == 0 for loss in losses) / len(losses):.0%} without any ({len(truth)} models)"
        )
    return lines


def budgets(truth: dict[str, float]) -> list[float]:
    """Evenly drawn in their logarithm, from the fastest model to the slowest."""
    draw, low, high = random.Random(0), math.log(min(truth.values())), math.log(max(truth.values()))
    return [math.exp(draw.uniform(low, high)) for _ in range(BUDGETS)]


def regret(
    truth: dict[str, float], guessed: dict[str, float], figures: dict[str, float], budget: float
) -> float | None:
    """The regret: by how much the choice is worse than the best that exhaustive measurement would find; None where nothing fits.

    truth and guessed: measured and predicted milliseconds. The choice is what `pick` would make with these.
    """
    best = max((figures[name] for name in truth if truth[name] <= budget), default=None)
    tried = sorted((name for name in truth if guessed[name] <= REACH * budget), key=lambda name: -figures[name])
    chosen = next((figures[name] for name in tried if truth[name] <= budget), None)
    if best is None:
        return None
    return best - chosen if chosen is not None else best


def median_and_p95(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
