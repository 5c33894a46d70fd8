"""From what a user names a model by to its Spec: a catalogue name, a spec file, a table, a Spec. Imports no torch."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from zoo import catalog
from zoo.catalog.external import Opaque, is_opaque, refuse_edits
from zoo.catalog.published import published_spec
from zoo.catalog.saved import open_saved, saved_path
from zoo.errors import Problem, SpecError, listed
from zoo.specs.model import Spec
from zoo.specs.patch import Edit
from zoo.specs.read import Family, family_of, read_file
from zoo.specs.resolve import resolve, respec
from zoo.specs.scalars import plain
from zoo.specs.tree import Origin
from zoo.system.file_kinds import ENDINGS, refuse_foreign

Model = str | os.PathLike[str] | Spec | Mapping[str, Any]


def spec(
    model: Model, overrides: Mapping[str, Any] | None = None, *, settings: Mapping[str, Any] | None = None
) -> Spec:
    """The filled, checked spec of a model, with changes: {path or selector: value}, from code and from the shell.

    `model`: a name, a spec file (`net.toml`, `net.toml:variant`), what `zoo.save` wrote, a spec as a table, or a Spec. Raises
    UnknownModelError and SpecError.
    """
    overrides, settings = plain(overrides), plain(settings)
    if isinstance(model, Spec):
        if not overrides and not settings:
            return model
        edits = [
            Edit(key, value, Origin("override", key))
            for key, value in {**(overrides or {}), **(settings or {})}.items()
        ]
        return respec(model, edits)
    if isinstance(model, Mapping):
        return resolve(family_of(model, "spec"), "", overrides, settings)
    saved = saved_path(model)
    if saved is not None:
        return spec(open_saved(saved).spec, overrides, settings=settings)
    text = os.fspath(model)
    if is_file(text):
        family, variant = _file(text)
        return resolve(family, variant, overrides, settings)
    if is_opaque(text):
        refuse_edits(text, {"overrides": overrides, "settings": settings})
        return Opaque(catalog.entry(text).name)
    return published_spec(text, overrides, settings)


def is_file(text: str) -> bool:
    """Whether a model is named by a file rather than by its name; `acme/net` is a name, `./acme/net` is none."""
    path, _ = split_variant(text)
    return path.endswith(ENDINGS) or (os.sep in path and not catalog.NAME.fullmatch(path))


def split_variant(text: str) -> tuple[str, str]:
    """(path, variant) of `net.toml` or `net.toml:variant`. A folder's name may hold colons: only what stands behind the last one,
    and is part of no path, is a variant."""
    path, _, variant = text.rpartition(":")
    if not path or os.sep in variant or "/" in variant or variant.endswith(ENDINGS) or os.path.isfile(text):
        return text, ""
    return path, variant


def _file(text: str) -> tuple[Family, str]:
    path, variant = split_variant(text)
    refuse_foreign(pathlib.Path(path))
    family = read_file(pathlib.Path(path))
    variants = list(family.variants)
    if not variant and len(variants) == 1:
        variant = variants[0]
    if not variant and len(variants) > 1:
        near = f"{path}:{variants[0]}"
        raise SpecError(
            path, Problem("", f"one of its variants: {listed(variants, 20)}", "no choice", next=f"write `{near}`")
        )
    return family, variant
