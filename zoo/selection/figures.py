"""How good models are: figures that others printed, those of weights that ship, and those that `zoo evaluate` measured here."""

from __future__ import annotations

from collections.abc import Iterator

from zoo import catalog
from zoo.display.rows import Row
from zoo.evaluating.records import evaluated
from zoo.measure.published import published
from zoo.weights.manifest import read_manifest


class Figure(Row, frozen=True):
    """How good a model is: `dataset/metric@size`, its value in percent or bits, and where it was printed or measured."""

    metric: str
    value: float
    source: str

    @property
    def rank(self) -> float:
        """Its value, or below zero where less is better: a better figure has a higher one."""
        return -self.value if less_is_better(self.metric) else self.value


def figure_of(name: str, metric: str) -> Figure | None:
    """The figure of a metric: of weights that ship, or as published."""
    return next(
        (figure for figure in figures(name) if metric in (figure.metric, figure.metric.partition("@")[0])), None
    )


def less_is_better(metric: str) -> bool:
    """Bits for each byte of a text, and errors; accuracies are the more the better, in percent."""
    return "bits_per_byte" in metric or metric.endswith(("_error", "/mae", "/rmse"))


def in_percent(metric: str) -> bool:
    return unit_of(metric) == "%"


UNITS = {
    "bits_per_byte": "bits",
    "psnr": "dB",
    "psnr_before": "dB",
    **dict.fromkeys(("ssim", "r2", "mae", "rmse", "correlation"), ""),
}
"""Of the kinds of figures that are no share."""


def unit_of(metric: str) -> str:
    """`%` of `imagenet-1k/top1@224`, `bits` of `digits/bits_per_byte`."""
    return UNITS.get(metric.partition("@")[0].rpartition("/")[2], "%")


def figures(name: str) -> Iterator[Figure]:
    """All that is known of a model's accuracy: of weights that ship, measured here, and printed."""
    for tag in catalog.entry(name).tags:
        manifest = read_manifest(catalog.weights_manifest(name, tag))
        for metric, value in manifest.metrics.items():
            shown = 100 * value.value if in_percent(metric) else value.value
            yield Figure(metric, round(shown, 2), value.source or f"{name}.{tag}")
    for row in evaluated(name):
        for kind, estimate in row.figures.items():
            source = f"measured here on {row.date} with {row.weights}, {estimate.n:,} pictures"
            measured = round(100 * estimate.value, 2) if in_percent(kind) else round(estimate.value, 4)
            yield Figure(f"{row.data}/{kind}", measured, source)
    printed = published().get(name)
    own_size = catalog.entry(name).input_size[-1]
    if (
        printed is not None and printed.accuracy is not None and printed.size == own_size
    ):  # as the latencies beside it are
        yield Figure(printed.metric, printed.accuracy, printed.accuracy_source)


def metrics() -> list[str]:
    """What `find` can rank by, without and with sizes."""
    named = {figure.metric for name in catalog.entries() for figure in figures(name)}
    return sorted({name.partition("@")[0] for name in named}) + sorted(name for name in named if "@" in name)
