"""A repository of the Hub that holds a model: read, verified, copied. Data only; no pickle is ever opened."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from blocks import plugins
from zoo.errors import InputError, Problem, SpecError, WeightsError, listed
from zoo.hub.client import Reference, commit_of, fetch, parse
from zoo.specs.model import Spec
from zoo.specs.read import MAX_BYTES, read_bytes
from zoo.specs.resolve import resolve
from zoo.supply import locks, store
from zoo.weights.manifest import Manifest, parse_manifest
from zoo.weights.refusals import BytesError
from zoo.weights.verify import sha256_of, verify

SCHEMA = "zoo.json/1"
RECORD, WEIGHTS = "zoo.json", "model.safetensors"
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
"""A name that may stand in a command that we print."""


class Repository(NamedTuple):
    """What a repository says: the spec, the manifest of its weights, and its files on this machine, by name."""

    spec: Spec
    manifest: Manifest
    files: dict[str, Path]


def repository(text: str) -> Repository:
    """Fetches what is missing, and verifies it. Raises InputError when it cannot be had, WeightsError and SpecError for its content.

    A repository that the lock names is taken at the locked commit, its files from the store or the mirror where they have them."""
    reference = parse(text)
    locked = locks.entries().get(f"hub:{reference.repo}")
    if locked and reference.revision in ("main", locked.revision):
        reference = reference._replace(revision=locked.revision)
    else:
        locked = None
    record = _file(reference, RECORD, locked)
    if record.stat().st_size > MAX_BYTES:
        raise WeightsError(
            str(reference), Problem(RECORD, f"at most {MAX_BYTES:,} bytes", f"{record.stat().st_size:,}")
        )
    spec, manifest = read_record(record.read_bytes(), reference)
    pinned = reference._replace(revision=commit_of(record) or reference.revision)
    path = _file(pinned, WEIGHTS, locked)
    manifest = msgspec.structs.replace(manifest, revision=pinned.revision, source=f"file:{path}")
    try:
        verify(path, manifest)
    except BytesError:
        store.set_aside(path)
        path = _file(pinned, WEIGHTS, locked, anew=True)
        verify(path, manifest)
    for one in (record, path):
        locks.allow(sha256_of(one), str(reference))
    return Repository(spec, manifest, {RECORD: record, WEIGHTS: path})


def _file(reference: Reference, name: str, locked: locks.Locked | None, anew: bool = False) -> Path:
    """From the Hub, or, where a lock names its bytes, from wherever these are. Raises WeightsError for other bytes than the locked."""
    file = next((one for one in locked.files if one.name == name), None) if locked else None
    if file is None:
        return fetch(reference, name, anew)
    if store.has(file):
        return store.place(file)
    path = fetch(reference, name)
    if (
        name != WEIGHTS and sha256_of(path) != file.sha256
    ):  # the weights are held against their manifest, with a second try
        raise WeightsError(str(reference), Problem(name, f"sha256 {file.sha256}, as locked", "other bytes"))
    return path


def read_record(data: bytes, reference: Reference) -> tuple[Spec, Manifest]:
    """What a `zoo.json` says. Raises WeightsError, and SpecError for its spec."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WeightsError(str(reference), Problem(RECORD, "JSON", str(error))) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise WeightsError(str(reference), Problem(f"{RECORD}: schema", f"`{SCHEMA}`", f"`{found}`"))
    manifest = parse_manifest(json.dumps(content.get("manifest")), f"{reference}: {RECORD}: manifest")
    if manifest.source != f"file:{WEIGHTS}" or not manifest.sha256:
        problem = Problem(f"{RECORD}: manifest.source", f"`file:{WEIGHTS}` with its sha256", f"`{manifest.source}`")
        raise WeightsError(str(reference), problem)
    try:
        spec = resolve(read_bytes(json.dumps(content.get("spec")).encode(), f"{reference.repo}.json"), "")
    except SpecError as error:
        raise SpecError(error.subject, [*error.problems, *_missing(content.get("distributions"))]) from None
    spec.name = manifest.model
    if spec.digest != manifest.digest:
        problem = Problem(
            f"{RECORD}: manifest.digest", f"that of the spec beside it, {spec.digest[:12]}", manifest.digest[:12]
        )
        raise WeightsError(str(reference), problem)
    return spec, manifest


def _missing(claimed: Any) -> list[Problem]:
    """Packages that the repository says its blocks are from, and that are not installed: its claim, which nobody has checked."""
    names = claimed if isinstance(claimed, dict) else {}
    known = {"blockzoo", *plugins.plugins()}
    lost = [f"{name} {version}" for name, version in names.items() if PACKAGE.fullmatch(name) and name not in known]
    if not lost:
        return []
    hint = f"pip install --no-deps {lost[0].partition(' ')[0]}, if you trust it"
    return [Problem("", "the packages that the repository claims to need", f"{listed(lost)} not installed", next=hint)]


def pull(text: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Copies what a repository holds of a model, verified, into a folder: weights and `zoo.json`. Returns the files.

    Raises as `repository` does, and InputError for a folder that holds such files already.
    """
    target = Path(folder)
    there = [name for name in (RECORD, WEIGHTS) if (target / name).exists()]
    if there:
        raise InputError("pull", Problem(str(target), "a folder without these files", ", ".join(there)))
    found = repository(text)
    target.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, target / name)) for name, path in found.files.items()]
