"""The laws of depth and of growth: `depths` multiplied by one factor, or widths and depths that follow from a line."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from blocks.registry.calls import complete_call
from blocks.registry.schema import INVALID, Issue, complete, fragment, shown
from zoo.errors import Problem
from zoo.specs.limits import MAX_LAYERS, MAX_STAGES
from zoo.specs.tree import Items, Table, origin_of

Law = TypeVar("Law", bound=msgspec.Struct)


class Depth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every depth times `scale`, rounded up; without `ends` those of the first and the last stage stay."""

    scale: Annotated[float, Meta(gt=0, le=1000)]
    ends: bool = True


class Growth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Widths u_j = start + slope * j of the layers j, brought to start * ratio^n, n whole, and to a multiple of `round_to`.

    Layers of one width are a stage. Its width then becomes a multiple of `group_dim`, the nearest, or where `least` is not 0 the
    nearest that is not below `least` times it. Source: arXiv:2003.13678, section 3.3.
    """

    layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
    start: Annotated[float, Meta(gt=0, le=1_000_000)]
    slope: Annotated[float, Meta(ge=0, le=100_000)]
    ratio: Annotated[float, Meta(gt=1, le=1000)]
    round_to: Annotated[int, Meta(ge=1, le=1024)] = 8
    group_dim: Annotated[int, Meta(ge=1, le=100_000)] = 1
    least: Annotated[float, Meta(ge=0, le=1)] = 0.0


DEPTH_SCHEMA = fragment(Depth)
GROWTH_SCHEMA = fragment(Growth)


def law_of(merged: Table, key: str, kind: type[Law], problems: list[Problem]) -> Law | None:
    """The law that `merged` states under `key`; None when there is none, or it is wrong."""
    if key not in merged or merged[key] is INVALID:
        return None
    table, fields = merged[key], kind.__struct_fields__
    needed = [field.name for field in msgspec.structs.fields(kind) if field.required]
    if not isinstance(table, Table) or any(name not in table for name in needed) or any(k not in fields for k in table):
        keys = ", ".join(f"`{name}`" for name in table) if isinstance(table, Table) else ""
        expected = f"a table {{ {', '.join(fields)} }}"
        problems.append(Problem(str(merged.origins[key]), expected, f"the keys {keys}" if keys else shown(table)))
        return None
    issues: list[Issue] = []
    values = complete(table, fragment(kind), (key,), issues, complete_call)
    problems += [Problem(str(origin_of(merged, issue.path)), *issue[1:]) for issue in issues]
    return None if issues or INVALID in values.values() else kind(**values)


def apply_growth(merged: Table, problems: list[Problem]) -> None:
    """States `dims` and `depths` of `merged`, in place, by its law of growth, if it has one."""
    if "growth" not in merged:
        return
    origin = merged.origins["growth"]
    if stated := [key for key in ("dims", "depths") if key in merged]:
        problems.append(
            Problem(str(merged.origins[stated[0]]), "either `growth`, which gives `dims` and `depths`, or both", "both")
        )
    law = law_of(merged, "growth", Growth, problems)
    if law is None:
        return
    stages = grown(law)
    if len(stages) > MAX_STAGES:
        problems.append(Problem(str(origin), f"a growth of at most {MAX_STAGES} stages", f"{len(stages)}"))
        return
    for key, values in zip(("dims", "depths"), zip(*stages, strict=True), strict=True):
        items = Items(origin)
        for value in values:
            items.push(value, origin)
        merged.put(key, items, origin)


def grown(law: Growth) -> list[tuple[int, int]]:
    """(width, depth) of each stage. Halves are rounded to even numbers, as in the authors' code."""
    widths = []
    for j in range(law.layers):
        steps = round(math.log((law.start + law.slope * j) / law.start) / math.log(law.ratio))
        widths.append(round(law.start * law.ratio**steps / law.round_to) * law.round_to)
    return [(_of_whole_groups(width, law), len(list(layers))) for width, layers in groupby(widths)]


def _of_whole_groups(width: int, law: Growth) -> int:
    group = min(law.group_dim, width)
    if not law.least:
        return round(width / group) * group
    near = max(group, int(width + group / 2) // group * group)
    return near if near >= law.least * width else near + group


def deepened(depths: list[int], law: Depth | None) -> list[int]:
    """`depths` by a law of depth, or as they are without one."""
    if law is None:
        return depths
    last = len(depths) - 1
    return [
        depth if i in (0, last) and not law.ends else math.ceil(depth * law.scale) for i, depth in enumerate(depths)
    ]
