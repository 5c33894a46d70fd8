"""A backbone: the stem and stages of another model, in the place of stages of one's own, and its feature levels by number.

    backbone = { model = "starnet_s1", levels = [1, 2, 3] }

The graph behind it reads `levels.0`, `levels.1`, … in the order stated. What lies behind the last of them is left out. The stages are
written into the tree, so that digest and weights do not hang on a name; `backbone` stays beside them as a note of where they come from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from blocks.registry.calls import complete_call
from blocks.registry.schema import Issue, complete, fragment
from zoo.errors import Problem, SpecError, UnknownModelError
from zoo.specs.tree import Items, Origin, Table, origin_of

if TYPE_CHECKING:
    from zoo.specs.model import Spec

Models = Callable[[str], "Spec"]
"""The spec of a model by its name; raises SpecError and UnknownModelError."""
LAYERS = ("layers",)


class Backbone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of the catalogue, and which of its feature levels are read, negative ones from the last, all without `levels`."""

    model: str
    levels: Annotated[list[Annotated[int, Meta(ge=-4096, le=4095)]], Meta(min_length=1, max_length=64)] | None = None


BACKBONE_SCHEMA = fragment(Backbone)


def adopt(source: Table, tree: Table, models: Models | None, problems: list[Problem]) -> list[str]:
    """Puts stem and stages of the backbone into the tree, where `source` has none; returns the places of the levels to read."""
    issues: list[Issue] = []
    asked = complete(source["backbone"], BACKBONE_SCHEMA, ("backbone",), issues, complete_call)
    tree.put("backbone", source["backbone"], source.origins["backbone"])
    if issues:
        problems += [Problem(str(origin_of(source, issue.path)), *issue[1:]) for issue in issues]
        return []
    if "stages" in source:  # a filled spec, which has them
        return []
    spec = _found(asked["model"], source.origins["backbone"].below("model"), models, problems)
    if spec is None:
        return []
    names = level_names(spec)
    wanted = list(range(len(names))) if asked["levels"] == "none" else asked["levels"]
    beyond = [level for level in wanted if not -len(names) <= level < len(names)]
    if beyond:
        where = source.origins["backbone"].below("levels")
        expected = f"levels of `{spec.name}` from {-len(names)} to {len(names) - 1}"
        problems.append(Problem(str(where), expected, ", ".join(map(str, beyond))))
        return []
    wanted = [level % len(names) for level in wanted]
    _take(spec, tree, names[max(wanted)])
    return [names[level] for level in wanted]


def _found(name: str, origin: Origin, models: Models | None, problems: list[Problem]) -> Spec | None:
    if models is None:
        problems.append(Problem(str(origin), "a model of the catalogue", f"`{name}`, and no catalogue is asked here"))
        return None
    try:
        spec = models(name)
    except (UnknownModelError, SpecError) as refusal:
        problems += [problem._replace(where=str(origin)) for problem in refusal.problems]
        return None
    if not spec.dims:
        problems.append(Problem(str(origin), "a model with stages", f"`{name}`, which is a graph"))
        return None
    return spec


def level_names(spec: Spec) -> list[str]:
    """The places behind which feature levels of a model stand: those that its family names, else each stage, or each layer of the only one."""
    stages = spec.tree["stages"]
    if len(stages) == 1 or spec.family.levels == LAYERS:
        return [f"stages.{i}.layers.{j}" for i, stage in enumerate(stages) for j in range(len(stage["layers"]))]
    stem = spec.tree["stem"]
    parts = [f"stem.{i}" for i in range(len(stem))] if isinstance(stem, list) else ["stem"]
    parts += [f"stages.{i}" for i in range(len(stages))]
    return [name for name in spec.family.levels if name in parts] or parts[-len(stages) :]


def _take(spec: Spec, tree: Table, last: str) -> None:
    """Stem and stages of a model, up to the level `last`; its input and laws where the tree has none."""
    theirs = copy.deepcopy(spec.tree)
    steps = last.split(".")
    count = int(steps[1]) + 1 if steps[0] == "stages" else 1
    if len(steps) > 2:
        layers, kept = theirs["stages"][count - 1]["layers"], int(steps[3]) + 1
        del layers[kept:], layers.origins[kept:]
    for key in ("dims", "stages"):
        values: Items = theirs[key]
        del values[count:], values.origins[count:]
    for key in ("stem", "dims", "stages"):
        tree.put(key, theirs[key], theirs.origins[key])
    for key in ("input", "init", "drop_rate", "drop_path_rate"):
        if key not in tree:
            tree.put(key, theirs[key], theirs.origins[key])
