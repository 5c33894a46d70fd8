"""`deployed.json`: what a folder of a deployed model holds, read strictly before anything of it is opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Literal

import msgspec

from zoo.catalog.runtimes import PRECISIONS
from zoo.errors import InputError, Problem, listed
from zoo.runtimes.about import About
from zoo.runtimes.instructions import Needs
from zoo.runtimes.signature import Signature, signature_from
from zoo.system.strict_json import parse_json
from zoo.weights.verify import sha256_of

RECORD, SCRIPT, LICENCE, REPORT = "deployed.json", "run.py", "LICENCE.txt", "report.json"
SIGNATURE = "signature.json"
"""In the folder of a compiled net: what it takes, which may be less than was asked for. A saved folder has it in its record."""
MAX_BYTES = 2**24
"""The most bytes of a record: the names of twenty thousand classes fit."""
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MOST_THREADS = 1024


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    size_bytes: int


class DeployedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`files` are all that a runtime reads, by name; `versions` of what made them; `is_code` where opening them runs code of the folder."""

    schema: Literal["zoo.deployed/1"] = "zoo.deployed/1"
    about: About
    runtime: str
    version: str
    precision: str
    threads: int
    signature: Signature
    needs: Needs = Needs()
    is_code: bool = False
    files: dict[str, File]
    versions: dict[str, str] = {}


def record_of(folder: Path) -> DeployedRecord:
    """The record of a folder, its values checked, its files looked at and hashed. Raises InputError with every problem of a kind."""
    subject = str(folder)
    if not folder.is_dir():
        found = "no such folder" if not folder.exists() else "something else than a folder"
        raise InputError(subject, Problem("", "a folder that `deployed.save(FOLDER)` wrote", found))
    data = _bytes_of(folder / RECORD, subject)
    try:
        plain = parse_json(data)
        record = msgspec.convert(plain, DeployedRecord)
    except msgspec.ValidationError as error:
        raise InputError(subject, Problem(RECORD, "the record of a deployed model", str(error))) from None
    except ValueError as error:
        raise InputError(subject, Problem(RECORD, "strict JSON", str(error))) from None
    signature_from(msgspec.to_builtins(record.signature), f"{subject}: {RECORD}")
    problems = [*_problems(record), *_file_problems(folder, record)]
    if problems:
        raise InputError(subject, problems)
    return record


def _bytes_of(path: Path, subject: str) -> bytes:
    """Raises InputError for what is no plain file, or too large. Opens no pipe."""
    try:
        _refuse_strange(path)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(subject, Problem(path.name, f"at most {MAX_BYTES:,} bytes", f"{size:,}"))
        return path.read_bytes()
    except OSError as error:
        step = "a folder that `deployed.save(FOLDER)` wrote has one"
        raise InputError(subject, Problem(path.name, "a file", error.strerror or str(error), next=step)) from None


def _refuse_strange(path: Path) -> None:
    """Raises OSError for a link, a folder, a pipe: bytes that lie elsewhere, or nowhere."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, "a link" if stat.S_ISLNK(mode) else "something else than a plain file")


def _problems(record: DeployedRecord) -> list[Problem]:
    problems = []
    if record.precision not in PRECISIONS:
        problems.append(Problem("precision", listed(PRECISIONS), f"`{record.precision}`"))
    if not 1 <= record.threads <= MOST_THREADS:
        problems.append(Problem("threads", f"a number in [1, {MOST_THREADS}]", str(record.threads)))
    if not record.files:
        problems.append(Problem("files", "at least one file", "none"))
    return problems


def _file_problems(folder: Path, record: DeployedRecord) -> list[Problem]:
    """What is wrong with the files that a record names: no plain name, no plain file, other bytes."""
    problems = []
    for name, promised in record.files.items():
        if not FILE.fullmatch(name):
            problems.append(Problem("files", "the plain name of a file in this folder", f"`{name[:100]}`"))
            continue
        try:
            _refuse_strange(folder / name)
            size = (folder / name).stat().st_size
            digest = sha256_of(folder / name) if size == promised.size_bytes else ""
        except OSError as error:
            problems.append(Problem(name, "a file of this folder", error.strerror or str(error)))
            continue
        if digest != promised.sha256:
            expected = f"sha256 {promised.sha256[:12]}, {promised.size_bytes:,} bytes"
            found = f"sha256 {digest[:12]}, {size:,} bytes" if digest else f"{size:,} bytes"
            problems.append(Problem(name, expected, found, next="copy the folder once more, or deploy the model anew"))
    return problems


def files_of(folder: Path, names: list[str]) -> dict[str, File]:
    return {name: File(sha256_of(folder / name, use_stamps=False), (folder / name).stat().st_size) for name in names}


def record_json(record: DeployedRecord) -> bytes:
    plain: Any = msgspec.to_builtins(record)
    return msgspec.json.format(msgspec.json.encode(plain), indent=1)
