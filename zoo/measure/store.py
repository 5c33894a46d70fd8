"""The measurements of this machine: one SQLite file in the user's data folder, written by any number of processes.

Rows are content-addressed, so merging is idempotent and its order is nothing. A file that is damaged or not ours is renamed, with
a sentence, and never written to; one of a newer zoo is refused and stays. A row or device that cannot be read, because a newer zoo or
damage made it, is passed over with one warning. Rows that ship with the package are read beside the user's own. A row is that of a model,
or of a block by itself.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import sqlite3
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import msgspec
from filelock import FileLock

from blocks.registry.words import printable
from zoo.catalog.collection import collections
from zoo.errors import InputError, Problem, listed, nearest
from zoo.measure.block_latency import BlockLatency
from zoo.measure.device import Device
from zoo.measure.latency import Latency, Sample
from zoo.measure.row_checks import block_problems, device_problems, is_past, row_problems
from zoo.system.folders import data_folder, data_path, write_whole

log = logging.getLogger("zoo")

FILE = "measurements.sqlite"
SHIPPED, SHIPPED_BLOCKS = "latency.jsonl", "blocks.jsonl"
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
    """
    CREATE TABLE glances (id TEXT PRIMARY KEY, device TEXT NOT NULL, digest TEXT NOT NULL, date TEXT NOT NULL, row BLOB NOT NULL);
    INSERT INTO glances SELECT * FROM rows WHERE CAST(row AS TEXT) LIKE '%"processes":1,%';
    DELETE FROM rows WHERE id IN (SELECT id FROM glances);
    """,
    """
    CREATE TABLE blocks (id TEXT PRIMARY KEY, device TEXT NOT NULL, block TEXT NOT NULL, date TEXT NOT NULL, row BLOB NOT NULL);
    """,
)
"""Step i brings a file of version i to version i + 1. A published step is never changed."""


PATIENCE_S = 60.0
"""How long a file that another process writes to is waited for."""
MAX_IMPORT_BYTES = 2**28
MOST_TOLD = 20
"""Bad lines of an import that are named before the rest is given up."""

T = TypeVar("T")
R = TypeVar("R", Latency, BlockLatency)
_told: set[tuple[str, str]] = set()
"""(file, kind) of what this process has warned of."""


class Store:
    """Open it with `with`. Every call raises InputError where the file cannot be read or written."""

    def __init__(self, path: Path | None = None):
        self.path = path or data_folder() / FILE
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
        own = list(_decoded(self.path, Device, (facts for (facts,) in self._read("SELECT facts FROM devices"))))
        shipped = [device for device in shipped_devices() if device not in own]
        return own + shipped

    def add_device(self, device: Device) -> None:
        self._write("INSERT OR IGNORE INTO devices VALUES (?, ?)", [(device.id, msgspec.json.encode(device))])

    def remember(self, start: str, device: str) -> None:
        """That the machine which was started under this word is that device."""
        if start:
            self._write("INSERT OR REPLACE INTO machines VALUES (?, ?)", [(start, device)])

    def recall(self, start: str) -> str:
        found = self._read("SELECT device FROM machines WHERE start = ?", start)
        return str(found[0][0]) if found and start else ""

    # rows

    def add(self, rows: Iterable[Latency]) -> int:
        """Enters the rows that are not there yet; returns how many those were."""
        return self._add("rows", rows)

    def add_glances(self, rows: Iterable[Latency]) -> int:
        """Enters rows of one process, which are no measurements but tell `zoo calibrate` something; returns how many were new."""
        return self._add("glances", rows)

    def add_blocks(self, rows: Iterable[BlockLatency]) -> int:
        """Enters the rows of blocks that are not there yet; returns how many those were."""
        return self._add("blocks", rows)

    def _add(self, place: str, rows: Iterable[Latency | BlockLatency]) -> int:
        before = self._db.total_changes
        data = [(row.id, row.device, row.measures, row.date, msgspec.json.encode(row)) for row in rows]
        self._write(f"INSERT OR IGNORE INTO {place} VALUES (?, ?, ?, ?, ?)", data)
        return self._db.total_changes - before

    def rows(self, shipped: bool = True, glances: bool = False, **wanted: Any) -> list[Latency]:
        """Rows, the oldest first; `wanted` are values of a row's or its runtime's fields: `device=`, `threads=`, `verdict=`.

        `shipped` adds those that came with the package, `glances` those that `zoo calibrate` took of one process.
        """
        found = {row.id: row for row in shipped_rows()} if shipped else {}
        for place in ("rows", "glances") if glances else ("rows",):
            found |= {row.id: row for row in self._own(place, Latency, wanted.get("device"))}
        return _kept(found.values(), wanted)

    def block_rows(self, shipped: bool = True, **wanted: Any) -> list[BlockLatency]:
        """Rows of blocks, the oldest first, chosen as `rows` are."""
        found = {row.id: row for row in shipped_blocks().blocks} if shipped else {}
        found |= {row.id: row for row in self._own("blocks", BlockLatency, wanted.get("device"))}
        return _kept(found.values(), wanted)

    def _own(self, place: str, kind: type[T], device: str | None) -> Iterator[T]:
        query = f"SELECT row FROM {place}" + (" WHERE device = ?" if device is not None else "")
        values = () if device is None else (device,)
        return _decoded(self.path, kind, (data for (data,) in self._read(query, *values)))

    # samples of a run that is under way

    def add_sample(self, job: str, process: int, sample: Sample) -> None:
        self._write("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", [(job, process, msgspec.json.encode(sample))])

    def samples(self, job: str) -> dict[int, Sample]:
        found = self._read("SELECT process, sample FROM samples WHERE job = ? ORDER BY process", job)
        read = {process: list(_decoded(self.path, Sample, [data])) for process, data in found}
        return {process: samples[0] for process, samples in read.items() if samples}

    def forget_samples(self, job: str) -> None:
        self._write("DELETE FROM samples WHERE job = ?", [(job,)])

    # what `zoo calibrate` knows

    def looks(self, device: str, runtime: str) -> dict[str, list[float]]:
        """Milliseconds of every piece, as often as it was timed."""
        query = "SELECT piece, ms FROM looks WHERE device = ? AND runtime = ?"
        found: dict[str, list[float]] = {}
        for piece, ms in self._read(query, device, runtime):
            if isinstance(ms, float) and 0 < ms < math.inf:  # what damage made of a number is none
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
        found = self._read(query, device, runtime)
        return found[0][0] if found else None

    def calibrated(self, device: str) -> list[str]:
        """The runtimes under which a device was calibrated."""
        query = "SELECT runtime FROM calibrations WHERE device = ? ORDER BY runtime"
        return [str(runtime) for (runtime,) in self._read(query, device)]

    def set_calibration(self, device: str, runtime: str, data: bytes) -> None:
        self._write("INSERT OR REPLACE INTO calibrations VALUES (?, ?, ?)", [(device, runtime, data)])

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._refusal("measurements cannot be read", "a sound file", error) from None

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._db:  # one transaction: whole or not at all
                self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._refusal("a measurement cannot be stored", "room to write", error) from None

    def _refusal(self, headline: str, expected: str, error: sqlite3.Error) -> InputError:
        held = "locked" in str(error) or "busy" in str(error)
        if held:
            expected, way = f"a file that is free within {PATIENCE_S:g} s", "end the program that holds it"
        else:
            way = (
                "move the file away, and a new one begins"
                if "no such" in str(error) or "malformed" in str(error)
                else ""
            )
        return InputError(headline, Problem(str(self.path), expected, str(error), next=way))


def _decoded(path: Path, kind: type[T], values: Iterable[Any]) -> Iterator[T]:
    """The records that can be read; of the others one warning tells, once in a process."""
    bad: list[str] = []
    for data in values:
        try:
            yield msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            bad.append(str(error))
    if bad and (str(path), kind.__name__) not in _told:
        _told.add((str(path), kind.__name__))
        text = "%s: passed over what a newer zoo or damage wrote: %d of kind %s, the first with: %s"
        log.warning(text, path, len(bad), kind.__name__, bad[0][:200])


class Lines(NamedTuple):
    """What a file of measurements holds."""

    devices: list[Device]
    rows: list[Latency]
    blocks: list[BlockLatency]


def export_rows(
    rows: Iterable[Latency], devices: Iterable[Device], path: Path, blocks: Iterable[BlockLatency] = ()
) -> None:
    """JSON lines: the devices, then the rows, each with its kind. Whole or not at all."""
    lines: list[dict[str, Any]] = [{"device": device} for device in sorted(devices, key=lambda device: device.id)]
    lines += [{"row": row} for row in sorted(rows, key=lambda row: (row.model, *_place(row)))]
    lines += [{"block": row} for row in sorted(blocks, key=lambda row: (row.block, *_place(row)))]
    write_whole(path, b"\n".join(msgspec.json.encode(line) for line in lines) + b"\n")


def _place(row: Latency | BlockLatency) -> tuple[str, ...]:
    return row.form, row.device, row.runtime.key, row.date


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    device: Device | None = None
    row: Latency | None = None
    block: BlockLatency | None = None

    def problems(self) -> list[Problem]:
        found = device_problems(self.device) if self.device else []
        found += row_problems(self.row) if self.row else []
        return found + (block_problems(self.block) if self.block else [])


def read_rows(path: Path) -> Lines:
    """What `export_rows` wrote. Raises InputError naming the lines that are neither a device nor a row, or none that can have been."""
    found, problems = Lines([], [], []), []
    for number, text in enumerate(_lines(path), 1):
        try:
            line = msgspec.json.decode(text, type=_Line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            expected = "a device, or a row of `zoo.latency/1` or `zoo.block-latency/1`"
            problems.append(Problem(f"line {number}", expected, str(error)[:300]))
        else:
            problems += [problem._replace(where=f"line {number}: {problem.where}") for problem in line.problems()]
            found.devices.extend([line.device] if line.device else [])
            found.rows.extend([line.row] if line.row else [])
            found.blocks.extend([line.block] if line.block else [])
        if len(problems) >= MOST_TOLD:
            break
    if problems:
        raise InputError(str(path), problems)
    return found


def _lines(path: Path) -> list[bytes]:
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise InputError(str(path), Problem("", "a file of measurements", "something else than a file"))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMPORT_BYTES + 1)
    except OSError as error:
        raise InputError(str(path), Problem("", "a file of measurements", error.strerror or str(error))) from None
    if len(data) > MAX_IMPORT_BYTES:
        raise InputError(str(path), Problem("", f"at most {MAX_IMPORT_BYTES:,} bytes", "more"))
    return data.splitlines()


def import_rows(store: Store, path: Path) -> int:
    """Enters foreign rows, each with the name of the file it came from as its origin, whatever it says; returns how many were new.

    Raises InputError, and enters nothing, where one of them cannot have been measured."""
    found, origin = read_rows(path), printable(path.name)
    for device in found.devices:
        store.add_device(device)
    blocks = store.add_blocks(msgspec.structs.replace(row, origin=origin) for row in found.blocks)
    return blocks + store.add(msgspec.structs.replace(row, origin=origin) for row in found.rows)


def shipped_rows() -> list[Latency]:
    """The rows of models that came with the collections."""
    return [row for path in _shipped(SHIPPED) for row in _read_shipped(path).rows]


def shipped_devices() -> list[Device]:
    """The devices of these rows."""
    return list({device.id: device for path in _shipped(SHIPPED) for device in _read_shipped(path).devices}.values())


def shipped_blocks() -> Lines:
    """The rows of blocks that came with the collections, and their devices."""
    found = [_read_shipped(path) for path in _shipped(SHIPPED_BLOCKS)]
    devices = {device.id: device for lines in found for device in lines.devices}
    return Lines(list(devices.values()), [], [row for lines in found for row in lines.blocks])


def block_rows(block: str) -> list[BlockLatency]:
    """The newest rows of a block, one for each device and runtime: those that ship, and this user's own where he has measured any."""
    if (data_path() / FILE).is_file():
        with Store() as store:
            rows = store.block_rows(block=block)
    else:
        rows = [row for row in shipped_blocks().blocks if row.block == block]
    return sorted(newest(rows), key=lambda row: (row.device, row.runtime.key))


