"""`zoo mirror`: a plain folder with everything that a lock names, also usable over http, as `ZOO_MIRROR` on machines without the Hub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from zoo import catalog
from zoo.artifacts import store
from zoo.artifacts.client import Reference, fetch
from zoo.artifacts.lockfile import File, Locked, read_lock
from zoo.artifacts.mirrors import SUMS
from zoo.errors import InputError, Problem
from zoo.system.folders import replacing, write_whole
from zoo.weights.verify import sha256_of


def mirror(lock: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Copies all bytes that a lock names into a folder, with SHA256SUMS, licences and cards; what is there already stays.

    Returns the files. Raises InputError, and WeightsError where bytes are not at hand or are not those of the lock."""
    target, written = Path(folder), []
    entries = read_lock(Path(lock))
    for entry in entries.values():
        for file in entry.files:
            path = target / _folder_of(entry) / Path(file.name).name
            if not (path.exists() and sha256_of(path, use_stamps=False) == file.sha256):
                _copy(place_of(entry, file), path, file)
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


def place_of(entry: Locked, file: File) -> Path:
    """Where the bytes of a locked file lie on this machine. Raises WeightsError and what fetching raises."""
    if entry.source.startswith("embedded:"):
        return catalog.home_of(entry.name).weights / file.name
    if entry.name.startswith("hub:"):
        if store.place(file).exists():
            return store.place(file)
        return fetch(Reference(entry.name.removeprefix("hub:"), entry.revision), file.name, max_bytes=file.size_bytes)
    return store.obtain(file, entry.name, f"`zoo pin {entry.name}`")


def _copy(blob: Path, target: Path, file: File) -> None:
    if sha256_of(blob, use_stamps=False) != file.sha256:
        raise InputError("mirror", Problem(str(blob), f"sha256 {file.sha256}", "other bytes", next="`zoo pin` again"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft:
            shutil.copyfile(blob, draft)
    except OSError as error:
        raise InputError("mirror", Problem(str(target), "a place to write to", error.strerror or str(error))) from None


def _folder_of(entry: Locked) -> str:
    return entry.name.replace(":", "--").replace("/", "--")


def _licences(entries: Iterable[Locked]) -> str:
    rows = [f"| {entry.name} | {entry.licence} | {entry.licence_class} | {entry.source} |" for entry in entries]
    return "\n".join(["# Licences", "", "| weights | licence | class | source |", "|---|---|---|---|", *rows, ""])


def _card(entry: Locked) -> str:
    lines = [f"# {entry.name}", "", f"Licence: {entry.licence} ({entry.licence_class})."]
    lines += [f"Source: {entry.source}" + (f" at {entry.revision}." if entry.revision else ".")]
    holders = ", ".join(f"{name} {version}" for name, version in entry.distributions.items())
    lines += [f"Spec: digest {entry.digest}, in {holders}."]
    lines += [f"Converted from {file.name}, sha256 {file.sha256}." for file in entry.published]
    lines += ["", *(f"- {file.name}: {file.size_bytes:,} bytes, sha256 {file.sha256}" for file in entry.files), ""]
    return "\n".join(lines)
