"""Compiled nets on this machine, each a folder under the hash of all that it was made of: made once, opened by every process after that.

A folder counts when its `entry.json` is there, which is written last: what a process that died left behind is made anew. One process at a
time makes a folder, others wait for it. Above a limit the folders that were used longest ago go. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from filelock import FileLock, Timeout

from zoo.errors import InputError, Problem
from zoo.system.folders import data_path, write_whole
from zoo.weights.verify import sha256_of

T = TypeVar("T")

ENTRY = "entry.json"
KEY = re.compile(r"[0-9a-f]{64}")
GB = 1e9
MOST_GB = 4.0
"""The most gigabytes of all folders together, unless $ZOO_COMPILED_GB says otherwise."""
SCARCE_BYTES = 2**26
"""Free bytes below which a disk is called full."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder is, for people, and the sha256 of each of its files."""

    label: str
    files: dict[str, str]


def folder() -> Path:
    return data_path() / "compiled"


def obtain(key: str, label: str, make: Callable[[Path], T], open: Callable[[Path], T]) -> T:
    """What `open` makes of the folder of this key; where there is none, or a damaged one, what `make` makes while it fills an empty one.

    Raises InputError, also for a disk that is full, and whatever `make` raises; there is no folder then."""
    place = folder() / key
    with _locked(key):
        if fault(place) == "":
            with contextlib.suppress(InputError):  # of another version of the runtime's own files, say: made anew
                value = open(place)
                os.utime(place / ENTRY)
                return value
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            value = make(place)
            _enter(place, label)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, Exception) and (refusal := _of_the_disk(error)):
                raise refusal from error
            raise
    trim(keep=key)
    return value


def fault(place: Path, use_stamps: bool = True) -> str:
    """Why the files of a folder must not be opened, or ""."""
    try:
        entry = msgspec.json.decode((place / ENTRY).read_bytes(), type=Entry)
        for name, digest in entry.files.items():
            if os.path.basename(name) != name or sha256_of(place / name, use_stamps) != digest:
                return f"{name[:100]} is not what was compiled"
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    except (msgspec.DecodeError, ValueError) as error:
        return f"its {ENTRY} cannot be read ({error})"
    return ""


def entries() -> Iterator[tuple[Path, str]]:
    """(folder, label) of all that are whole, as far as their entry says, and ("") of what is left over of those that are not."""
    for place in sorted(folder().glob("*")):
        if KEY.fullmatch(place.name) and place.is_dir():
            label = ""
            with contextlib.suppress(OSError, msgspec.DecodeError):
                label = msgspec.json.decode((place / ENTRY).read_bytes(), type=Entry).label
            yield place, label


def clear() -> list[Path]:
    """Removes every folder that no process is making just now. Returns those that went."""
    return [place for place, _ in list(entries()) if remove(place)]


def trim(keep: str = "") -> list[Path]:
    """Removes the folders that were used longest ago until the rest is within the limit, never `keep`. Returns those that went."""
    used = sorted((_used(place), size_of(place), place) for place, label in entries() if label)
    total, gone = sum(size for _, size, _ in used), []
    for _, size, place in used:
        if total <= limit():
            break
        if place.name != keep and remove(place):
            total -= size
            gone.append(place)
    return gone


def limit() -> float:
    """Bytes. Raises InputError for a setting that is no number."""
    text = os.environ.get("ZOO_COMPILED_GB", str(MOST_GB))
    try:
        return max(float(text), 0.0) * GB
    except ValueError:
        raise InputError("ZOO_COMPILED_GB", Problem("", "a number of gigabytes", f"`{text[:40]}`")) from None


def size_of(place: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return 0


def _used(place: Path) -> float:
    try:
        return (place / ENTRY).stat().st_mtime
    except OSError:  # another process has just removed it
        return 0.0


def _enter(place: Path, label: str) -> None:
    files = {path.name: sha256_of(path) for path in sorted(place.iterdir()) if path.is_file()}
    write_whole(place / ENTRY, msgspec.json.encode(Entry(label, files)))


def remove(place: Path) -> bool:
    """Removes one folder; False where a process is making it."""
    try:
        with _locked(place.name, 0.0):
            (place / ENTRY).unlink(missing_ok=True)  # first: half a folder must not count
            shutil.rmtree(place, ignore_errors=True)
            return True
    except InputError:
        return False


@contextlib.contextmanager
def _locked(key: str, timeout: float = 3600.0) -> Iterator[None]:
    """Raises InputError where another process holds the folder for so long, and where there can be no folder."""
    locks = folder() / ".locks"
    lock = FileLock(locks / f"{key}.lock", timeout=timeout)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        problem = Problem("", "a folder that no other process is making", f"one that is held for {timeout:g} s")
        raise InputError(str(folder() / key), problem) from None
    except OSError as error:
        step = "set ZOO_DATA to a folder of yours"
        problem = Problem("", "a folder for compiled nets", error.strerror or str(error), next=step)
        raise InputError(str(folder()), problem) from None
    try:
        yield
    finally:
        lock.release()


def _of_the_disk(error: Exception) -> InputError | None:
    """The sentence of a disk that is full, which runtimes say in their own ways; None where it is not."""
    try:
        free = shutil.disk_usage(data_path()).free
    except OSError:
        return None
    if free > SCARCE_BYTES and not (isinstance(error, OSError) and error.errno in FULL):
        return None
    step = "make room (`zoo cache clear` removes compiled nets), or set ZOO_DATA to a folder elsewhere"
    return InputError("deploy", Problem(str(folder()), "room on the disk", f"{free:,} bytes free", next=step))


FULL = (28, 122)
"""ENOSPC and EDQUOT."""
