"""Weights for machines without the Hub: a plain folder with everything that a lock names, also usable over http.

The folder holds each model's files under its name, `zoo.lock`, LICENCES.md, a card for each model, and SHA256SUMS, which
`sha256sum -c` checks. `ZOO_MIRROR`, a path or an address, is asked by sha256: what it answers is hashed before it is used.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from zoo.artifacts.client import bare, offline
from zoo.artifacts.download import PIECE, download
from zoo.artifacts.lockfile import File
from zoo.errors import InputError, Problem
from zoo.system.folders import at_home, replacing
from zoo.weights.manifest_rules import path_fault
from zoo.weights.verify import sha256_of

SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 2**24


def address() -> str:
    """The mirror in use, a path or an http address, or ""."""
    return os.environ.get("ZOO_MIRROR", "")


def shown_address() -> str:
    """The same, as it may stand in a sentence: without user and password."""
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
        _copy_bounded(at_home(where) / name, target, max_bytes)
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
