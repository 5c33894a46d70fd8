"""The study itself: contestants in hosts at one budget, tuned alike, run with the same seeds, told apart or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from blocks import registry
from zoo.catalog.local_files import block_of
from zoo.catalog.sources import spec as find_spec
from zoo.errors import InputError, Problem, ProblemsError
from zoo.specs.inputs import TokenInput
from zoo.training.ablation.lengths import Growth, growth
from zoo.training.ablation.matching import Budget, Fitted, call_for, cost_of, fitted, placed
from zoo.training.ablation.running import RATES, TUNING, Setting, measure_of, score, seconds_of, usual_length
from zoo.training.ablation.significance import difference, student

KINDS = ("token_mixer", "channel_mixer", "norm", "act")
HOSTS = ("convformer_nano", "vim_nano", "gla_nano")
RIVALS = ("attention", "mamba2", "identity")

GROWTH = 0.1
"""Share of the time that is kept for measuring how blocks grow with length."""

Told = Callable[[str, float], None]
"""Hears what is being done, and the share of the minutes that is behind it."""


class Run(msgspec.Struct, frozen=True):
    """One contestant in one host: its net, how it was tuned, and its score for each seed."""

    host: str
    block: str
    macs: float
    params: int
    scale: float
    rate: float
    scores: list[float]
    seconds: float


class Comparison(msgspec.Struct, frozen=True):
    """The block under study less another, in one host."""

    host: str
    other: str
    measure: str
    mean: float
    low: float
    high: float
    verdict: Literal["better", "worse", "not distinguishable"]


class Refused(msgspec.Struct, frozen=True):
    """A contestant that could not be compared in a host, and why."""

    host: str
    block: str
    why: str


class Study(msgspec.Struct, frozen=True):
    """All that was found. `length` is epochs of scans or steps of text by host, the same for all contestants in it."""

    schema: Literal["zoo.study/1"]
    block: str
    match: Budget
    seeds: int
    length: dict[str, int]
    runs: list[Run]
    comparisons: list[Comparison]
    refused: list[Refused]
    growth: list[dict[str, Any]]
    seconds: float


def study(
    block: str,
    hosts: Sequence[str] = HOSTS,
    against: Sequence[str] = RIVALS,
    *,
    match: Budget = "macs",
    seeds: int = 5,
    minutes: float = 60.0,
    told: Told = lambda what, share: None,
) -> Study:
    """Trains `block` and its rivals in each host, with the same recipe, budget, tuning and seeds, and compares them in pairs.

    block: a registered name, or a Python file whose first block of kind token_mixer, channel_mixer, norm or act is studied.
    match: rivals' nets get channel mixers as wide as it takes to cost as much, within 2 %, or are refused. minutes: what the whole study
    may take by the clock; runs get shorter for it, all of a host alike, down to one epoch or step, and never longer than their recipe,
    and hosts behind the first for which no time is left are refused. Raises InputError.
    """
    schedule = Schedule(minutes, told)
    student()  # what is missing is said now, not behind an hour of runs
    name = block_of(block, KINDS)
    kind = registry.describe(name).kind
    if kind not in KINDS:
        raise InputError("study", Problem(name, f"a block of kind {', '.join(KINDS)}", kind))
    if seeds < 2:
        raise InputError("study", Problem("seeds", "at least 2: one run says nothing of the next", str(seeds)))
    refused: list[Refused] = []
    fields = {host: _field(host, [name, *against], kind, match, refused) for host in hosts}
    fields = {host: field for host, field in fields.items() if name in field and len(field) > 1}
    if not fields:
        problems = [Problem(f"{refusal.host}: {refusal.block}", "", refusal.why) for refusal in refused]
        raise InputError("study", problems or Problem("hosts", "one at least", "none"))
    lengths: dict[str, int] = {}
    runs: list[Run] = []
    for place, (host, field) in enumerate(fields.items()):
        if place and schedule.left() <= 0:
            refused += [Refused(host, rival, f"the {minutes:g} minutes were over") for rival in field]
            continue
        lengths[host] = _length(host, field, seeds, schedule, len(fields) - place)
        runs += [_run(host, rival, net, lengths[host], seeds, schedule) for rival, net in field.items()]
    comparisons = _compared(name, runs)
    schedule.tell("growth with length")
    grown = _grown(name, against, hosts[0])
    told("done", 1.0)
    return Study(
        "zoo.study/1", name, match, seeds, lengths, runs, comparisons, refused,
        [row._asdict() for row in grown], round(time.monotonic() - schedule.start, 1),
    )  # fmt: skip


def _field(
    host: str, contestants: Sequence[str], kind: str, match: Budget, refused: list[Refused]
) -> dict[str, Fitted]:
    """The nets of one host, by block; what cannot stand or be matched is told in `refused`."""
    measure_of(find_spec(host))
    fitted_by_block: dict[str, Fitted] = {}
    target = 0.0
    for block in dict.fromkeys(contestants):
        try:
            spec = placed(host, block, kind)
            target = target or cost_of(spec, match)
            fitted_by_block[block] = fitted(spec, target, match)
        except ProblemsError as error:
            refused.append(Refused(host, block, " ".join(str(error).split())))
            if not fitted_by_block:  # without the block under study there is nothing to compare
                return {}
    return fitted_by_block


class Schedule:
    """The time of a study by the clock, and what is told of it."""

    def __init__(self, minutes: float, told: Told):
        self.told, self.start, self.seconds = told, time.monotonic(), 60 * minutes

    def left(self) -> float:
        """Seconds for runs; some are kept for the growth with length."""
        return self.start + (1 - GROWTH) * self.seconds - time.monotonic()

    def tell(self, what: str) -> None:
        self.told(what, min(0.99, (time.monotonic() - self.start) / self.seconds))


def _length(host: str, field: dict[str, Fitted], seeds: int, schedule: Schedule, hosts: int) -> int:
    """Epochs or steps, so that tuning and all runs of a host take its share of the time that is left to so many hosts."""
    each = []
    for block, net in field.items():
        schedule.tell(f"how long {block} in {host} takes")
        each.append(seconds_of(net.spec))
    runs = seeds + TUNING * len(RATES)
    affordable = schedule.left() / hosts / (sum(each) * runs)
    return max(1, min(usual_length(next(iter(field.values())).spec), int(affordable)))


def _run(host: str, block: str, net: Fitted, length: int, seeds: int, schedule: Schedule) -> Run:
    """Tuned on data set aside from training, then run with each seed."""
    start = time.monotonic()
    short = max(1, round(TUNING * length))
    schedule.tell(f"{block} in {host}: learning rate")
    tuned = {rate: score(net.spec, Setting(short, rate), tuning=True) for rate in RATES}
    rate = max(tuned, key=lambda one: tuned[one])
    scores = []
    for seed in range(seeds):
        schedule.tell(f"{block} in {host}: run {seed + 1} of {seeds}")
        scores.append(score(net.spec, Setting(length, rate, seed)))
    params = int(cost_of(net.spec, "params"))
    return Run(
        host,
        block,
        cost_of(net.spec, "macs"),
        params,
        round(net.scale, 3),
        rate,
        scores,
        round(time.monotonic() - start, 1),
    )


def _compared(block: str, runs: Sequence[Run]) -> list[Comparison]:
    pairs = [
        (own, other)
        for own in runs
        if own.block == block
        for other in runs
        if other.host == own.host and other is not own
    ]
    comparisons = []
    for own, other in pairs:
        verdict = difference(own.scores, other.scores, len(pairs))
        measure = measure_of(find_spec(own.host))
        comparisons.append(
            Comparison(own.host, other.block, measure, verdict.mean, verdict.low, verdict.high, verdict.verdict)
        )
    return comparisons


def _grown(block: str, against: Sequence[str], host: str) -> list[Growth]:
    """Time and memory of the blocks alone, at the width of a host."""
    spec = find_spec(host)
    tokens = isinstance(spec.input, TokenInput)
    calls = {name: call_for(name, tokens) for name in dict.fromkeys([block, *against])}
    return growth(calls, spec.dims[0], tokens)
