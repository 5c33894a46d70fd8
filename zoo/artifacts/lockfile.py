"""What is pinned: for each name the spec, the commit and the bytes, in the user's own pins and in a project's `zoo.lock`.

`zoo pin` writes the user's pins, one small file each, so that two processes never rewrite each other's. `zoo lock` writes a project's
`zoo.lock`: `$ZOO_LOCK`, else the file of that name in the working folder or in the mirror. Where both know a name, the project's holds.
`ZOO_LOCKED=1` refuses all bytes that are in neither; with a project's lock, all that are not in that one. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from blocks.registry import plugins
from blocks.registry.words import DISTRIBUTION, LONGEST_NAME, LONGEST_PART, is_name, is_text, printable
from zoo import catalog
from zoo.errors import InputError, Problem, WeightsError
from zoo.system.folders import at_home, data_path, write_whole
from zoo.system.strict_json import parse_json
from zoo.weights.manifest_rules import path_fault
from zoo.weights.verify import sha256_of

SCHEMA: Literal["zoo.lock/1"] = "zoo.lock/1"
MAX_LOCK_BYTES = 2**24
REFERENCE = re.compile(r"hub:[\w.-]+/[\w.-]+")

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0)]


class File(msgspec.Struct, frozen=True):
    name: str
    sha256: Sha256
    size_bytes: Size

    @classmethod
    def of(cls, path: Path, name: str = "", anew: bool = False) -> File:
        """The facts of a file, hashed `anew` or as its stamp remembers. Raises OSError."""
        return cls(name or path.name, sha256_of(path, use_stamps=not anew), path.stat().st_size)


class Proof(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That weights were judged here: `correct` of `n` pictures of the data set whose names, classes and bytes have the sha256 `data`.
    `claimed` is what their publishers print, `reproduced` whether that lies in the 95 % interval of what was measured."""

    metric: str
    value: float
    n: Size
    correct: Size
    ci95: tuple[float, float]
    data: Sha256
    claimed: float | None = None
    reproduced: bool | None = None
    date: str


class Locked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One name: `starnet_s1.in1k`, or `hub:org/repo`. `files` are the bytes that `zoo.create` reads, `published` those at the `source`
    where they had to be converted; `distributions` are the packages that hold the spec and its blocks, with their versions; `proofs` are
    figures that `zoo pin --prove` measured."""

    name: str
    digest: Sha256
    source: str
    revision: str = ""
    licence: str
    licence_class: str = "unknown"
    distributions: dict[str, str] = {}
    files: tuple[File, ...]
    published: tuple[File, ...] = ()
    proofs: tuple[Proof, ...] = ()


class Lock(msgspec.Struct, frozen=True):
    """The content of a `zoo.lock`."""

    models: list[Locked]
    schema: Literal["zoo.lock/1"] = SCHEMA


def distributions(names: Iterable[str]) -> dict[str, str]:
    """{distribution: version} of this package, and of the plugins that own some of these models and blocks."""
    from zoo import __version__

    namespaces = {name.rpartition("/")[0] for name in names} - {"", *plugins.RESERVED}
    owners = [plugins.owner_of(namespace) for namespace in sorted(namespaces)]
    return {"blockzoo": __version__} | {owner.name: owner.version for owner in owners if owner}


def pins_folder() -> Path:
    return data_path() / "pins"


def pins() -> dict[str, Locked]:
    """The user's pins, by name. A file that is none of ours is passed over: `zoo audit` names it."""
    rows = (read_pin(path) for path in sorted(pins_folder().glob("*.json")))
    return {entry.name: entry for entry in rows if entry is not None}


def read_pin(path: Path) -> Locked | None:
    """None for a file that is no pin of ours."""
    try:
        with path.open("rb") as file:
            entry = msgspec.convert(parse_json(file.read(MAX_LOCK_BYTES)), Locked)
    except (OSError, ValueError, RecursionError):
        return None
    return None if any(_problems(entry)) else entry


def save_pin(entry: Locked) -> Path:
    """Raises InputError where nothing can be written."""
    path = pins_folder() / f"{entry.name.replace('/', '--').replace(':', '--')}.json"
    write_whole(path, msgspec.json.format(msgspec.json.encode(entry), indent=1))
    return path


