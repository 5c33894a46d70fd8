"""Which runtimes and precisions a wish leaves to be tried, and why the others are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zoo.catalog.runtimes import AUTO, PRECISIONS, check_words
from zoo.errors import InputError, Problem
from zoo.runtimes import quantising
from zoo.runtimes.narrowed import FORMS
from zoo.runtimes.registered import Row as Known
from zoo.runtimes.registered import rows, runtime
from zoo.runtimes.report import Tried

SLOW_TO_MAKE = ("compile", "aot")
"""They call a C++ compiler for minutes, and so come last."""


class Candidate(NamedTuple):
    """One runtime in one precision."""

    runtime: str
    precision: str


PLAIN = Candidate("torch", "float32")
"""The deploy form as `zoo.deploy(model)` returns it: what others are compared with."""


class Plan(NamedTuple):
    """What is made, checked and timed, in this order, and rows for what cannot be. The first candidate is what others are compared with;
    it may be none that can be chosen (`eligible`)."""

    candidates: list[Candidate]
    eligible: list[Candidate]
    left_out: list[Tried]


def plan_for(runtimes: Sequence[str], precision: str, has_pictures: bool = False, reads_tokens: bool = False) -> Plan:
    """The candidates of a wish: `auto` for all runtimes and precisions, one name, or several among which to choose.

    int8 is tried where it is asked for, and by `auto` where the model `has_pictures` of its own kind: on drawn ones it is calibrated for others.
    A model that `reads_tokens` is tried in torch with its weights in each lower precision.
    Torch in float32, the deploy form, is among them with `auto`, and where a lower precision is to be compared with something. Raises
    InputError for a runtime that is named and not installed, and where none computes in the precision."""
    check_words(runtimes, precision)
    is_open = AUTO in runtimes
    for name in runtimes:
        if name != AUTO:
            runtime(name)  # raises where it cannot be used
    known = [row for row in rows() if is_open or row.name in runtimes]
    left_out = [_missing(row) for row in known if row.missing]
    usable = [row for row in known if not row.missing]
    eligible = [Candidate(row.name, word) for row in usable for word in row.precisions if precision in (AUTO, word)]
    if reads_tokens and any(row.name == PLAIN.runtime for row in usable):
        made = [Candidate(PLAIN.runtime, word) for word in FORMS if precision in (AUTO, word)]
        reason = narrowing_missing() if made else ""
        eligible = [one for one in eligible if one not in made] + ([] if reason else made)
        left_out += [Tried(**one._asdict(), outcome="missing", reason=reason) for one in made if reason]
    if precision == "int8" or (precision == AUTO and has_pictures):
        reasons = {row.name: quantising.missing(row.name) for row in usable if row.name in quantising.LIBRARIES}
        eligible += [Candidate(name, "int8") for name, reason in reasons.items() if not reason]
        left_out += [
            Tried(runtime=name, precision="int8", outcome="missing", reason=reason)
            for name, reason in reasons.items()
            if reason
        ]
    if not eligible:
        offered = ", ".join(word for word in PRECISIONS if any(word in row.precisions for row in usable))
        where = "precision" if is_open else f"precision of {', '.join(runtimes)}"
        because = "".join(f": {row.reason}" for row in left_out if row.precision == precision)
        raise InputError(
            "deploy", Problem(where, f"one in which it computes on this machine: {offered}", f"`{precision}`{because}")
        )
    able = {one.runtime for one in eligible}
    told = {row.runtime for row in left_out}
    left_out += [_without(row, precision) for row in usable if row.name not in able | told]
    eligible.sort(key=lambda one: (one.runtime in SLOW_TO_MAKE, PRECISIONS.index(one.precision)))  # type: ignore[arg-type]
    is_compared = is_open or any(one.precision != "float32" for one in eligible)
    first = PLAIN if is_compared else eligible[0]
    return Plan([first, *(one for one in eligible if one != first)], eligible, left_out)


def narrowing_missing() -> str:
    """Why narrowed weights would be read slower than float32 here; "" where their kernel runs."""
    from blocks.narrowing import missing

    reason = missing()
    return f"without their kernel narrow weights are slower than float32 ({reason})" if reason else ""


def _missing(row: Known) -> Tried:
    return Tried(runtime=row.name, precision="", outcome="missing", reason=row.missing)


def _without(row: Known, precision: str) -> Tried:
    reason = f"it does not compute in {precision} on this machine"
    return Tried(runtime=row.name, precision=precision, outcome="missing", reason=reason)
