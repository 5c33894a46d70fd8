"""Indexed values, `per_stage`, `cycle`, `runs` and `grow`: the one of a list, or the number, that holds for a stage and a layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from blocks.registry.schema import INVALID
from zoo.errors import Problem, listed
from zoo.specs.limits import Room
from zoo.specs.patch import INDEXED
from zoo.specs.scalars import is_count
from zoo.specs.tree import Items, Origin, Table, report

GROWTH = ("from", "by", "times")
MOST_GROWN = 2**20


class Where:
    """The stage, and within it the layer, that an indexed value is resolved for."""

    def __init__(self, room: Room, stage: int, depths: Sequence[int | None], layer: int | None = None, depth: int = 0):
        self.room, self.stage, self.depths, self.layer, self.depth = room, stage, depths, layer, depth

    @property
    def stage_count(self) -> int:
        return len(self.depths)

    def at(self, layer: int, depth: int) -> Where:
        """A layer of the same stage, which has `depth` of them."""
        return Where(self.room, self.stage, self.depths, layer, depth)

    def number(self) -> tuple[int, int] | None:
        """Which layer of the net this is, counted from 1, and how many there are; None where stages list their layers."""
        before, depths = self.depths[: self.stage], [depth for depth in self.depths if depth is not None]
        if self.layer is None or len(depths) < len(self.depths):
            return None
        return sum(depth or 0 for depth in before) + self.layer + 1, sum(depths)


def pick(value: Any, where: Where | None, origin: Origin, problems: list[Problem]) -> Any:
    """A copy of `value` with its indexed values resolved for `where` (None: stem or head, where there is no index). Raises TooLarge."""
    if where is not None:
        where.room.take_value(origin)
    if isinstance(value, Table):
        if set(INDEXED) & set(value):
            return _pick_indexed(value, where, origin, problems)
        table = Table(value.origin)
        for key, item in value.items():
            table.put(key, pick(item, where, value.origins[key], problems), _place_of(item, value.origins[key]))
        return table
    if isinstance(value, Items):
        items = Items(value.origin)
        for item, step in zip(value, value.origins, strict=True):
            items.push(pick(item, where, step, problems), _place_of(item, step))
        return items
    return value


def _place_of(value: Any, origin: Origin) -> Origin:
    """Tables and lists remember where they were written; scalars are where they stand."""
    return (
        value.origin
        if isinstance(value, (Table, Items)) and not (isinstance(value, Table) and set(INDEXED) & set(value))
        else origin
    )


def _pick_indexed(table: Table, where: Where | None, origin: Origin, problems: list[Problem]) -> Any:
    keys = [key for key in table if key in INDEXED]
    if len(table) != 1:
        problems.append(
            Problem(
                str(origin),
                f"an indexed value with one key of {listed(INDEXED)}",
                "the keys " + ", ".join(f"`{key}`" for key in table),
            )
        )
        return INVALID
    options, at = table[keys[0]], table.origins[keys[0]]
    if where is None:
        problems.append(Problem(str(origin), "one value: stem and head belong to no stage", f"`{keys[0]}`"))
        return INVALID
    if keys[0] != "grow" and (not isinstance(options, Items) or not options):
        report(problems, at, "a list with at least one value", options)
        return INVALID
    if keys[0] == "per_stage":
        if len(options) != where.stage_count:
            problems.append(
                Problem(
                    str(at), f"a list of {where.stage_count}, one value for each stage", f"a list of {len(options)}"
                )
            )
            return INVALID
        return pick(options[where.stage], where, options.origins[where.stage], problems)
    if where.layer is None:
        problems.append(
            Problem(str(origin), "`per_stage`: downsample, view and post belong to no layer", f"`{keys[0]}`")
        )
        return INVALID
    if keys[0] == "grow":
        return _grown(options, at, where, problems)
    if keys[0] == "cycle":
        position = where.layer % len(options)
        return pick(options[position], where, options.origins[position], problems)
    return _pick_run(options, at, where, problems)


def _pick_run(runs: Items, at: Origin, where: Where, problems: list[Problem]) -> Any:
    counts = _counts(runs, where, problems)
    if counts is None:
        return INVALID
    start, match = 0, None
    for run, count in zip(runs, counts, strict=True):
        if where.layer is not None and start <= where.layer < start + count:
            match = run
        start += count
    if start != where.depth or match is None:
        problems.append(
            Problem(
                str(at),
                f"runs that cover the {where.depth} layers of stage {where.stage}",
                " + ".join(map(str, counts)) + (f" = {start}" if len(counts) > 1 else ""),
            )
        )
        return INVALID
    return pick(match[0], where, match.origins[0], problems)


def _grown(law: Any, at: Origin, where: Where, problems: list[Problem]) -> Any:
    """`from`, and `by` more in the last layer of the net, in equal steps; rounded, then `times` as much (arXiv:1610.02915, eq. 2)."""
    numbers = {key: law[key] for key in GROWTH if key in law} if isinstance(law, Table) else {}
    right = (
        isinstance(law, Table)
        and set(law) <= set(GROWTH)
        and {"from", "by"} <= set(law)
        and is_count(law.get("times", 1), least=1)
    )
    if not right or not all(_is_positive(value) and value <= MOST_GROWN for value in numbers.values()):
        expected = f"numbers {{ from, by, times }} above 0 and up to {MOST_GROWN:,}, of which `times`, a whole one, may be left out"
        report(problems, at, expected, law)
        return INVALID
    place = where.number()
    if place is None:
        problems.append(Problem(str(at), "`depths`, which say what number a layer has", "stages that list `layers`"))
        return INVALID
    number, total = place
    return _widths(numbers["from"], numbers["by"], total)[number] * numbers.get("times", 1)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


@functools.lru_cache(64)
def _widths(start: float, by: float, layers: int) -> tuple[int, ...]:
    """Added up as upstream does: what the sum has lost decides how a half is rounded."""
    return tuple(map(round, accumulate([by / layers] * layers, initial=float(start))))


def _counts(runs: Items, where: Where, problems: list[Problem]) -> list[int] | None:
    """How many layers each run has, None when one is wrong; "rest", which may stand once, is what the others leave."""
    counts: list[Any] = []
    for run, origin in zip(runs, runs.origins, strict=True):
        if not isinstance(run, Items) or len(run) != 2:
            report(problems, origin, "a pair [value, count]", run)
            return None
        count = pick(run[1], where, run.origins[1], problems)
        is_rest = count == "rest" and "rest" not in counts
        if not is_rest and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            report(problems, run.origins[1], 'int >= 0, or "rest" in one run', count)
            return None
        counts.append(count)
    rest = max(0, where.depth - sum(count for count in counts if count != "rest"))
    return [rest if count == "rest" else count for count in counts]
