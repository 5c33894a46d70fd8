"""From a family's merged source to one explicit tree: parts inlined, indexed values resolved where they are used, stages written out.

The expanded tree has `stages`, a list, each with `downsample`, `view`, `layers` (every layer a list of branches) and `post`.
"""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

from blocks.registry.calls import fill_call
from blocks.registry.errors import MOST_PROBLEMS
from blocks.registry.schema import TOLD, Issue, Told, fill, shown
from zoo.errors import Problem, listed, nearest
from zoo.specs.check import WIDTHS_SCHEMA
from zoo.specs.patch import INDEXED, merged, replaces
from zoo.specs.tree import Items, Origin, Table, origin_of, position

TOP = ("input", "num_classes", "stem", "dims", "depths", "width", "downsample", "view", "layer", "layers", "post", "head",
       "define", "stages", "init", "drop_rate", "drop_path_rate")  # fmt: skip
STAGE = ("downsample", "view", "layer", "layers", "post")
MAX_STAGES = 64
MAX_LAYERS = 4_096
MAX_VALUES = 400_000
MAX_WRITTEN = 20_000
"""Values of all layers together, written out. The largest model of the catalogue has 1,279; each may become a block of a dozen."""


class Inliner:
    """Replaces `"@name"` and `{ use = "@name", … }` by the parts they name, counting what it makes and what was used."""

    def __init__(self, define: Any, problems: list[Problem]):
        self.define = define if isinstance(define, Table) else Table(Origin("", ""))
        self.problems = problems
        self.used: set[str] = set()
        self.made = 0

    def inline(self, value: Any, origin: Origin, stack: tuple[str, ...] = ()) -> Any:
        self.made += 1
        if self.made > MAX_VALUES:
            raise TooLarge(Problem(str(origin), f"parts that expand to at most {MAX_VALUES:,} values", "more"))
        if len(self.problems) >= MOST_PROBLEMS:
            return TOLD
        if isinstance(value, str) and value.startswith("@"):
            return self._part(value, origin, stack)
        if isinstance(value, Table) and "use" in value:
            return self._use(value, origin, stack)
        if isinstance(value, Table):
            table = Table(value.origin)
            for key, item in value.items():
                table.put(key, self.inline(item, value.origins[key], stack), value.origins[key])
            return table
        if isinstance(value, Items):
            items = Items(value.origin)
            for item, where in zip(value, value.origins, strict=True):
                items.push(self.inline(item, where, stack), where)
            return items
        return value

    def _part(self, reference: str, origin: Origin, stack: tuple[str, ...]) -> Any:
        name = reference[1:]
        if name in stack:
            self.problems.append(
                Problem(
                    str(origin),
                    "parts that do not contain themselves",
                    "a circular `@`: " + " -> ".join(f"@{step}" for step in (*stack, name)),
                )
            )
            return TOLD
        if name not in self.define:
            found = f"`{reference}`"
            self.problems.append(
                Problem(
                    str(origin),
                    "a part named in [spec.define]",
                    found,
                    nearest(name, self.define) and "@" + nearest(name, self.define),
                )
            )
            return TOLD
        self.used.add(name)
        return self.inline(copy.deepcopy(self.define[name]), self.define.origins[name], (*stack, name))

    def _use(self, table: Table, origin: Origin, stack: tuple[str, ...]) -> Any:
        reference = table["use"]
        if not (isinstance(reference, str) and reference.startswith("@")):
            self.problems.append(Problem(str(table.origins["use"]), 'a part, as in use = "@name"', shown(reference)))
            return TOLD
        part = self._part(reference, table.origins["use"], stack)
        indexed = isinstance(part, Table) and bool(set(INDEXED) & set(part))
        if len(table) > 1 and (indexed or not isinstance(part, (str, Table))):
            expected = f"a part that is one block, to be used with changes: `{reference}`"
            self.problems.append(Problem(str(origin), expected, "an indexed value" if indexed else shown(part)))
            return TOLD
        changes = Table(origin)
        for key, item in table.items():
            if key != "use":
                changes.put(key, self.inline(item, table.origins[key], stack), table.origins[key])
        return _changed(part, changes, origin) if changes else part

    def unused(self) -> list[Problem]:
        return [
            Problem(
                str(self.define.origins[name]),
                f"every part of [spec.define] in use: `@{name}`",
                "no use of it",
                next="use it or remove it",
            )
            for name in islice((name for name in self.define if name not in self.used), MOST_PROBLEMS)
        ]


