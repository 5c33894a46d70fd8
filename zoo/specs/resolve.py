"""From a family, a variant and overrides to a Spec: family < variant < code < shell, selectors last, everything checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from blocks.registry.schema import shown
from zoo.errors import Problem, SpecError, UnknownModelError, listed, nearest
from zoo.specs.backbones import Models
from zoo.specs.check import add_unique, complete_tree
from zoo.specs.expand import expand
from zoo.specs.limits import MAX_STAGES, TooLarge
from zoo.specs.model import Spec
from zoo.specs.patch import EXTENDS, Edit, apply_literal, apply_selector, edits_of
from zoo.specs.read import Family, bounds
from zoo.specs.tree import Items, Origin, Table, rooted


def resolve(
    family: Family,
    variant: str = "",
    overrides: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    models: Models | None = None,
) -> Spec:
    """The Spec of one variant ("" for the bare [spec]). `overrides` come from code, `settings` from the shell, `models` finds backbones.

    Raises SpecError with all problems of the phase that failed: source and edits, then values.
    """
    name = variant or family.text.name or family.place
    problems: list[Problem] = []
    for origin, changes in (("override", overrides or {}), ("--set", settings or {})):
        problems += [problem._replace(where=str(Origin(origin, problem.where))) for problem in bounds(changes)]
    _refuse(name, problems)
    merged = copy.deepcopy(family.spec)
    edits = _variant_edits(family, variant)
    edits += [
        Edit(key, rooted(value, Origin("override", key)), Origin("override", key))
        for key, value in (overrides or {}).items()
    ]
    edits += [
        Edit(key, rooted(value, Origin("--set", key)), Origin("--set", key)) for key, value in (settings or {}).items()
    ]
    for edit in edits:
        if not edit.is_selector:
            problems += apply_literal(merged, edit, _stage_count(merged))
    try:
        tree = expand(merged, problems, models)
        filled = complete_tree(tree, problems)
        _refuse(name, problems)
        selectors = [edit for edit in edits if edit.is_selector]
        for edit in selectors:
            problems += apply_selector(filled, edit)
        if selectors:
            filled = complete_tree(filled, problems)
    except TooLarge as bomb:
        problems = [bomb.problem]
    _refuse(name, problems)
    return Spec(name, family.text, filled, family.place, family.keys)


def _stage_count(merged: Table) -> int:
    """How many stages can be named in a path; with a law of growth, as many as there may be."""
    dims = merged.get("dims")
    return len(dims) if isinstance(dims, Items) else MAX_STAGES if "growth" in merged else 0


def _variant_edits(family: Family, variant: str) -> list[Edit]:
    """The changes of the variants that this one extends, the farthest first, and its own."""
    if not variant:
        return []
    if variant not in family.variants:
        names = list(family.variants)
        expected = f"one of {listed(names, 20)}" if names else "no variant: this family has none"
        raise UnknownModelError(family.place, Problem("variants", expected, f"`{variant}`", nearest(variant, names)))
    patch = family.variants[variant]
    if not isinstance(patch, Table):
        raise SpecError(family.place, Problem(f"variants.{variant}", "a table of changes", shown(patch)))
    return _variant_edits(family, patch.get(EXTENDS, "")) + edits_of(patch)


def _refuse(name: str, problems: list[Problem]) -> None:
    unique: list[Problem] = []
    add_unique(unique, problems)
    if unique:
        raise SpecError(name, unique)


def respec(spec: Spec, edits: list[Edit]) -> Spec:
    """A Spec with selector edits on its filled tree (swaps), checked anew."""
    problems: list[Problem] = []
    tree = copy.deepcopy(spec.tree)
    for edit in edits:
        problems += apply_selector(tree, edit, spec.name)
    filled = complete_tree(tree, problems)
    _refuse(spec.name, problems)
    return Spec(spec.name, spec.family, filled, spec.source, spec.keys)


def with_values(spec: Spec, **values: Any) -> Spec:
    """A Spec with other top-level values (`num_classes`, `drop_path_rate`), or other `input` values given as a table."""
    tree = copy.deepcopy(spec.tree)
    for key, value in values.items():
        origin = Origin("argument", key)
        if isinstance(value, Mapping):
            for inner, item in value.items():
                tree[key].put(inner, item, origin.below(inner))
        else:
            tree.put(key, value, origin)
    problems: list[Problem] = []
    filled = complete_tree(tree, problems)
    _refuse(spec.name, problems)
    return Spec(spec.name, spec.family, filled, spec.source, spec.keys)
