"""The zoo's own store of pinned weights, under the sha256 of each: what is not there is asked of the mirror."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from zoo.artifacts import mirrors
from zoo.artifacts.lockfile import File
from zoo.errors import InputError, Problem
from zoo.system.folders import data_path
from zoo.weights.errors import refuse_file
from zoo.weights.verify import sha256_of


def folder() -> Path:
    return data_path() / "weights"


def made_folder() -> Path:
    """Raises InputError where none can be made."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = Problem("", "a folder for weights", error.strerror or str(error), next="set ZOO_DATA to one of yours")
        raise InputError(str(folder()), problem) from None
    return folder()


def place(file: File) -> Path:
    """The suffix stays, for it says what may be done with the bytes."""
    return folder() / f"{file.sha256}{Path(file.name).suffix}"


def take(path: Path) -> File:
    """Moves a file of the store's own disk into its place. Raises OSError."""
    file = File.of(path, "model.safetensors", anew=True)
    os.replace(path, place(file))
    return file


def has(file: File) -> bool:
    """Whether the bytes are here, now that the mirror was asked. Raises InputError for a mirror that fails."""
    return place(file).exists() or mirrors.ask(file, place(file))


def obtain(file: File, subject: str, next: str = "") -> Path:
    """The bytes, from the store or from the mirror. Raises WeightsError where neither has them, InputError for a mirror that fails."""
    if has(file):
        return place(file)
    where = f"sha256 {file.sha256}"
    expected = f"these bytes in {folder()}" + (f" or in {mirrors.shown_address()}" if mirrors.address() else "")
    raise refuse_file(f"{subject}: the bytes are not at hand; nothing was loaded", where, expected, "none", next)


def set_aside(path: Path) -> None:
    """Renames a file whose bytes are not the promised ones, here or in the Hub's cache, so that nobody loads it again.

    A link that leads out of its cache is removed, and what it leads to is left alone. What cannot be renamed stays as it is."""
    blob = path.resolve()
    home = next((parent.parent / "blobs" for parent in path.parents if parent.name == "snapshots"), path.parent)
    with contextlib.suppress(OSError):
        if blob.parent == home.resolve() or not path.is_symlink():
            os.replace(blob, blob.with_name(f"{blob.name}.quarantine-{sha256_of(blob, use_stamps=False)[:12]}"))
        path.unlink(missing_ok=True)
