"""What was tried when a model was deployed: a row for each runtime and precision, as tables, as text and as JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from blocks.registry.words import printable
from zoo.display.console import size
from zoo.display.rows import Row, Table
from zoo.errors import InputError, Problem
from zoo.measure.latency import Verdict

Outcome = Literal["chosen", "equal", "refused", "missing", "untried"]
"""`equal`: it passed its checks and another was chosen; `refused`: it failed one, or could not be made; `missing`: its runtime is not
installed; `untried`: the minutes were over."""


class Tried(Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One runtime in one precision. `error` is the largest distance to the float64 train form, as a share of its largest output.

    `loss` and its 95 % interval are shares: 0.005 is half a point; `loss_of` says of what. `speed` is the time of torch's deploy form over
    this one's, round by round, with the interval of its median. Milliseconds are those of one call at the example's shape."""

    runtime: str
    precision: str
    outcome: Outcome
    reason: str = ""
    error: float | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    loss_of: str = ""
    p50_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    speed: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None
    verdict: Verdict | None = None
    compile_s: float | None = None
    size_bytes: int | None = None

    @property
    def name(self) -> str:
        """As sentences call it: `openvino, bfloat16`."""
        return f"{self.runtime}, {self.precision}"


class Report(Table[Tried]):
    """Rows for pandas and polars; as text a table under the sentence that says what was chosen."""

    summary: str
    """One sentence: what was chosen, and how fast it is."""

    def __init__(self, rows: Iterable[Tried], summary: str = ""):
        super().__init__(rows)
        self.summary = summary

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"summary": self.summary, "rows": self.to_dicts()}

    @property
    def chosen(self) -> Tried:
        return next(row for row in self if row.outcome == "chosen")

    def __str__(self) -> str:
        cells = [[printable(cell) for cell in cells_of(row)] for row in self]
        widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
        lines = [
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
            for line in [list(COLUMNS), *cells]
        ]
        return "\n".join([*([self.summary] if self.summary else []), *(line.rstrip() for line in lines)])


BUSY = "other programs took more than 8 % of the machine meanwhile; `again=True` measures anew"

COLUMNS = (
    "runtime",
    "precision",
    "outcome",
    "p50 ms",
    "interval",
    "speed",
    "error",
    "loss",
    "compiled in",
    "size",
    "because",
)


def cells_of(row: Tried) -> list[str]:
    """The texts of a row under `COLUMNS`; nothing stands where nothing is known."""
    return [
        row.runtime,
        row.precision,
        row.outcome,
        _figure(row.p50_ms),
        f"{row.low_ms:g} to {row.high_ms:g}" if row.low_ms is not None and row.high_ms is not None else "",
        f"{row.speed:.2f}x" if row.speed is not None else "",
        f"{row.error:.1e}" if row.error is not None else "",
        loss_text(row),
        f"{row.compile_s:.1f} s" if row.compile_s is not None else "",
        size(row.size_bytes) if row.size_bytes is not None else "",
        row.reason,
    ]


def loss_text(row: Tried) -> str:
    """A loss in points with its interval: `0.10 (0.00 to 0.40) points`."""
    if row.loss is None or row.loss_low is None or row.loss_high is None:
        return ""
    return f"{100 * row.loss:.2f} ({100 * row.loss_low:.2f} to {100 * row.loss_high:.2f}) points"


def _figure(value: float | None) -> str:
    return f"{value:g}" if value is not None else ""


def summary_of(row: Tried, model: str, threads: int, shape: str) -> str:
    """`starnet_s4 runs in onnxruntime, float32: 9.8 ms at (1, 3, 224, 224) on 2 threads, 1.90 times as fast as torch's deploy form`."""
    words = f"{printable(model)} runs in {row.name}"
    if row.p50_ms is None:
        return words
    words += f": {row.p50_ms:g} ms at {shape} on {threads} thread{'s' if threads != 1 else ''}"
    if row.speed is not None and (row.runtime, row.precision) != ("torch", "float32"):
        words += f", {row.speed:.2f} times as fast as torch's deploy form"
    return words + (f" ({row.verdict}: {BUSY})" if row.verdict == "contended" else "")


def report_from(plain: Any, where: str) -> Report:
    """A report of what `Report.plain` gave, and others may have written. Raises InputError with the place and what was expected there."""
    try:
        data = msgspec.convert(plain, _Plain)
    except msgspec.ValidationError as error:
        raise InputError(where, Problem("report", "a summary and rows", str(error))) from None
    return Report(data.rows, data.summary)


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    summary: str
    rows: list[Tried]
