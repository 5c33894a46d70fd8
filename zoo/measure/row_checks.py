"""Whether a row or a device that comes from elsewhere can be a measurement: finite times in their order, names, a date that has been.

Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from blocks.registry.registration import IDENTITY
from blocks.registry.words import DEVICE, is_name, is_text, printable
from zoo.catalog import NAME
from zoo.errors import Problem
from zoo.measure.block_latency import FIGURES, BlockLatency
from zoo.measure.device import Device
from zoo.measure.latency import DTYPES, Latency

DAY_MS = 86_400_000.0
"""No forward pass is longer."""
SKEW = timedelta(days=1)
"""The time by which clocks may differ."""
LETTERS = 300
DIGEST = re.compile(r"[0-9a-f]{64}")
ORDERED = (("min_ms", "p50_ms"), ("p50_ms", "p90_ms"), ("low_ms", "p50_ms"), ("p50_ms", "high_ms"))
"""Times of which the first is at most the second, where a row has both."""


def row_problems(row: Latency) -> list[Problem]:
    """Everything that speaks against the row of a model."""
    times = ("p50_ms", "low_ms", "high_ms", "p90_ms", "min_ms", "mean_ms", "cpu_ms", "wall_cpu", "ratio")
    return [
        *_model(row),
        *_names(row, ("anchor", "reason", "source", "version", "clocks")),
        *_times(row, times),
        *_counts(row, ("processes", "samples", "loops")),
        *_sizes(row, ("peak_bytes",)),
        *_row_date(row),
    ]


def block_problems(row: BlockLatency) -> list[Problem]:
    """Everything that speaks against the row of a block."""
    return [
        *_block(row),
        *_names(row, ("anchor", "reason", "source", "version")),
        *_times(row, FIGURES),
        *_counts(row, ("processes", "samples")),
        *_sizes(row, ("params", "macs")),
        *_row_date(row),
    ]


def device_problems(device: Device) -> list[Problem]:
    """Everything that speaks against a device."""
    words = {"name": device.name, "vendor": device.vendor, "isa": device.isa, "driver": device.driver}
    print_ = device.fingerprint
    speeds = {"gemm_gflops": print_.gemm_gflops, "copy_gb_s": print_.copy_gb_s, "dispatch_us": print_.dispatch_us}
    problems = [*_texts(words)]
    problems += [
        Problem(f"fingerprint.{name}", "a finite number > 0", f"{value}")
        for name, value in speeds.items()
        if not (0 < value < math.inf)
    ]
    if not 1 <= device.cores <= 10**6:
        problems.append(Problem("cores", "a number from 1 to 1,000,000", f"{device.cores}"))
    if not 0 <= device.memory_gb < math.inf:
        problems.append(Problem("memory_gb", "a finite number >= 0", f"{device.memory_gb}"))
    return problems


def is_past(date: str) -> bool:
    """Whether an ISO date lies before now, or so little after it that clocks may differ."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return False
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment <= datetime.now(UTC) + SKEW


def _model(row: Latency) -> Iterator[Problem]:
    if not NAME.fullmatch(row.model):
        yield Problem("model", "the name of a model", printable(row.model))
    if not DIGEST.fullmatch(row.digest):
        yield Problem("digest", "64 hexadecimal digits", printable(row.digest))


def _block(row: BlockLatency) -> Iterator[Problem]:
    if not IDENTITY.fullmatch(row.block):
        yield Problem("block", "the identity of a block, as core/mlp@1", printable(row.block))


def _names(row: Latency | BlockLatency, texts: Sequence[str]) -> Iterator[Problem]:
    if not is_name(row.device, DEVICE):
        yield Problem("device", "the id of a device: letters, digits, dashes", printable(row.device))
    if row.runtime.dtype not in DTYPES:
        yield Problem("runtime.dtype", f"one of {', '.join(DTYPES)}", printable(row.runtime.dtype))
    if not is_name(row.runtime.engine, DEVICE):
        yield Problem("runtime.engine", "the name of a runtime", printable(row.runtime.engine))
    yield from _texts({name: getattr(row, name) for name in texts})
    yield from _texts({"runtime.torch": row.runtime.torch, "runtime.version": row.runtime.version})


def _texts(values: dict[str, str]) -> Iterator[Problem]:
    for name, text in values.items():
        if not is_text(text, LETTERS):
            yield Problem(name, f"at most {LETTERS} printable letters", printable(text))


def _times(row: Latency | BlockLatency, names: Sequence[str]) -> Iterator[Problem]:
    """0 < min <= p50 <= p90, low <= p50 <= high, none longer than a day."""
    odd = [name for name in names if not 0 < getattr(row, name) <= DAY_MS]
    yield from (Problem(name, "a finite number > 0, at most a day", f"{getattr(row, name)}") for name in odd)
    for less, more in ORDERED:
        if {less, more} <= {*names} - {*odd} and getattr(row, less) > getattr(row, more):
            yield Problem(more, f"at least `{less}`, {getattr(row, less)}", f"{getattr(row, more)}")


def _counts(row: Latency | BlockLatency, names: Sequence[str]) -> Iterator[Problem]:
    counts = {name: getattr(row, name) for name in names}
    counts |= {"runtime.threads": row.runtime.threads, "runtime.batch": row.runtime.batch}
    for name, count in counts.items():
        if not 1 <= count <= 2**31:
            yield Problem(name, "a number >= 1", f"{count}")
    if not 1 <= len(row.input) <= 8 or not all(1 <= size <= 2**31 for size in row.input):
        yield Problem("input", "one to eight sizes >= 1", f"{row.input}"[:80])


def _sizes(row: Latency | BlockLatency, names: Sequence[str]) -> Iterator[Problem]:
    for name in names:
        if not 0 <= getattr(row, name) <= 2**50:
            yield Problem(name, "a number from 0 to 2^50", f"{getattr(row, name)}")


def _row_date(row: Latency | BlockLatency) -> Iterator[Problem]:
    if not is_past(row.date):
        yield Problem("date", "an ISO date that has been, as 2026-01-31T12:00:00+00:00", printable(row.date))