def _read_shipped(path: Path) -> Lines:
    """Nothing, with one warning, where a plugin ships what cannot be read."""
    try:
        return read_rows(path)
    except InputError as error:
        if (str(path), "shipped") not in _told:
            _told.add((str(path), "shipped"))
            log.warning("passed over the shipped measurements of %s", error)
        return Lines([], [], [])


def _shipped(name: str) -> list[Path]:
    paths = [collection.data / name for collection in collections().values()]
    return [path for path in paths if path.is_file()]


def newest(rows: Iterable[R]) -> Iterator[R]:
    """The last clean one of rows of the same model or block, form, device and runtime, or the last. A date that has not been is before all:
    the clock was wrong, and may have been set back since."""
    best: dict[tuple[str, ...], R] = {}
    for row in sorted(rows, key=lambda row: (row.verdict == "clean", row.date if is_past(row.date) else "")):
        best[row.measures, row.form, row.device, row.runtime.key] = row
    yield from best.values()


def check_device(store: Store, device: str, subject: str) -> None:
    """Raises InputError for a device that no rows are of."""
    known = [one.id for one in store.devices()]
    if device not in known:
        raise InputError(subject, Problem("device", f"this or {listed(known)}", f"`{device}`", nearest(device, known)))


def _kept(rows: Iterable[R], wanted: dict[str, Any]) -> list[R]:
    """Those with such values, the oldest first."""
    kept = [row for row in rows if all(_value(row, name) == value for name, value in wanted.items())]
    return sorted(kept, key=lambda row: (row.date, row.id))


