"""The measurements of this machine: one SQLite file in the user's data folder, written by any number of processes.

Rows are content-addressed, so merging is idempotent and its order is nothing. A file that is damaged or not ours is renamed, with
a sentence, and never written to. Rows that ship with the package are read beside the user's own.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from filelock import FileLock

from zoo.collection import collections
from zoo.errors import InputError, Problem
from zoo.folders import data_folder, write_whole
from zoo.measure.device import Device
from zoo.measure.latency import Latency, Sample

log = logging.getLogger("zoo")

SHIPPED = "latency.jsonl"
APPLICATION = 0x7A6F6F31
"""SQLite's own field for whose file it is: "zoo1"."""
MIGRATIONS = (
    """
    CREATE TABLE devices (id TEXT PRIMARY KEY, facts BLOB NOT NULL);
    CREATE TABLE rows (id TEXT PRIMARY KEY, device TEXT NOT NULL, digest TEXT NOT NULL, date TEXT NOT NULL, row BLOB NOT NULL);
    CREATE INDEX rows_of ON rows (device, digest);
    CREATE TABLE samples (job TEXT, process INTEGER, sample BLOB NOT NULL, PRIMARY KEY (job, process));
    CREATE TABLE pieces (device TEXT, runtime TEXT, piece TEXT, ms REAL NOT NULL, PRIMARY KEY (device, runtime, piece));
    CREATE TABLE machines (start TEXT PRIMARY KEY, device TEXT NOT NULL);
    CREATE TABLE calibrations (device TEXT, runtime TEXT, data BLOB NOT NULL, PRIMARY KEY (device, runtime));
    """,
    """
    CREATE TABLE looks (device TEXT, runtime TEXT, piece TEXT, ms REAL NOT NULL);
    CREATE INDEX looks_of ON looks (device, runtime);
    INSERT INTO looks SELECT device, runtime, piece, ms FROM pieces;
    DROP TABLE pieces;
    """,
)
"""Step i brings a file of version i to version i + 1. A published step is never changed."""


class Store:
    """Open it with `with`. Raises InputError where the folder cannot be written."""

    def __init__(self, path: Path | None = None):
        self.path = path or data_folder() / "measurements.sqlite"
        self._db = _opened(self.path)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    # devices

    def devices(self) -> list[Device]:
        """All that rows may name, the shipped ones included."""
        own = [msgspec.json.decode(facts, type=Device) for (facts,) in self._db.execute("SELECT facts FROM devices")]
        shipped = [device for device in shipped_devices() if device not in own]
        return own + shipped

    def add_device(self, device: Device) -> None:
        self._write("INSERT OR IGNORE INTO devices VALUES (?, ?)", [(device.id, msgspec.json.encode(device))])

    def remember(self, start: str, device: str) -> None:
        """That the machine which was started under this word is that device."""
        if start:
            self._write("INSERT OR REPLACE INTO machines VALUES (?, ?)", [(start, device)])

    def recall(self, start: str) -> str:
        found = self._db.execute("SELECT device FROM machines WHERE start = ?", (start,)).fetchone()
        return found[0] if found and start else ""

    # rows

    def add(self, rows: Iterable[Latency]) -> int:
        """Enters the rows that are not there yet; returns how many those were."""
        before = self._db.total_changes
        data = [(row.id, row.device, row.digest, row.date, msgspec.json.encode(row)) for row in rows]
        self._write("INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?)", data)
        return self._db.total_changes - before

    def rows(self, shipped: bool = True, **wanted: Any) -> list[Latency]:
        """Rows, the oldest first; `wanted` are values of a row's or its runtime's fields: `device=`, `threads=`, `verdict=`."""
        found = {row.id: row for row in shipped_rows()} if shipped else {}
        query = "SELECT row FROM rows" + (" WHERE device = ?" if "device" in wanted else "")
        given = (wanted["device"],) if "device" in wanted else ()
        for (data,) in self._db.execute(query, given):
            row = msgspec.json.decode(data, type=Latency)
            found[row.id] = row
        kept = [row for row in found.values() if all(_value(row, name) == value for name, value in wanted.items())]
        return sorted(kept, key=lambda row: (row.date, row.id))

    # samples of a run that is under way

    def add_sample(self, job: str, process: int, sample: Sample) -> None:
        self._write("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", [(job, process, msgspec.json.encode(sample))])

    def samples(self, job: str) -> dict[int, Sample]:
        found = self._db.execute("SELECT process, sample FROM samples WHERE job = ? ORDER BY process", (job,))
        return {process: msgspec.json.decode(data, type=Sample) for process, data in found}

    def forget_samples(self, job: str) -> None:
        self._write("DELETE FROM samples WHERE job = ?", [(job,)])

    # what `zoo calibrate` knows

    def looks(self, device: str, runtime: str) -> dict[str, list[float]]:
        """Milliseconds of every piece, as often as it was timed."""
        query = "SELECT piece, ms FROM looks WHERE device = ? AND runtime = ?"
        found: dict[str, list[float]] = {}
        for piece, ms in self._db.execute(query, (device, runtime)):
            found.setdefault(piece, []).append(ms)
        return found

    def pieces(self, device: str, runtime: str) -> dict[str, float]:
        """The median of each piece's looks."""
        return {piece: statistics.median(looks) for piece, looks in self.looks(device, runtime).items()}

    def add_looks(self, device: str, runtime: str, times: dict[str, float]) -> None:
        rows = [(device, runtime, piece, ms) for piece, ms in times.items()]
        self._write("INSERT INTO looks VALUES (?, ?, ?, ?)", rows)

    def calibration(self, device: str, runtime: str) -> bytes | None:
        query = "SELECT data FROM calibrations WHERE device = ? AND runtime = ?"
        found = self._db.execute(query, (device, runtime)).fetchone()
        return found[0] if found else None

    def set_calibration(self, device: str, runtime: str, data: bytes) -> None:
        self._write("INSERT OR REPLACE INTO calibrations VALUES (?, ?, ?)", [(device, runtime, data)])

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._db:  # one transaction: whole or not at all
                self._db.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise InputError(
                "a measurement cannot be stored", Problem(str(self.path), "room to write", str(error))
            ) from None


