"""Stages written out: what stands above them and what each states of its own, as lists of layers."""

from __future__ import annotations

from typing import Any

from blocks.registry.calls import complete_call
from blocks.registry.errors import MOST_PROBLEMS
from blocks.registry.schema import INVALID, Issue, complete
from zoo.errors import Problem, listed, nearest
from zoo.specs.check import WIDTHS_SCHEMA
from zoo.specs.indexed import Where, pick
from zoo.specs.laws import Depth, deepened, law_of
from zoo.specs.limits import MAX_LAYERS, TooLarge
from zoo.specs.tree import Items, Origin, Table, origin_of, position, report

STAGE = ("downsample", "view", "layer", "layers", "post")


def numbers_of_stages(merged: Table, key: str, problems: list[Problem]) -> list[int]:
    """`dims` or `depths`, empty when they are missing or wrong."""
    if key not in merged:
        return []
    issues: list[Issue] = []
    values = complete(merged[key], WIDTHS_SCHEMA, (key,), issues, complete_call)
    problems += [Problem(str(origin_of(merged, issue.path)), *issue[1:]) for issue in issues]
    return [] if issues or values is INVALID or INVALID in values else list(values)


def stage_tables_of(merged: Table, count: int, problems: list[Problem]) -> list[Table]:
    """What `stages.N` states, for each stage; `stages` may be a list or a table with numbers as keys."""
    tables = [Table(merged.origin.below(f"stages.{i}")) for i in range(count)]
    stages = merged.get("stages")
    if stages is None:
        return tables
    if isinstance(stages, Items):
        entries: list[tuple[str, Any, Origin]] = [
            (str(i), stage, origin) for i, (stage, origin) in enumerate(zip(stages, stages.origins, strict=True))
        ]
    elif isinstance(stages, Table):
        entries = [(key, stage, stages.origins[key]) for key, stage in stages.items()]
    else:
        report(problems, merged.origins["stages"], "a table or list of stages", stages)
        return tables
    for key, stage, origin in entries:
        i = position(key, count)
        if len(problems) >= MOST_PROBLEMS:
            break
        if i is None:
            problems.append(Problem(str(origin), f"a stage from 0 to {count - 1}: `dims` has {count}", f"`{key}`"))
        elif not isinstance(stage, Table):
            report(problems, origin, "a table", stage)
        else:
            for step in stage:
                if step not in STAGE and len(problems) < MOST_PROBLEMS:
                    problems.append(
                        Problem(str(stage.origins[step]), f"one of {listed(STAGE)}", f"`{step}`", nearest(step, STAGE))
                    )
            tables[i] = stage
    return tables


def depths_of(merged: Table, stages: list[Table], count: int, problems: list[Problem]) -> list[int | None]:
    """Depth of each stage; None where a list of layers says it."""
    has_list = [_layer_list(merged, stage) is not None for stage in stages]
    if "depths" not in merged:
        if count and not all(has_list):
            problems.append(
                Problem(
                    str(merged.origin.below("depths")),
                    "`depths`, one number of layers for each stage",
                    "nothing",
                    next="or give each stage `layers`",
                )
            )
        return [None if has else 0 for has in has_list]
    depths = deepened(numbers_of_stages(merged, "depths", problems), law_of(merged, "depth", Depth, problems))
    if depths and len(depths) != count and count:
        problems.append(
            Problem(str(merged.origins["depths"]), f"a list of {count}, as `dims` is", f"a list of {len(depths)}")
        )
    if sum(depths) > MAX_LAYERS:
        raise TooLarge(Problem(str(merged.origins["depths"]), f"at most {MAX_LAYERS:,} layers", f"{sum(depths):,}"))
    depths = (depths + [0] * count)[:count]
    return [None if has else depth for has, depth in zip(has_list, depths, strict=True)]


def _layer_list(merged: Table, stage: Table) -> Any:
    return stage["layers"] if "layers" in stage else None if "layer" in stage else merged.get("layers")


def stage_of(
    merged: Table, own: Table, where: Where, depth: int | None, origin: Origin, problems: list[Problem]
) -> Table:
    """One stage of the explicit tree: what it states (`own`), else what stands above all stages."""
    stage = Table(origin)
    for key in ("downsample", "view", "post"):
        first = key == "downsample" and where.stage == 0
        holder = own if key in own else merged if key in merged and not first else None
        if holder is None:
            stage.put(key, "none", Origin("default", ""))
        else:
            stage.put(key, pick(holder[key], where, holder.origins[key], problems), holder.origins[key])
    layers = Items(origin.below("layers"))
    for layer, where_written in _layers(merged, own, where, depth, origin, problems):
        layers.push(layer, where_written)
    stage.put("layers", layers, layers.origin)
    return stage


def _layers(
    merged: Table, own: Table, where: Where, depth: int | None, origin: Origin, problems: list[Problem]
) -> list[tuple[Any, Origin]]:
    if depth is not None:
        holder = own if "layer" in own else merged if "layer" in merged else None
        if holder is None:
            if depth:
                problems.append(Problem(str(origin), "`layer` or `layers`", "nothing", next="every stage has one"))
            return []
        template, written = holder["layer"], holder.origins["layer"]
        layers = [pick(template, where.at(j, depth), written, problems) for j in range(depth)]
        return [_as_branches(layer, written) for layer in layers]
    holder = own if "layers" in own else merged
    rows, at = holder["layers"], holder.origins["layers"]
    rows = pick(rows, where, at, problems) if isinstance(rows, Table) else rows
    if not isinstance(rows, Items):
        report(problems, at, "a list of layers", rows)
        return []
    counts = [_repeat(row, problems) for row, row_at in zip(rows, rows.origins, strict=True)]
    where.room.take_layers(sum(counts), at)  # before any is built
    templates = [
        (row, row_at) for row, row_at, count in zip(rows, rows.origins, counts, strict=True) for _ in range(count)
    ]
    out = []
    for j, (row, row_at) in enumerate(templates):
        layer = pick(row, where.at(j, len(templates)), row_at, problems)
        if isinstance(layer, Table) and "repeat" in layer:
            del layer["repeat"], layer.origins["repeat"]
        out.append(_as_branches(layer, row_at))
    return out


def _repeat(row: Any, problems: list[Problem]) -> int:
    if not isinstance(row, Table) or "repeat" not in row:
        return 1
    count = row["repeat"]
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_LAYERS:
        report(problems, row.origins["repeat"], f"int from 1 to {MAX_LAYERS:,}", count)
        return 1
    return count


def _as_branches(layer: Any, origin: Origin) -> tuple[Items, Origin]:
    """A layer is always a list of branches."""
    if isinstance(layer, Items):
        return layer, layer.origin
    branches = Items(origin)
    branches.push(layer, layer.origin if isinstance(layer, Table) else origin)
    return branches, origin