class TooLarge(Exception):
    """A spec that expands beyond all bounds; carries its problem."""

    def __init__(self, problem: Problem):
        super().__init__(problem.sentence())
        self.problem = problem


def _changed(part: Any, changes: Table, origin: Origin) -> Any:
    """A part with changes: each key replaces or merges by the common rule."""
    if isinstance(part, str):
        base = Table(origin)
        base.put("block", part, origin)
        part = base
    for key, item in changes.items():
        part.put(
            key,
            merged(part.get(key), item, changes.origins[key]),
            changes.origins[key] if replaces(item) else part.origins.get(key, changes.origins[key]),
        )
    return part


class Room:
    """How many values, and how many layers in lists, the stages may still be written out to."""

    def __init__(self) -> None:
        self.values, self.layers = MAX_WRITTEN, MAX_LAYERS

    def take_value(self, origin: Origin) -> None:
        self.values -= 1
        if self.values < 0:
            raise TooLarge(Problem(str(origin), f"layers that hold at most {MAX_WRITTEN:,} values", "more"))

    def take_layers(self, count: int, origin: Origin) -> None:
        self.layers -= count
        if self.layers < 0:
            raise TooLarge(Problem(str(origin), f"at most {MAX_LAYERS:,} layers", f"{MAX_LAYERS - self.layers:,}"))


class Where:
    """The stage, and within it the layer, that an indexed value is resolved for."""

    def __init__(self, room: Room, stage: int, stage_count: int, layer: int | None = None, depth: int = 0):
        self.room, self.stage, self.stage_count, self.layer, self.depth = room, stage, stage_count, layer, depth

    def at(self, layer: int, depth: int) -> Where:
        """A layer of the same stage, which has `depth` of them."""
        return Where(self.room, self.stage, self.stage_count, layer, depth)


def pick(value: Any, where: Where | None, origin: Origin, problems: list[Problem]) -> Any:
    """A copy of `value` with its indexed values resolved for `where` (None: stem or head, where there is no index). Raises TooLarge."""
    if where is not None:
        where.room.take_value(origin)
    if isinstance(value, Table):
        if set(INDEXED) & set(value):
            return _pick_indexed(value, where, origin, problems)
        table = Table(value.origin)
        for key, item in value.items():
            table.put(key, pick(item, where, value.origins[key], problems), _moved(item, value.origins[key]))
        return table
    if isinstance(value, Items):
        items = Items(value.origin)
        for item, step in zip(value, value.origins, strict=True):
            items.push(pick(item, where, step, problems), _moved(item, step))
        return items
    return value


def _moved(value: Any, origin: Origin) -> Origin:
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
        return TOLD
    options, at = table[keys[0]], table.origins[keys[0]]
    if where is None:
        problems.append(Problem(str(origin), "one value: stem and head belong to no stage", f"`{keys[0]}`"))
        return TOLD
    if isinstance(options, Told):
        return TOLD
    if not isinstance(options, Items) or not options:
        problems.append(
            Problem(
                str(at),
                "a list with at least one value",
                shown(options),
            )
        )
        return TOLD
    if keys[0] == "per_stage":
        if len(options) != where.stage_count:
            problems.append(
                Problem(
                    str(at), f"a list of {where.stage_count}, one value for each stage", f"a list of {len(options)}"
                )
            )
            return TOLD
        return pick(options[where.stage], where, options.origins[where.stage], problems)
    if where.layer is None:
        problems.append(
            Problem(str(origin), "`per_stage`: downsample, view and post belong to no layer", f"`{keys[0]}`")
        )
        return TOLD
    if keys[0] == "cycle":
        position = where.layer % len(options)
        return pick(options[position], where, options.origins[position], problems)
    return _pick_run(options, at, where, problems)


