"""`zoo.load_deployed`: a folder that `deployed.save` wrote, opened on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from zoo.artifacts import compiled
from zoo.errors import InputError, Problem
from zoo.runtimes import registered
from zoo.runtimes.deployed import Deployed
from zoo.runtimes.identity import key_of_folder
from zoo.runtimes.narrowed import narrows
from zoo.runtimes.protocol import Runtime, Session
from zoo.runtimes.record import RECORD, REPORT, DeployedRecord, record_of
from zoo.runtimes.report import report_from
from zoo.runtimes.saving import marker_of
from zoo.system.folders import at_home
from zoo.system.strict_json import parse_json


def load_deployed(folder: str | os.PathLike[str], *, threads: int | None = None, trust: bool = False) -> Deployed:
    """The deployed model of a folder that `deployed.save(folder)` wrote, here or on another machine.

    Every file is hashed first. A CPU without the instructions that it was built for is refused, before anything is loaded. What another
    version of the runtime wrote is made again of the portable file beside it. threads: another number than it was deployed with.
    trust: opens a folder that holds machine code (runtime `aot`), or a program of torch, though it was not made by you here: it may do
    whatever its maker wished. Raises InputError.
    """
    place = at_home(folder)
    record = record_of(place)
    if threads is not None and not (type(threads) is int and threads >= 1):
        raise InputError("load_deployed", Problem("threads", "a number >= 1", repr(threads)))
    problem = record.needs.problem(record.runtime)
    if problem is not None:
        raise InputError(str(place), problem)
    runtime = registered.runtime(record.runtime)
    _refuse_precision(place, record, runtime)
    _refuse_code(place, record, runtime, trust)
    count = threads or record.threads
    same = record.version == runtime.version() and (count == record.threads or not _is_code(record, runtime))
    if same:
        session, home = runtime.open(place, record.signature, record.precision, count), place
    else:
        session, home = _made_again(place, record, runtime, count)
    return Deployed(session, runtime, record.precision, count, record.about, home, _report(place))


def _made_again(place: Path, record: DeployedRecord, runtime: Runtime, threads: int) -> tuple[Session, Path]:
    """A session made anew of the portable files, and its place among the compiled nets: the folder of the user stays as it is."""
    key = key_of_folder((place / RECORD).read_bytes(), runtime, threads)

    def make(home: Path) -> Session:
        for name in record.files:
            shutil.copyfile(place / name, home / name)
        return runtime.remake(home, record.signature, record.precision, threads)

    def open(home: Path) -> Session:
        return runtime.open(home, record.signature, record.precision, threads)

    return compiled.obtain(
        key, f"{record.about.name} in {runtime.name}, {record.precision}", make, open
    ), compiled.folder() / key


def _is_code(record: DeployedRecord, runtime: Runtime) -> bool:
    return record.is_code or bool(getattr(runtime, "holds_code", False))


def _refuse_precision(place: Path, record: DeployedRecord, runtime: Runtime) -> None:
    """Raises InputError where the runtime would only pretend to compute in this precision here; int8 runs everywhere."""
    able = runtime.precisions()
    if record.precision not in (*able, "int8") and not narrows(runtime.name, record.signature.kind, record.precision):
        step = "deploy the model on this machine"
        expected = f"a machine on which {runtime.name} computes in {record.precision}"
        raise InputError(str(place), Problem("precision", expected, f"one for {', '.join(able)}", next=step))


def _refuse_code(place: Path, record: DeployedRecord, runtime: Runtime, trust: bool) -> None:
    """Raises InputError for a folder whose opening runs code of it, unless this user made it here."""
    runs = _is_code(record, runtime) or any(name.endswith(".pt2") for name in _opened(place, record))
    if runs and not trust and not marker_of((place / RECORD).read_bytes()).exists():
        step = "if you trust its maker, zoo.load_deployed(folder, trust=True)"
        raise InputError(
            str(place),
            Problem(record.runtime, "a folder that you made on this machine", "one that holds a program", next=step),
        )


def _opened(place: Path, record: DeployedRecord) -> list[str]:
    """The files that are opened: where the net itself is, its program is for `run.py` alone."""
    return [name for name in record.files if not (name == "program.pt2" and "net.json" in record.files)]


def _report(place: Path) -> Any:
    """What was written beside the record; it decides nothing, so a damaged one is none."""
    try:
        plain = parse_json((place / REPORT).read_bytes())
        return None if plain is None else report_from(plain, str(place / REPORT))
    except (OSError, ValueError):  # an InputError is one
        return None
