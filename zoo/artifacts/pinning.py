"""`zoo pin`: weights that others published, fetched, hashed, proved against the spec, and kept as safetensors in our names.

The published file is held against what its publisher says of it (a hash in the manifest, the Hub's own). A child process converts it,
for it may be a pickle: opened with `weights_only=True`, without tokens, its tensors loaded strictly into the model of the spec. What
comes out is checked here once more, and its name, commit and hashes become a pin of the user. `zoo.create` reads the pinned bytes only.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from zoo import catalog
from zoo.artifacts import lockfile as locks
from zoo.artifacts import store
from zoo.artifacts.client import Reference, commit_of, fetch, offline
from zoo.artifacts.download import download
from zoo.artifacts.lockfile import File, Locked
from zoo.catalog.manifests import manifests, published
from zoo.catalog.sources import find_source
from zoo.errors import InputError, Problem, ProblemsError, WeightsError, listed
from zoo.system import children
from zoo.weights.errors import BytesError, TensorsError, refuse_file
from zoo.weights.header import check_header, read_header
from zoo.weights.licences import FORBIDDING
from zoo.weights.manifest import Manifest
from zoo.weights.manifest_rules import path_fault
from zoo.weights.shards import files_of, is_index
from zoo.weights.verify import verify

SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HF_TOKEN_PATH")
MINUTES = 30.0
"""What a conversion may take."""
BYTES_OF_A_PARAMETER = 4 * 8
ROOM_BYTES = 2**26
"""A checkpoint of which nobody said how large it is may hold four numbers of double precision for each parameter, and other things."""


class Outcome(NamedTuple):
    """What became of one name: the pin, or why there is none."""

    name: str
    entry: Locked | None
    problem: str


def pin(name: str, revision: str = "") -> Locked:
    """Makes listed weights usable: downloads, hashes, converts, proves, and writes the user's pin. Pinned bytes at hand stay.

    `name` has a tag, or is a model with one list entry. `revision`: a branch, tag or commit of the Hub; the default is the commit
    of the manifest or the lock, else `main`. Raises InputError where nothing can be fetched, WeightsError for what is not the promised
    bytes or does not fit the spec.
    """
    manifest = _one(name)
    pinned = locks.entries().get(manifest.name)
    if pinned and revision in ("", pinned.revision) and store.has(pinned.files[0]):
        return pinned
    revision = revision or (pinned.revision if pinned else "") or manifest.revision or "main"
    _warn(manifest)
    with tempfile.TemporaryDirectory(prefix=".pin-", dir=store.made_folder()) as work:
        try:
            entry = _pinned(manifest, revision, Path(work))
        except OSError as error:
            problem = Problem(manifest.source, "room for the weights", error.strerror or str(error))
            raise InputError(manifest.name, problem) from None
    if pinned and revision == pinned.revision and entry.files != pinned.files:
        problem = Problem("", f"the locked bytes, sha256 {pinned.files[0].sha256}", entry.files[0].sha256)
        raise WeightsError(manifest.name, problem)
    locks.save_pin(entry)
    return entry


def pin_all(done: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
    """Every listed name of the catalogue; one that fails does not keep the others. `done` hears of each."""
    outcomes = []
    for model, entry in catalog.entries().items():
        for tag in entry.listed:
            name = f"{model}.{tag}"
            try:
                outcomes.append(Outcome(name, pin(name), ""))
            except ProblemsError as error:
                outcomes.append(Outcome(name, None, str(error)))
            done(outcomes[-1])
    return outcomes


def brought(manifest: Manifest) -> Manifest:
    """The manifest with its bytes on this machine: those of a pin from the store or the mirror, and safetensors that a manifest of
    ours pins fetched and pinned now. Raises as `pin` does."""
    if manifest.state != "pinned":
        return manifest
    entry = locks.entries().get(manifest.name)
    if entry is None:
        locks.allow("", manifest.name)
    if entry is None and not manifest.source.endswith(".safetensors"):
        how = f"`zoo pin {manifest.name}` converts it in a process of its own"
        raise refuse_file(f"{manifest.name}: a pickle is never opened here", manifest.source, next=how)
    if entry is None:
        pin(manifest.name)
        return manifests(manifest.name)[0]
    store.obtain(entry.files[0], manifest.name, f"`zoo pin {manifest.name}`")
    return manifest


def _one(name: str) -> Manifest:
    """The published manifest that a name means, whether or not it is pinned."""
    model, tag = catalog.split_tag(name)
    tags = [each_tag for each_tag in catalog.entry(name).listed if tag in ("", each_tag)]
    if len(tags) != 1:
        names = [f"{model}.{each_tag}" for each_tag in tags]
        expected = f"one of {listed(names)}" if names else "weights that are listed, not shipped"
        raise InputError("pin", Problem(name, expected, "no choice" if names else "none of this name"))
    return published(f"{model}.{tags[0]}")


def _warn(manifest: Manifest) -> None:
    if manifest.licence_class in FORBIDDING:
        text = "%s: its licence, %s, forbids commercial use"
        logging.getLogger("zoo").warning(text, manifest.name, manifest.licence)


def _pinned(manifest: Manifest, revision: str, work: Path) -> Locked:
    path, commit, promised = _downloaded(manifest, revision, work)
    _convert(manifest, path, work / "model.safetensors")
    _prove(manifest, work / "model.safetensors")
    return Locked(
        name=manifest.name, digest=manifest.digest, source=manifest.source, revision=commit, licence=manifest.licence,
        licence_class=manifest.licence_class, distributions=locks.distributions([manifest.name, *catalog.entry(manifest.name).blocks]),
        files=(store.take(work / "model.safetensors"),), published=promised,
    )  # fmt: skip


def _downloaded(manifest: Manifest, revision: str, work: Path) -> tuple[Path, str, tuple[File, ...]]:
    """The published file, or the index of several that then lie beside it; the commit in which it stands; the facts of all of them.
    Their bytes are those that their publisher promises."""
    get: Callable[[Manifest], Path] = functools.partial(_of_web, work)
    commit = ""
    if manifest.source.startswith("hub:"):
        repo, name = _place(manifest)
        commit = commit_of(fetch(Reference(repo, revision), name, max_bytes=most_bytes(manifest)))
        get = functools.partial(_of_hub, commit or revision)
    path = get(manifest)
    folder = manifest.source.rpartition("/")[0]
    parts = [  # of these the manifest says nothing
        msgspec.structs.replace(manifest, source=f"{folder}/{name}", sha256="", sha256_prefix="", size_bytes=None)
        for name in (files_of(path, manifest.name) if is_index(path.name) else [])
    ]
    return path, commit, tuple(File.of(file, file.name, anew=True) for file in [path, *map(get, parts)])


def most_bytes(manifest: Manifest) -> int:
    """What may be fetched of a file: its size where the manifest tells it, else what a checkpoint of such a model can have, with double
    precision, averages and the state of an optimiser."""
    if manifest.size_bytes is not None:
        return manifest.size_bytes
    return ROOM_BYTES + BYTES_OF_A_PARAMETER * catalog.entry(manifest.model).params


def _place(manifest: Manifest) -> tuple[str, str]:
    """Repository and file of `hub:org/repo/file`."""
    org, repo, name = manifest.source.removeprefix("hub:").split("/", 2)
    return f"{org}/{repo}", name


def _of_web(work: Path, manifest: Manifest) -> Path:
    if offline():
        found = "no network is wanted"
        raise InputError(manifest.name, Problem(manifest.source, "a network", found, next="unset ZOO_OFFLINE, once"))
    name = urlsplit(manifest.source).path.rpartition("/")[2]
    if fault := path_fault(name):
        raise InputError(manifest.name, Problem(manifest.source, "the name of a file at its end", fault))
    path = download(manifest.source, work / name, most_bytes(manifest))
    _verify(path, manifest)
    return path


def _of_hub(revision: str, manifest: Manifest) -> Path:
    repo, name = _place(manifest)
    path = fetch(Reference(repo, revision), name, max_bytes=most_bytes(manifest))
    try:
        _verify(path, manifest)
    except BytesError:
        store.set_aside(path)
        path = fetch(Reference(repo, revision), name, anew=True, max_bytes=most_bytes(manifest))
        _verify(path, manifest)
    return path


def _verify(path: Path, manifest: Manifest) -> None:
    """Raises WeightsError where the bytes are not those of a hash that was published, or by which the Hub's client keeps a large file."""
    if manifest.sha256 or manifest.sha256_prefix:
        verify(path, manifest)
    kept_as = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", kept_as):
        verify(path, msgspec.structs.replace(manifest, sha256=kept_as))