def _pick_run(runs: Items, at: Origin, where: Where, problems: list[Problem]) -> Any:
    start, chosen, counts = 0, None, []
    for i, (run, origin) in enumerate(zip(runs, runs.origins, strict=True)):
        if isinstance(run, Told):
            return TOLD
        if not isinstance(run, Items) or len(run) != 2:
            problems.append(Problem(str(origin), "a pair [value, count]", shown(run)))
            return TOLD
        count = pick(run[1], where, run.origins[1], problems)
        if isinstance(count, Told):
            return TOLD
        if count == "rest" and i == len(runs) - 1:
            count = max(0, where.depth - start)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            problems.append(Problem(str(run.origins[1]), 'int >= 0, or "rest" in the last run', shown(count)))
            return TOLD
        if where.layer is not None and start <= where.layer < start + count:
            chosen = run
        start += count
        counts.append(count)
    if start != where.depth or chosen is None:
        problems.append(
            Problem(
                str(at),
                f"runs that cover the {where.depth} layers of stage {where.stage}",
                " + ".join(map(str, counts)) + (f" = {start}" if len(counts) > 1 else ""),
            )
        )
        return TOLD
    return pick(chosen[0], where, chosen.origins[0], problems)


def expand(spec: Table, problems: list[Problem]) -> Table:
    """The explicit tree of a merged source spec. What is wrong goes to `problems`; raises TooLarge for a bomb."""
    _top_keys(spec, problems)
    inliner = Inliner(spec.get("define"), problems)
    if "define" in spec and not isinstance(spec["define"], Table):
        problems.append(Problem(str(spec.origins["define"]), "a table of named parts", shown(spec["define"])))
    source = Table(spec.origin)
    for key, value in spec.items():
        if key != "define":
            source.put(key, inliner.inline(value, spec.origins[key]), spec.origins[key])
    problems += inliner.unused()
    dims = _widths(source, "dims", problems)
    # without dims the layers are still checked, as if there were as many stages as depths
    count = len(dims) or (len(source["depths"]) if isinstance(source.get("depths"), Items) else 1)
    stage_tables = _stage_tables(source, count, problems)
    depths = _depths(source, stage_tables, count, problems)
    tree = Table(spec.origin)
    for key in ("input", "num_classes", "dims", "init", "drop_rate", "drop_path_rate"):
        if key in source:
            tree.put(key, source[key], source.origins[key])
    for key in ("stem", "head"):
        if key in source:
            tree.put(key, pick(source[key], None, source.origins[key], problems), source.origins[key])
    stages, room = Items(spec.origin.below("stages")), Room()
    for i in range(min(count, MAX_STAGES)):
        origin = stages.origin.below(i)
        stages.push(_stage(source, stage_tables[i], Where(room, i, count), depths[i], origin, problems), origin)
    tree.put("stages", stages, stages.origin)
    _apply_width(source, tree, problems)
    return tree


def _top_keys(spec: Table, problems: list[Problem]) -> None:
    for key in spec:
        if key not in TOP and len(problems) < MOST_PROBLEMS:
            problems.append(Problem(str(spec.origins[key]), f"one of {listed(TOP, 20)}", f"`{key}`", nearest(key, TOP)))
    for key in ("input", "stem", "dims", "head"):
        if key not in spec:
            problems.append(Problem(str(spec.origin.below(key)), f"`{key}`", "nothing", next="every spec has one"))
    if "layer" in spec and "layers" in spec:
        problems.append(
            Problem(
                str(spec.origins["layers"]),
                "either `layer` (repeated to the stage's depth) or `layers` (a list)",
                "both",
            )
        )


def _widths(source: Table, key: str, problems: list[Problem]) -> list[int]:
    """`dims` or `depths`, empty when they are missing or wrong."""
    if key not in source:
        return []
    issues: list[Issue] = []
    values = fill(source[key], WIDTHS_SCHEMA, (key,), issues, fill_call)
    problems += [Problem(str(origin_of(source, issue.path)), *issue[1:]) for issue in issues]
    return [] if issues or isinstance(values, Told) or TOLD in values else list(values)