def export_rows(rows: Iterable[Latency], devices: Iterable[Device], path: Path) -> None:
    """JSON lines: the devices, then the rows, each with its kind. Whole or not at all."""
    lines = [{"device": device} for device in sorted(devices, key=lambda device: device.id)]
    order = sorted(rows, key=lambda row: (row.model, row.form, row.device, row.runtime.key, row.date))
    text = b"\n".join(msgspec.json.encode(line) for line in [*lines, *({"row": row} for row in order)])
    write_whole(path, text + b"\n")


class _Line(msgspec.Struct):
    device: Device | None = None
    row: Latency | None = None


def read_rows(path: Path) -> tuple[list[Device], list[Latency]]:
    """What `export_rows` wrote. Raises InputError naming every line that is neither a device nor a row."""
    devices, rows, problems = [], [], []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(str(path), Problem("", "a file of measurements", error.strerror or str(error))) from None
    for number, line in enumerate(lines, 1):
        try:
            found = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            problems.append(Problem(f"line {number}", "a device or a row of `zoo.latency/1`", str(error)))
            continue
        devices += [found.device] if found.device else []
        rows += [found.row] if found.row else []
    if problems:
        raise InputError(str(path), problems)
    return devices, rows


def import_rows(store: Store, path: Path) -> int:
    """Enters foreign rows, each with the file it came from as its origin; returns how many were new."""
    devices, rows = read_rows(path)
    for device in devices:
        store.add_device(device)
    return store.add(msgspec.structs.replace(row, origin=row.origin or path.name) for row in rows)


def shipped_rows() -> list[Latency]:
    """The rows that came with the collections."""
    return [row for path in _shipped() for row in read_rows(path)[1]]


def shipped_devices() -> list[Device]:
    return list({device.id: device for path in _shipped() for device in read_rows(path)[0]}.values())


def _shipped() -> list[Path]:
    paths = [collection.data / SHIPPED for collection in collections().values()]
    return [path for path in paths if path.is_file()]


def newest(rows: Iterable[Latency]) -> Iterator[Latency]:
    """Of rows of the same model, form, device and runtime the last clean one, or the last."""
    best: dict[tuple[str, ...], Latency] = {}
    for row in sorted(rows, key=lambda row: (row.verdict == "clean", row.date)):
        best[row.digest, row.form, row.device, row.runtime.key] = row
    yield from best.values()


def _value(row: Latency, name: str) -> Any:
    return getattr(row if hasattr(row, name) else row.runtime, name)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        _refuse_good(path, error)
    with FileLock(path.with_name(f"{path.name}.lock")):  # of several processes that find a bad file, one sets it aside
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            _refuse_good(path, error)
            aside = path.with_name(f"{path.name}.set-aside-{int(time.time())}")
            os.replace(path, aside)
            log.warning("%s is damaged or not ours (%s): it is now %s, and a new file begins", path, error, aside.name)
            return _connect(path)


def _refuse_good(path: Path, error: sqlite3.DatabaseError) -> None:
    """Raises InputError for a file that cannot be opened and may yet be good: a disk, a right or a lock is the cause."""
    if isinstance(error, sqlite3.OperationalError) and not _is_foreign(path):
        problem = Problem(str(path), "a file to read and write", str(error))
        raise InputError("measurements cannot be opened", problem) from None


def _is_foreign(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and not path.read_bytes()[:16].startswith(b"SQLite format 3")


def _connect(path: Path) -> sqlite3.Connection:
    """An open file of the newest version. Raises sqlite3.DatabaseError for one that is damaged or not ours.

    No write-ahead log: it needs memory that processes share, which a folder on a network does not give.
    """
    db = sqlite3.connect(path, timeout=60)
    try:
        db.execute("BEGIN")  # one view for all three: another process may be making the file right now
        (owner,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("COMMIT")
        if owner != APPLICATION and tables:
            raise sqlite3.DatabaseError("another program's tables")
        if version > len(MIGRATIONS):
            raise sqlite3.DatabaseError(f"written by a newer zoo, version {version}")
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its pages do not fit together")
        if version < len(MIGRATIONS):
            _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    """Under the write lock, so that of several processes one does it."""
    db.isolation_level = None
    db.execute("BEGIN IMMEDIATE")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for step in MIGRATIONS[version:]:
        for statement in step.split(";"):
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")
    db.isolation_level = "DEFERRED"
