"""`zoo lock`: what is at hand, pinned in a project's `zoo.lock`. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from zoo import catalog
from zoo.artifacts.client import parse
from zoo.artifacts.lockfile import File, Locked, distributions, entries, write_lock
from zoo.artifacts.repository import repository
from zoo.catalog.manifests import at_hand
from zoo.errors import Problem, WeightsError
from zoo.weights.manifest import read_manifest


def lock(names: str | Sequence[str] = (), path: str | os.PathLike[str] | None = "zoo.lock") -> list[Locked]:
    """Writes `zoo.lock` (`path`; None writes nothing) for names, `model`, `model.tag` or `hub:org/repo@revision`; without names for
    all weights that ship or are pinned. Returns the entries.

    Raises UnknownModelError, WeightsError for weights that are not at hand, and what `zoo.create` raises for a repository.
    """
    requested_names = [names] if isinstance(names, str) else list(names)
    locked: list[Locked] = []
    for name in requested_names or at_hand():
        locked += [_of_repository(name)] if name.startswith("hub:") else _of_model(name)
    if path is not None:
        write_lock(locked, Path(path))
    return locked


def _of_model(name: str) -> list[Locked]:
    names = at_hand(name)
    if not names:
        model, tag = catalog.split_tag(name)
        listed_names = [f"{model}.{each}" for each in catalog.entry(name).listed if tag in ("", each)]
        how = f"`zoo pin {listed_names[0]}`" if listed_names else ""
        raise WeightsError(name, Problem("", "weights at hand", "none to lock", next=how))
    known = entries()
    return [_proved(_shipped(each), known.get(each)) or known[each] for each in names]


def _proved(shipped: Locked | None, known: Locked | None) -> Locked | None:
    """Weights that ship, with the proofs that an earlier lock has for these bytes."""
    if shipped is None or known is None or known.files != shipped.files:
        return shipped
    return msgspec.structs.replace(shipped, proofs=known.proofs)


def _shipped(weights: str) -> Locked | None:
    path = catalog.weights_manifest(*catalog.split_tag(weights))
    if not path.exists():
        return None
    manifest = read_manifest(path)
    file = File(manifest.source.partition(":")[2], manifest.sha256, manifest.size_bytes or 0)
    return Locked(
        name=manifest.name, digest=manifest.digest, source=manifest.source, licence=manifest.licence,
        licence_class=manifest.licence_class, distributions=distributions([weights, *catalog.entry(weights).blocks]), files=(file,),
    )  # fmt: skip


def _of_repository(text: str) -> Locked:
    repo = repository(text)
    manifest = repo.manifest
    return Locked(
        name=f"hub:{parse(text).repo}", digest=manifest.digest, source=f"hub:{parse(text).repo}", revision=manifest.revision,
        licence=manifest.licence, licence_class=manifest.licence_class, distributions=distributions(repo.spec.blocks()),
        files=tuple(File.of(path, name) for name, path in repo.files.items()),
    )  # fmt: skip