def _stage_tables(source: Table, count: int, problems: list[Problem]) -> list[Table]:
    """What `stages.N` states, for each stage; `stages` may be a list or a table with numbers as keys."""
    empty = [Table(source.origin.below(f"stages.{i}")) for i in range(count)]
    stages = source.get("stages")
    if stages is None or isinstance(stages, Told):
        return empty
    if isinstance(stages, Items):
        named: list[tuple[str, Any, Origin]] = [
            (str(i), stage, origin) for i, (stage, origin) in enumerate(zip(stages, stages.origins, strict=True))
        ]
    elif isinstance(stages, Table):
        named = [(key, stage, stages.origins[key]) for key, stage in stages.items()]
    else:
        problems.append(Problem(str(source.origins["stages"]), "a table or list of stages", shown(stages)))
        return empty
    for key, stage, origin in named:
        i = position(key, count)
        if len(problems) >= MOST_PROBLEMS:
            break
        if i is None:
            problems.append(Problem(str(origin), f"a stage from 0 to {count - 1}: `dims` has {count}", f"`{key}`"))
        elif isinstance(stage, Told):
            continue
        elif not isinstance(stage, Table):
            problems.append(Problem(str(origin), "a table", shown(stage)))
        else:
            for step in stage:
                if step not in STAGE and len(problems) < MOST_PROBLEMS:
                    problems.append(
                        Problem(str(stage.origins[step]), f"one of {listed(STAGE)}", f"`{step}`", nearest(step, STAGE))
                    )
            empty[i] = stage
    return empty


def _depths(source: Table, stages: list[Table], count: int, problems: list[Problem]) -> list[int | None]:
    """Depth of each stage; None where a list of layers says it."""
    listed_layers = [_layer_list(source, stage) is not None for stage in stages]
    if "depths" not in source:
        if count and not all(listed_layers):
            problems.append(
                Problem(
                    str(source.origin.below("depths")),
                    "`depths`, one number of layers for each stage",
                    "nothing",
                    next="or give each stage `layers`",
                )
            )
        return [None if has else 0 for has in listed_layers]
    depths = _widths(source, "depths", problems)
    if depths and len(depths) != count and count:
        problems.append(
            Problem(str(source.origins["depths"]), f"a list of {count}, as `dims` is", f"a list of {len(depths)}")
        )
    if sum(depths) > MAX_LAYERS:
        raise TooLarge(Problem(str(source.origins["depths"]), f"at most {MAX_LAYERS:,} layers", f"{sum(depths):,}"))
    depths = (depths + [0] * count)[:count]
    return [None if has else depth for has, depth in zip(listed_layers, depths, strict=True)]


def _layer_list(source: Table, stage: Table) -> Any:
    return stage["layers"] if "layers" in stage else None if "layer" in stage else source.get("layers")


def _stage(
    source: Table, own: Table, where: Where, depth: int | None, origin: Origin, problems: list[Problem]
) -> Table:
    stage = Table(origin)
    for key in ("downsample", "view", "post"):
        first = key == "downsample" and where.stage == 0
        holder = own if key in own else source if key in source and not first else None
        if holder is None:
            stage.put(key, "none", Origin("default", ""))
        else:
            stage.put(key, pick(holder[key], where, holder.origins[key], problems), holder.origins[key])
    layers = Items(origin.below("layers"))
    for layer, where_written in _layers(source, own, where, depth, origin, problems):
        layers.push(layer, where_written)
    stage.put("layers", layers, layers.origin)
    return stage


