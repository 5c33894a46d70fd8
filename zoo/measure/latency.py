"""What is known of a model's speed on one device: the record, its statistics, and the verdict on its quality.

Times are milliseconds of wall clock for one forward pass of a batch. This file imports no torch and reads no clock.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from zoo.display.rows import Row

Verdict = Literal["clean", "contended", "unstable"]

MIN_PROCESSES = 5
MAX_WALL_CPU = 1.05
"""Above it the thread waited while others ran: its own CPU time is that much less than the wall clock's."""
MAX_SPREAD = 0.15
"""Largest distance of two processes' medians, as a share of the median, that is still one figure."""
MAX_SLOWER = 1.15
"""Time of the anchor as a share of its usual one. Above it something slowed the machine that CPU time does not show: a neighbour
on the same core, a hot chip, a lower clock."""

DTYPES = ("float32", "bfloat16", "float16")
TORCH = {"torch": "eager", "compile": "compile"}
"""The engines of torch itself, which run any form on any device, by the names that people ask for; others go by their own names."""


class Runtime(Row, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the model was run. Figures of different runtimes are never compared unawares."""

    threads: int = 1
    dtype: str = "float32"
    batch: int = 1
    engine: str = "eager"
    torch: str = ""
    version: str = ""
    """Of an engine that is not torch's own."""

    @property
    def key(self) -> str:
        """The runtime without torch's version, as tables name it."""
        return f"{self.engine} {self.dtype} b{self.batch} t{self.threads}"

    @property
    def is_torch(self) -> bool:
        """Whether torch itself runs it, as a module."""
        return self.engine in TORCH.values()

    @property
    def name(self) -> str:
        """The engine as people ask for it."""
        return next((name for name, engine in TORCH.items() if engine == self.engine), self.engine)


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one process measured: wall time per forward pass, in ms, and the CPU time of the thread that ran it."""

    ms: list[float]
    cpu_ms: list[float]
    anchor_ms: list[float]
    loops: int
    warm_up: int
    peak_bytes: int
    torch: str = ""
    clocks: str = ""
    version: str = ""


class Latency(Row, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One row. `p50_ms` is the median of the processes' medians, `low_ms` to `high_ms` its interval by order statistics."""

    schema: Literal["zoo.latency/1"] = "zoo.latency/1"
    model: str
    digest: str
    form: Literal["train", "deploy"]
    device: str
    runtime: Runtime
    input: list[int]
    p50_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    cpu_ms: float
    wall_cpu: float
    anchor: str
    ratio: float
    peak_bytes: int
    processes: int
    samples: int
    loops: int
    verdict: Verdict
    reason: str = ""
    source: str = ""
    version: str = ""
    date: str = ""
    clocks: str = ""
    origin: str = ""

    @property
    def id(self) -> str:
        """Hash of the content, wherever the row came from: merging twice is merging once."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, origin=""))).hexdigest()[:32]

    @property
    def measures(self) -> str:
        """What the row is of: the digest of a model, whatever it is called."""
        return self.digest

    @property
    def ms(self) -> float:
        """The median, as predictions and candidates call it."""
        return self.p50_ms

    def __repr__(self) -> str:
        figures = f"{self.p50_ms:g} ms ({self.low_ms:g} to {self.high_ms:g}), {self.verdict}"
        return f"<{self.model}, {self.form}, {self.runtime.key}, {self.device}: {figures}>"

    @property
    def anchor_ms(self) -> float:
        """What the anchor took beside the model."""
        return self.p50_ms / self.ratio

    @property
    def throughput(self) -> float:
        """Inputs per second."""
        return 1e3 * self.runtime.batch / self.p50_ms


class Summary(NamedTuple):
    """The figures of a row, from the samples of all processes."""

    figures: dict[str, Any]
    verdict: Verdict
    reason: str


def summarise(samples: Sequence[Sample], gpu: bool = False, usual_anchor_ms: float | None = None) -> Summary:
    """Medians of processes, their interval, and whether they can be trusted."""
    medians = sorted(statistics.median(sample.ms) for sample in samples)
    everything = sorted(ms for sample in samples for ms in sample.ms)
    cpu = statistics.median(statistics.median(sample.cpu_ms) for sample in samples)
    p50 = statistics.median(medians)
    low, high = median_interval(medians)
    ratios = [statistics.median(sample.ms) / statistics.median(sample.anchor_ms) for sample in samples]
    wall_cpu = statistics.median(sum(sample.ms) / max(sum(sample.cpu_ms), 1e-9) for sample in samples)
    figures = {
        "p50_ms": p50, "low_ms": low, "high_ms": high, "p90_ms": quantile(everything, 0.9), "min_ms": everything[0],
        "mean_ms": statistics.fmean(everything), "cpu_ms": cpu, "wall_cpu": wall_cpu, "ratio": statistics.median(ratios),
    }  # fmt: skip
    slower = p50 / figures["ratio"] / usual_anchor_ms if usual_anchor_ms else 1.0
    verdict, reason = judge(medians, wall_cpu, gpu, slower)
    return Summary(
        {name: rounded(value, p50 and (high - low) / p50) for name, value in figures.items()}, verdict, reason
    )


def judge(medians: Sequence[float], wall_cpu: float, gpu: bool = False, slower: float = 1.0) -> tuple[Verdict, str]:
    """`contended` when other work took the processor away or slowed it, `unstable` when processes disagree, `clean` otherwise."""
    if len(medians) < MIN_PROCESSES:
        return "unstable", f"{len(medians)} processes, where {MIN_PROCESSES} are the least"
    if wall_cpu > MAX_WALL_CPU and not gpu:
        return (
            "contended",
            f"wall time is {wall_cpu:.2f} of CPU time, and {MAX_WALL_CPU} the limit: close other programs",
        )
    if slower > MAX_SLOWER:
        return (
            "contended",
            f"the anchor took {slower:.2f} of its usual time, and {MAX_SLOWER} is the limit: this machine was slower than it usually is",
        )
    spread = (max(medians) - min(medians)) / statistics.median(medians)
    if spread > MAX_SPREAD:
        return "unstable", f"processes differ by {spread:.0%}, and {MAX_SPREAD:.0%} is the limit"
    return "clean", ""


def median_interval(ordered: Sequence[float], level: float = 0.9) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the true median with probability `level`, or the widest there is.

    P(the k-th smallest < median < the k-th largest) = 1 - 2 sum_{i<k} C(n, i) / 2^n.
    """
    n = len(ordered)
    for k in range(n // 2, 0, -1):
        if 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n >= level:
            return ordered[k - 1], ordered[n - k]
    return ordered[0], ordered[-1]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def rounded(value: float, relative_width: float) -> float:
    """No more digits than the interval carries: three where it is a percent wide or less than ten, at least two."""
    if value == 0 or not math.isfinite(value):
        return value
    digits = max(2, min(4, 1 - math.floor(math.log10(max(relative_width, 1e-4)))))
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def compose(
    facts: dict[str, Any], samples: Sequence[Sample], gpu: bool = False, usual_anchor_ms: float | None = None
) -> Latency:
    """The row of a model from the samples of its processes. `facts` are the fields that say what was run, and where."""
    figures, verdict, reason = summarise(samples, gpu, usual_anchor_ms)
    return Latency(
        **facts, **figures, verdict=verdict, reason=reason, processes=len(samples),
        samples=sum(len(sample.ms) for sample in samples), loops=max(sample.loops for sample in samples),
        peak_bytes=int(statistics.median(sample.peak_bytes for sample in samples)), clocks=samples[-1].clocks,
    )  # fmt: skip
