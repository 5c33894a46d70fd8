"""Every file on this machine from which the zoo may load weights, and what lies beside them: who vouches for it, is it whole, may it go.

Five places: the package (`shipped`), the zoo's own store (`pinned`), repositories with a `zoo.json` in the Hub's cache (`repository`), nets
that were compiled here (`compiled`: folders, which vouch for their own files), and what is left over (`leftover`: quarantined files, drafts of
processes that died, stored files that no pin or lock names any more).
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from zoo.artifacts import compiled, store
from zoo.artifacts import lockfile as locks
from zoo.artifacts.record import RECORD, WEIGHTS
from zoo.catalog.collection import collections
from zoo.errors import ProblemsError
from zoo.system.strict_json import parse_json
from zoo.weights.manifest import manifest_from, read_manifest
from zoo.weights.verify import sha256_of

MINUTES = 60.0
"""A draft this old belongs to no living process."""


class Item(NamedTuple):
    """One file (or folder of drafts). `sha256` is what `name`, who vouches for it, says that it is; "" where nobody does."""

    kind: Literal["shipped", "pinned", "repository", "compiled", "leftover"]
    name: str
    path: Path
    sha256: str = ""

    @property
    def size_bytes(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(path.stat().st_size for path in files if path.is_file())

    def fault(self) -> str:
        """Why these bytes must not be loaded, hashed anew, or ""."""
        if self.kind == "compiled":
            return compiled.fault(self.path, use_stamps=False)
        try:
            digest = sha256_of(self.path, use_stamps=False)
        except OSError as error:
            return error.strerror or str(error)
        if not self.sha256:
            return "nobody vouches for it"
        return "" if digest == self.sha256 else f"sha256 {digest} instead of {self.sha256}"


def inventory() -> list[Item]:
    return [*_shipped(), *_stored(), *_repositories(), *_compiled()]


def _shipped() -> Iterator[Item]:
    """The manifests of the core and of plugins."""
    for home in collections().values():
        vouched = {path.name: ("", "") for path in home.weights.glob("*.safetensors")}
        for path in home.weights.glob("*.json"):
            with contextlib.suppress(ProblemsError):
                manifest = read_manifest(path)
                vouched[manifest.source.partition(":")[2]] = (home.full(home.short(manifest.name)), manifest.sha256)
        for file, (name, sha256) in sorted(vouched.items()):
            yield Item("shipped", name, home.weights / file, sha256)


def _stored() -> Iterator[Item]:
    entries = [*locks.pins().values(), *locks.entries().values()]
    names = {file.sha256: entry.name for entry in entries for file in entry.files}
    for path in sorted(store.folder().glob("*")):
        name = names.get(path.stem, "")
        yield Item("pinned", name, path, path.stem) if name else Item("leftover", "", path)


def _compiled() -> Iterator[Item]:
    for place, label in compiled.entries():
        yield Item("compiled", label, place) if label else Item("leftover", "", place)


def _repositories() -> Iterator[Item]:
    """What vouches for a repository: a project's lock alone, or without one the record of the repository for its weights."""
    from zoo.artifacts.client import client

    cache = Path(client().constants.HF_HUB_CACHE)
    for record in sorted(cache.glob(f"models--*/snapshots/*/{RECORD}")):
        repo = record.parents[2].name.removeprefix("models--").replace("--", "/", 1)
        name, commit = f"hub:{repo}", record.parent.name
        promised = _promised(locks.entries().get(name), commit) if locks.project_lock() else _own_promise(record)
        for file in (RECORD, WEIGHTS):
            if (record.parent / file).exists():
                yield Item("repository", f"{name}@{commit[:12]}", record.parent / file, promised.get(file, ""))
    for path in sorted(cache.glob("models--*/blobs/*.quarantine-*")):
        yield Item("leftover", "", path)


def _promised(entry: locks.Locked | None, commit: str) -> dict[str, str]:
    return {file.name: file.sha256 for file in entry.files} if entry and entry.revision == commit else {}


def _own_promise(record: Path) -> dict[str, str]:
    """What a repository says of its weights; nobody but a lock can say it of the record itself, so that counts as it is."""
    try:
        manifest = manifest_from(parse_json(record.read_bytes())["manifest"], str(record))
        return {RECORD: sha256_of(record, use_stamps=False), WEIGHTS: manifest.sha256}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # a WeightsError is a ValueError


def prune(dry: bool = False) -> list[Item]:
    """Deletes what is left over, but no draft so young that a process may still be writing it. Returns what went, or would go."""
    leftovers = []
    for item in inventory():
        drafted = item.path.name.startswith(".")
        if item.kind != "leftover" or (drafted and time.time() - item.path.stat().st_mtime < 60 * MINUTES):
            continue
        if not dry and item.path.parent == compiled.folder():
            if not compiled.remove(item.path):  # a process is making it
                continue
        elif not dry:
            shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink()
        leftovers.append(item)
    return leftovers