def _layers(
    source: Table, own: Table, where: Where, depth: int | None, origin: Origin, problems: list[Problem]
) -> list[tuple[Any, Origin]]:
    if depth is not None:
        holder = own if "layer" in own else source if "layer" in source else None
        if holder is None:
            if depth:
                problems.append(Problem(str(origin), "`layer` or `layers`", "nothing", next="every stage has one"))
            return []
        template, written = holder["layer"], holder.origins["layer"]
        picked = [pick(template, where.at(j, depth), written, problems) for j in range(depth)]
        return [_as_branches(layer, written) for layer in picked]
    holder = own if "layers" in own else source
    rows, at = holder["layers"], holder.origins["layers"]
    rows = pick(rows, where, at, problems) if isinstance(rows, Table) else rows
    if isinstance(rows, Told):
        return []
    if not isinstance(rows, Items):
        problems.append(Problem(str(at), "a list of layers", shown(rows)))
        return []
    counts = [_repeat(row, row_at, problems) for row, row_at in zip(rows, rows.origins, strict=True)]
    where.room.take_layers(sum(counts), at)  # before any is built
    repeated = [
        (row, row_at) for row, row_at, count in zip(rows, rows.origins, counts, strict=True) for _ in range(count)
    ]
    out = []
    for j, (row, row_at) in enumerate(repeated):
        picked_row = pick(row, where.at(j, len(repeated)), row_at, problems)
        if isinstance(picked_row, Table) and "repeat" in picked_row:
            del picked_row["repeat"], picked_row.origins["repeat"]
        out.append(_as_branches(picked_row, row_at))
    return out


def _repeat(row: Any, origin: Origin, problems: list[Problem]) -> int:
    if not isinstance(row, Table) or "repeat" not in row:
        return 1
    count = row["repeat"]
    if isinstance(count, Told):
        return 1
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_LAYERS:
        problems.append(Problem(str(row.origins["repeat"]), f"int from 1 to {MAX_LAYERS:,}", shown(count)))
        return 1
    return count


def _as_branches(layer: Any, origin: Origin) -> tuple[Items, Origin]:
    """A layer is always a list of branches."""
    if isinstance(layer, Items):
        return layer, layer.origin
    branches = Items(origin)
    branches.push(layer, layer.origin if isinstance(layer, Table) else origin)
    return branches, origin


def _apply_width(source: Table, tree: Table, problems: list[Problem]) -> None:
    """The width law: every width of stem and stages times `scale`, rounded to a multiple of `round_to` but not by more than a tenth down.

    With `stem = false` the widths that the stem states stay as they are.
    """
    if "width" not in source:
        return
    law, origin = source["width"], source.origins["width"]
    known = ("scale", "round_to", "stem")
    if isinstance(law, Told):
        return
    if not isinstance(law, Table) or any(key not in known for key in law) or "scale" not in law:
        problems.append(
            Problem(
                str(origin),
                "a table { scale, round_to, stem }",
                "the keys " + ", ".join(f"`{key}`" for key in law) if isinstance(law, Table) and law else shown(law),
            )
        )
        return
    scale, step = law["scale"], law.get("round_to", 8)
    if isinstance(scale, Told):
        return
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale <= 1000:
        problems.append(Problem(str(law.origins["scale"]), "float > 0 and <= 1,000", shown(scale)))
        return
    if isinstance(step, Told):
        return
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= 1024:
        problems.append(Problem(str(law.origins["round_to"]), "int from 1 to 1,024", shown(step)))
        return
    with_stem = law.get("stem", True)
    if isinstance(with_stem, Told):
        return
    if not isinstance(with_stem, bool):
        problems.append(Problem(str(law.origins["stem"]), "true or false", shown(with_stem)))
        return
    dims = tree.get("dims")
    if isinstance(dims, Items):
        for i, dim in enumerate(dims):
            dims[i] = scaled(dim, scale, step)
    for key in ("stem", "stages") if with_stem else ("stages",):
        _scale_widths(tree.get(key), scale, step)


def _scale_widths(node: Any, scale: float, step: int) -> None:
    children: Any = node.items() if isinstance(node, Table) else enumerate(node) if isinstance(node, Items) else ()
    for key, child in list(children):
        if key in ("out_dim", "hidden_dim") and isinstance(child, int) and not isinstance(child, bool):
            node[key] = scaled(child, scale, step)
        else:
            _scale_widths(child, scale, step)


def scaled(width: int, scale: float, step: int) -> int:
    """`width * scale` to the nearest multiple of `step`, at least `step`, and never below nine tenths of it."""
    exact = width * scale
    rounded = max(step, int(exact + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * exact else rounded
