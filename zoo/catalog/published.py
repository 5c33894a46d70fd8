"""Specs as the collections publish them, by the names of their models. Imports no torch."""

from __future__ import annotations

import contextvars
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.catalog.collection import Collection
from zoo.catalog.index import entry, home_of
from zoo.errors import InputError, Problem, SpecError
from zoo.specs.model import Spec
from zoo.specs.read import Family, read_file
from zoo.specs.resolve import resolve


@functools.lru_cache(maxsize=64)
def family_of(path: pathlib.Path) -> Family:
    """The family in a file of a collection."""
    return read_file(path)


def spec_file(name: str) -> pathlib.Path:
    """The file with the spec of a model. Raises InputError for one that no spec describes."""
    match, home = entry(name), home_of(name)
    if not match.file:
        raise InputError(match.name, Problem("", "a model with a spec", f"one that the code of {home.owner} builds"))
    return home.folder / match.file


def published_spec(
    name: str, overrides: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
) -> Spec:
    """The spec of a model as published, or with changes from code and from the shell."""
    full = entry(name).name
    spec = resolve(family_of(spec_file(name)), home_of(name).short(full), overrides, settings, backbone_spec)
    spec.name = full
    return spec


def specs_in(collection: Collection, files: str = "*.toml") -> Iterator[tuple[str, Spec]]:
    """File name and spec of every model that stands in the `files` of a collection, a glob; installed or not."""
    for path in sorted(collection.folder.glob(files)):
        family = read_file(path)
        for variant in family.variants:
            yield path.name, resolve(family, variant, models=backbone_spec)


_asked: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
    "backbones that are being resolved", default=()
)


def backbone_spec(name: str) -> Spec:
    """The spec of a model that another has for its backbone. Raises SpecError for one that stands on itself."""
    asked = (*_asked.get(), entry(name).name)
    if asked[-1] in asked[:-1]:
        raise SpecError(name, Problem("", "a backbone that does not stand on itself", " -> ".join(asked)))
    token = _asked.set(asked)
    try:
        return published_spec(name)
    finally:
        _asked.reset(token)
