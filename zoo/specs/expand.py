"""From a family's merged spec to one explicit tree: parts inlined, indexed values resolved where they are used, stages written out.

The expanded tree has `stages`, a list, each with `downsample`, `view`, `layers` (every layer a list of branches) and `post`.
"""

from __future__ import annotations

from blocks.registry.errors import MOST_PROBLEMS
from blocks.registry.schema import shown
from blocks.registry.slots import NONE
from zoo.errors import Problem, listed, nearest
from zoo.specs.backbones import Models, adopt
from zoo.specs.graphs import Writer
from zoo.specs.indexed import Where, pick
from zoo.specs.inline import Inliner
from zoo.specs.inputs import names_of
from zoo.specs.laws import apply_growth
from zoo.specs.limits import MAX_STAGES, Room
from zoo.specs.stages import depths_of, numbers_of_stages, stage_of, stage_tables_of
from zoo.specs.taps import graph_behind
from zoo.specs.tree import Items, Table, mentions
from zoo.specs.width import apply_width

TOP = ("input", "inputs", "num_classes", "stem", "dims", "depths", "growth", "width", "depth", "downsample", "view", "layer", "layers", "post", "head",
       "define", "stages", "init", "drop_rate", "drop_path_rate", "backbone", "graph")  # fmt: skip


def expand(spec: Table, problems: list[Problem], models: Models | None = None) -> Table:
    """The explicit tree of a merged source spec. What is wrong goes to `problems`; raises TooLarge for a bomb.

    `models` finds the spec of a backbone by its name."""
    _top_keys(spec, problems)
    inliner = Inliner(spec.get("define"), problems)
    if "define" in spec and not isinstance(spec["define"], Table):
        problems.append(Problem(str(spec.origins["define"]), "a table of named parts", shown(spec["define"])))
    merged, writer = Table(spec.origin), Writer(problems)
    for key, value in spec.items():
        if key != "define":
            inlined = inliner.inline(value, spec.origins[key])
            waits = key == "graph" or not mentions(inlined, "graph")
            written = inlined if waits else writer.write(inlined, spec.origins[key])
            merged.put(key, written, spec.origins[key])
    problems += inliner.unused()
    _without_stages(merged)
    apply_growth(merged, problems)
    dims = numbers_of_stages(merged, "dims", problems)
    # without dims the layers are still checked, as if there were as many stages as depths
    least = 0 if {"graph", "backbone"} & set(merged) and "dims" not in merged else 1
    count = len(dims) or (len(merged["depths"]) if isinstance(merged.get("depths"), Items) else least)
    tables = stage_tables_of(merged, count, problems)
    depths = depths_of(merged, tables, count, problems)
    tree = Table(spec.origin)
    for key in ("input", "inputs", "num_classes", "dims", "init", "drop_rate", "drop_path_rate"):
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
    levels = adopt(merged, tree, models, problems) if "backbone" in merged else None
    if "graph" in merged:
        graph = graph_behind(merged, writer, tree["stages"], levels, names_of(merged.get("inputs")))
        tree.put("graph", pick(graph, None, merged.origins["graph"], problems), merged.origins["graph"])
    apply_width(merged, tree, problems)
    return tree


def _without_stages(merged: Table) -> None:
    """`dims` of "none": of a family with stages the variant that is its graph alone."""
    if "graph" in merged and merged.get("dims") == NONE:
        for key in {"dims", "depths"} & set(merged):
            del merged[key], merged.origins[key]


def _top_keys(spec: Table, problems: list[Problem]) -> None:
    for key in spec:
        if key not in TOP and len(problems) < MOST_PROBLEMS:
            problems.append(Problem(str(spec.origins[key]), f"one of {listed(TOP, 24)}", f"`{key}`", nearest(key, TOP)))
    staged = ("input", "dims") if "depths" in spec else ("input",)
    chain = () if "backbone" in spec else staged if "graph" in spec else ("input", "stem", "dims")
    for key in (*chain, *(() if "graph" in spec else ("head",))):
        if key not in spec and not (key == "dims" and "growth" in spec):
            problems.append(Problem(str(spec.origin.below(key)), f"`{key}`", "nothing", next="every spec has one"))
    if "inputs" in spec and "graph" not in spec:
        expected = "a [spec.graph], which reads what goes in beside `input`"
        problems.append(Problem(str(spec.origins["inputs"]), expected, "none"))
    if "layer" in spec and "layers" in spec:
        problems.append(
            Problem(
                str(spec.origins["layers"]),
                "either `layer` (repeated to the stage's depth) or `layers` (a list)",
                "both",
            )
        )