def _value(row: Latency | BlockLatency, name: str) -> Any:
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
            # with a drawn part: where the clock was set back, a second comes twice, and the file that was set aside then stays
            aside = path.with_name(f"{path.name}.set-aside-{int(time.time())}-{secrets.token_hex(2)}")
            os.replace(path, aside)
            log.warning("%s is damaged or not ours (%s): it is now %s, and a new file begins", path, error, aside.name)
            return _connect(path)


def _refuse_good(path: Path, error: sqlite3.DatabaseError) -> None:
    """Raises InputError for a file that cannot be opened and may yet be good: a newer zoo, a disk, a right or a lock is the cause."""
    if isinstance(error, _Newer):
        way = "`pip install -U blockzoo`, or set ZOO_DATA to another folder"
        problem = Problem(str(path), f"a file of at most version {len(MIGRATIONS)}", str(error), next=way)
        raise InputError("measurements cannot be opened", problem) from None
    if isinstance(error, sqlite3.OperationalError) and not _is_foreign(path):
        problem = Problem(str(path), "a file to read and write", str(error))
        raise InputError("measurements cannot be opened", problem) from None


def _is_foreign(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and not path.read_bytes()[:16].startswith(b"SQLite format 3")


class _Newer(sqlite3.DatabaseError):
    """A good file that this zoo is too old for."""


def _connect(path: Path) -> sqlite3.Connection:
    """An open file of the newest version. Raises sqlite3.DatabaseError for one that is damaged or not ours.

    No write-ahead log: it needs memory that processes share, which a folder on a network does not give.
    """
    db = sqlite3.connect(path, timeout=PATIENCE_S)
    try:
        db.execute("BEGIN")  # one view for all three: another process may be making the file right now
        (owner,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("COMMIT")
        if owner != APPLICATION and tables:
            raise sqlite3.DatabaseError("another program's tables")
        if version > len(MIGRATIONS):
            raise _Newer(f"one of version {version}, which a newer zoo wrote")
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
