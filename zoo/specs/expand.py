"""From a family's merged spec to one explicit tree: parts inlined, indexed values resolved where they are used, stages written out.

The expanded tree has `stages`, a list, each with `downsample`, `view`, `layers` (every layer a list of branches) and `post`.
"""

from __future__ import annotations

from blocks.registry.errors import MOST_PROBLEMS
from blocks.registry.schema import shown
from zoo.errors import Problem, listed, nearest
from zoo.specs.indexed import Where, pick
from zoo.specs.inline import Inliner
from zoo.specs.limits import MAX_STAGES, Room
from zoo.specs.stages import depths_of, numbers_of_stages, stage_of, stage_tables_of
from zoo.specs.tree import Items, Table
from zoo.specs.width import apply_width

TOP = ("input", "num_classes", "stem", "dims", "depths", "width", "downsample", "view", "layer", "layers", "post", "head",
       "define", "stages", "init", "drop_rate", "drop_path_rate")  # fmt: skip


def expand(spec: Table, problems: list[Problem]) -> Table:
    """The explicit tree of a merged spec. What is wrong goes to `problems`; raises TooLarge for a bomb."""
    _top_keys(spec, problems)
    inliner = Inliner(spec.get("define"), problems)
    if "define" in spec and not isinstance(spec["define"], Table):
        problems.append(Problem(str(spec.origins["define"]), "a table of named parts", shown(spec["define"])))
    merged = Table(spec.origin)
    for key, value in spec.items():
        if key != "define":
            merged.put(key, inliner.inline(value, spec.origins[key]), spec.origins[key])
    problems += inliner.unused()
    dims = numbers_of_stages(merged, "dims", problems)
    # without dims the layers are still checked, as if there were as many stages as depths
    count = len(dims) or (len(merged["depths"]) if isinstance(merged.get("depths"), Items) else 1)
    tables = stage_tables_of(merged, count, problems)
    depths = depths_of(merged, tables, count, problems)
    tree = Table(spec.origin)
    for key in ("input", "num_classes", "dims", "init", "drop_rate", "drop_path_rate"):
        if key in merged:
            tree.put(key, merged[key], merged.origins[key])
    for key in ("stem", "head"):
        if key in merged:
            tree.put(key, pick(merged[key], None, merged.origins[key], problems), merged.origins[key])
    stages, room = Items(spec.origin.below("stages")), Room()
    for i in range(min(count, MAX_STAGES)):
        origin = stages.origin.below(i)
        stages.push(stage_of(merged, tables[i], Where(room, i, depths), depths[i], origin, problems), origin)
    tree.put("stages", stages, stages.origin)
    apply_width(merged, tree, problems)
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
