"""A repository of the Hub that holds a model: read, verified, copied. Data only; no pickle is ever opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from zoo.artifacts import lockfile as locks
from zoo.artifacts import store
from zoo.artifacts.client import Reference, commit_of, fetch, parse
from zoo.artifacts.record import RECORD, WEIGHTS, Made, read_record
from zoo.errors import InputError, Problem, WeightsError
from zoo.specs.model import Spec
from zoo.specs.read import MAX_BYTES
from zoo.weights.errors import BytesError
from zoo.weights.manifest import Manifest
from zoo.weights.opening import opened
from zoo.weights.verify import sha256_of, verify


class Repository(NamedTuple):
    """What a repository says: the spec, the manifest of its weights, its files on this machine, by name, and what was made of the spec."""

    spec: Spec
    manifest: Manifest
    files: dict[str, Path]
    made: Made = Made()


def repository(text: str) -> Repository:
    """Fetches what is missing, and verifies it. Raises InputError when it cannot be had, WeightsError and SpecError for its content.

    A repository that the lock names is taken at the locked commit, its files from the store or the mirror where they have them."""
    reference = parse(text)
    locked = locks.entries().get(f"hub:{reference.repo}")
    if locked and reference.revision in ("main", locked.revision):
        reference = reference._replace(revision=locked.revision)
    else:
        locked = None
    record = _file(reference, RECORD, locked, MAX_BYTES)
    with opened(record, str(reference)) as file:
        spec, manifest, made = read_record(file.read(MAX_BYTES + 1), reference)
    size = manifest.size_bytes or 0
    pinned = reference._replace(revision=commit_of(record) or reference.revision)
    path = _file(pinned, WEIGHTS, locked, size)
    manifest = msgspec.structs.replace(manifest, revision=pinned.revision, source=f"file:{path}")
    try:
        verify(path, manifest)
    except BytesError:
        store.set_aside(path)
        path = _file(pinned, WEIGHTS, locked, size, anew=True)
        verify(path, manifest)
    locks.allow(sha256_of(path), str(reference))
    return Repository(spec, manifest, {RECORD: record, WEIGHTS: path}, made)


def _file(reference: Reference, name: str, locked: locks.Locked | None, max_bytes: int, anew: bool = False) -> Path:
    """A file from the Hub, or, where a lock names its bytes, from wherever these are. Raises WeightsError for other bytes than the locked."""
    file = next((entry for entry in locked.files if entry.name == name), None) if locked else None
    if file is None:
        return fetch(reference, name, anew, max_bytes)
    if store.has(file):
        return store.place(file)
    path = fetch(reference, name, max_bytes=max_bytes)
    if (
        name != WEIGHTS and sha256_of(path) != file.sha256
    ):  # the weights are held against their manifest, with a second try
        raise WeightsError(str(reference), Problem(name, f"sha256 {file.sha256}, as locked", "other bytes"))
    return path


def pull(text: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Copies what a repository holds of a model, verified, into a folder: weights and `zoo.json`. Returns the files.

    Raises as `repository` does, and InputError for a folder that holds such files already.
    """
    target = Path(folder)
    present = [name for name in (RECORD, WEIGHTS) if (target / name).exists()]
    if present:
        raise InputError("pull", Problem(str(target), "a folder without these files", ", ".join(present)))
    source = repository(text)
    target.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, target / name)) for name, path in source.files.items()]