def project_lock() -> Path | None:
    """`$ZOO_LOCK`, else the first `zoo.lock` that there is: in the working folder, in the mirror if that is a folder."""
    if chosen := os.environ.get("ZOO_LOCK"):
        return at_home(chosen)
    places = [Path("zoo.lock"), at_home(os.environ.get("ZOO_MIRROR", ".")) / "zoo.lock"]
    return next((path for path in places if path.is_file()), None)


def read_lock(path: str | Path) -> dict[str, Locked]:
    """What is locked, by name. Raises InputError for a file that cannot be read or is no lock."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_LOCK_BYTES + 1)
        if len(data) > MAX_LOCK_BYTES:
            raise msgspec.ValidationError(f"more than {MAX_LOCK_BYTES:,} bytes")
        models = msgspec.convert(parse_json(data), Lock).models
    except OSError as error:
        raise InputError(str(path), Problem("", "a lock that can be read", error.strerror or str(error))) from None
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), Problem("", f"a lock of the schema {SCHEMA}", str(error))) from None
    names = Counter(entry.name for entry in models)
    problems = [Problem(name, "each name once", "the name twice") for name, count in names.items() if count > 1]
    problems += [problem for entry in models for problem in _problems(entry)]
    if problems:
        raise InputError(str(path), problems)
    return {entry.name: entry for entry in models}


def _problems(entry: Locked) -> Iterator[Problem]:
    """What of an entry is no name, no text that can be shown, or the name of a file that leads elsewhere."""
    if (
        not (REFERENCE.fullmatch(entry.name) or catalog.NAME.fullmatch(entry.name))
        or len(entry.name) > 2 * LONGEST_NAME
    ):
        yield Problem(entry.name, "a model, with its tag, or hub:org/repo", "another name")
    for text in (entry.source, entry.revision, entry.licence, entry.licence_class):
        if not is_text(text, LONGEST_PART):
            yield Problem(entry.name, "texts that can be seen", text)
    for name, version in entry.distributions.items():
        if not (is_name(name, DISTRIBUTION) and is_text(version, LONGEST_NAME)):
            yield Problem(entry.name, "distributions and their versions", f"{name} {version}")
    for file in entry.files:
        if fault := path_fault(file.name):
            yield Problem(file.name, "the name of a file", fault)
    for proof in entry.proofs:
        if not (is_text(proof.metric, LONGEST_NAME) and is_text(proof.date, LONGEST_NAME)):
            yield Problem(entry.name, "proofs with texts that can be seen", printable(proof.metric, LONGEST_NAME))
    if not entry.files:
        yield Problem(entry.name, "at least one file", "none")


def write_lock(entries: Iterable[Locked], path: str | Path) -> None:
    """The same entries give the same bytes. Raises InputError."""
    data = msgspec.json.encode(Lock(sorted(entries, key=lambda entry: entry.name)))
    write_whole(Path(path), msgspec.json.format(data, indent=1) + b"\n")


def entries() -> dict[str, Locked]:
    """Everything that is locked or pinned for this process, by name. Raises InputError for a project's lock that is none."""
    path = project_lock()
    project = read_lock(path) if path else {}
    return project if path and locked_only() else {**pins(), **project}


def locked_only() -> bool:
    return os.environ.get("ZOO_LOCKED", "").lower() in ("1", "true", "yes", "on")


def allow(sha256: str, subject: str) -> None:
    """Returns unless `ZOO_LOCKED=1` and the lock does not name these bytes. Raises WeightsError."""
    if not locked_only():
        return
    names = [entry.name for entry in entries().values() for file in entry.files if file.sha256 == sha256]
    if not names:
        where = project_lock() or pins_folder()
        problem = Problem("", f"bytes that {where} names, because ZOO_LOCKED is set", f"sha256 {sha256 or 'unknown'}")
        raise WeightsError(
            subject, problem._replace(next="`zoo lock` writes the lock; unset ZOO_LOCKED to load anything")
        )
