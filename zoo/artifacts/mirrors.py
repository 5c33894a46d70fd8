"""Weights for machines without the Hub: a plain folder with everything that a lock names, also usable over http.

The folder holds each model's files under its name, `zoo.lock`, LICENCES.md, a card for each model, and SHA256SUMS, which
`sha256sum -c` checks. `ZOO_MIRROR`, a path or an address, is asked by sha256: what it answers is hashed before it is used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from zoo import catalog
from zoo.artifacts.download import PIECE, download
from zoo.artifacts.lockfile import File, Locked, read_lock
from zoo.errors import InputError, Problem
from zoo.system.folders import replacing, write_whole
from zoo.weights.manifest_rules import path_fault
from zoo.weights.verify import sha256_of

SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 2**24


def address() -> str:
    """The mirror in use, a path or an http address, or ""."""
    return os.environ.get("ZOO_MIRROR", "")


def shown_address() -> str:
    """The same, as it may stand in a sentence: without user and password."""
    from zoo.artifacts.client import bare

    return bare(address())


def ask(file: File, target: Path) -> bool:
    """Puts the bytes of a file in place if the mirror has them. Raises InputError for a mirror that cannot be read, or whose bytes
    are not those that it promises."""
    if not address():
        return False
    name = _sums().get(file.sha256)
    if name is None:
        return False
    try:
        with replacing(target) as draft:
            _get(name, draft, file.size_bytes)
            if sha256_of(draft, use_stamps=False) != file.sha256:
                found = f"other bytes, {draft.stat().st_size:,} of them"
                raise InputError(
                    shown_address(), Problem(name, f"sha256 {file.sha256}", found, next="make the mirror anew")
                )
    except OSError as error:
        raise InputError(shown_address(), Problem(name, f"a copy at {target}", error.strerror or str(error))) from None
    return True


def _sums() -> dict[str, str]:
    """{sha256: path below the mirror}."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, SUMS)
        _get(SUMS, copy, MAX_SUMS_BYTES)
        lines = copy.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition("  ") for line in lines)
    return {sha256: name for sha256, _, name in pairs if name and not path_fault(name)}


def _get(name: str, target: Path, max_bytes: int) -> None:
    from zoo.artifacts.client import offline

    where = address()
    if where.startswith(("http://", "https://")):
        if offline():
            problem = Problem(
                name,
                "a mirror that is a folder, because no network is wanted",
                shown_address(),
                next="unset ZOO_OFFLINE",
            )
            raise InputError("ZOO_MIRROR", problem)
        download(f"{where.rstrip('/')}/{quote(name)}", target, max_bytes)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_bounded(Path(where).expanduser() / name, target, max_bytes)
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError("ZOO_MIRROR", Problem(f"{where}: {name}", "a mirror made by `zoo mirror`", found)) from None


def _copy_bounded(source: Path, target: Path, max_bytes: int) -> None:
    """Raises OSError for what is no file, and for one of more bytes."""
    if source.exists() and not source.is_file():  # a pipe would be waited for, a device read for ever
        raise OSError("something else than a file")
    with source.open("rb") as file, target.open("wb") as copy:
        while piece := file.read(PIECE):
            copy.write(piece)
            if copy.tell() > max_bytes:
                raise OSError(f"more than {max_bytes:,} bytes")


def mirror(lock: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Copies all bytes that a lock names into a folder, with SHA256SUMS, licences and cards; what is there already stays.

    Returns the files. Raises InputError, and WeightsError where bytes are not at hand or are not those of the lock."""
    target, written = Path(folder), []
    entries = read_lock(Path(lock))
    for entry in entries.values():
        for file in entry.files:
            path = target / _folder_of(entry) / Path(file.name).name
            if not (path.exists() and sha256_of(path, use_stamps=False) == file.sha256):
                _copy(source_of(entry, file), path, file)
            written.append(path)
        card = target / _folder_of(entry) / "card.md"
        write_whole(card, _card(entry).encode())
        written.append(card)
    texts = {"LICENCES.md": _licences(entries.values()).encode(), "zoo.lock": Path(lock).read_bytes()}
    for name, data in texts.items():
        write_whole(target / name, data)
        written.append(target / name)
    sums = [f"{sha256_of(path, use_stamps=False)}  {path.relative_to(target).as_posix()}" for path in written]
    write_whole(target / SUMS, ("\n".join(sorted(sums, key=lambda line: line[66:])) + "\n").encode())
    return [*written, target / SUMS]


def source_of(entry: Locked, file: File) -> Path:
    """Where the bytes of a locked file lie on this machine. Raises WeightsError and what fetching raises."""
    from zoo.artifacts import store
    from zoo.artifacts.client import Reference, fetch

    if entry.source.startswith("embedded:"):
        return catalog.home_of(entry.name).weights / file.name
    if entry.name.startswith("hub:"):
        if store.place(file).exists():
            return store.place(file)
        return fetch(Reference(entry.name.removeprefix("hub:"), entry.revision), file.name, max_bytes=file.size_bytes)
    return store.obtain(file, entry.name, f"`zoo pin {entry.name}`")


def _copy(source: Path, target: Path, file: File) -> None:
    if sha256_of(source, use_stamps=False) != file.sha256:
        raise InputError("mirror", Problem(str(source), f"sha256 {file.sha256}", "other bytes", next="`zoo pin` again"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft:
            shutil.copyfile(source, draft)
    except OSError as error:
        raise InputError("mirror", Problem(str(target), "a place to write to", error.strerror or str(error))) from None


def _folder_of(entry: Locked) -> str:
    return entry.name.replace(":", "--").replace("/", "--")


def _licences(entries: Iterable[Locked]) -> str:
    rows = [f"| {one.name} | {one.licence} | {one.licence_class} | {one.source} |" for one in entries]
    return "\n".join(["# Licences", "", "| weights | licence | class | source |", "|---|---|---|---|", *rows, ""])


def _card(entry: Locked) -> str:
    lines = [f"# {entry.name}", "", f"Licence: {entry.licence} ({entry.licence_class})."]
    lines += [f"Source: {entry.source}" + (f" at {entry.revision}." if entry.revision else ".")]
    holders = ", ".join(f"{name} {version}" for name, version in entry.distributions.items())
    lines += [f"Spec: digest {entry.digest}, in {holders}."]
    lines += [f"Converted from {file.name}, sha256 {file.sha256}." for file in entry.published]
    lines += ["", *(f"- {file.name}: {file.size_bytes:,} bytes, sha256 {file.sha256}" for file in entry.files), ""]
    return "\n".join(lines)