def _convert(manifest: Manifest, path: Path, out: Path) -> None:
    """Writes, in a child process, the file's tensors by the key rules of its source, loaded strictly, saved as safetensors."""
    spec = find_source(manifest.name).spec
    model = (
        manifest.model if spec.factory is None else manifest.name
    )  # the tag decides the classes of what a factory builds
    command = children.command("zoo.artifacts.convert", model, manifest.key_rules or "zoo", manifest.dtype)
    environment = {key: value for key, value in os.environ.items() if key not in (*SECRETS, "ZOO_LOCKED", "ZOO_LOCK")}
    environment |= {"ZOO_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": children.search_path()}
    try:
        done = subprocess.run(
            [*command, str(path), str(out)], env=environment, capture_output=True, text=True, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        found = f"none within {MINUTES:g} minutes"
        raise WeightsError(manifest.name, Problem(manifest.source, "a conversion", found)) from None
    if done.returncode == 0:
        return
    try:
        problems = [Problem(**values) for values in json.loads(done.stdout)]
    except (ValueError, TypeError):
        last = next(iter(reversed(done.stderr.strip().splitlines())), "")
        end = f"by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"with {done.returncode}"
        found = f"a process that ended {end}" + (f": {last}" if last else "")
        problems = [Problem(manifest.source, "a conversion", found)]
    raise TensorsError(manifest.name, problems)


def _prove(manifest: Manifest, path: Path) -> None:
    """The header of the converted file is that of the published spec, name by name. Raises WeightsError."""
    from zoo.build.builder import build
    from zoo.weights.load import expected_header, ties_of

    model = build(find_source(manifest.name).spec)
    check_header(read_header(path, manifest.name), expected_header(model), manifest.name, ties_of(model))
