"""A file of rows that is written while the machine may stop at any moment: no row is lost, none is there twice. Imports no torch.

    OUT.parts/job.json              what is being done; another job is refused
    OUT.parts/000000512-….part      rows of consecutive positions, written whole or not at all
    OUT                             all rows, in the order of the source, when there are all

A run that was broken off goes on with the pictures that no part names. A part is called by its position and by the names in it, so that
pictures which were added to a folder meanwhile replace no others.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
from filelock import FileLock, Timeout

from blocks.registry.words import printable
from zoo.errors import InputError, Problem
from zoo.predicting.rows import Row, Shape
from zoo.system.folders import write_whole

MOST_ROWS = 512
MOST_SECONDS = 10.0
"""Of work that a kill may undo."""
PART = re.compile(r"[0-9]{9,}-[0-9a-f]{16}\.part")
JOB, DONE, LOCK = "job.json", "done.json", "lock"


class Tally(NamedTuple):
    """Rows of a file, and how many of them say why they have no answer."""

    rows: int
    failed: int


class _Key(msgspec.Struct, frozen=True, array_like=True):
    """Of a row what says which picture it is."""

    position: int
    image: str


class Journal:
    """Open it with `with`; then `missing` says what is to be done, `add` takes rows, and `finish` makes the file."""

    def __init__(self, out: Path, job: dict[str, Any], force: bool = False):
        self.out, self.job, self.force = out, job, force
        self.folder = out.with_name(f"{out.name}.parts")
        self._lock = FileLock(self.folder / LOCK, timeout=0)
        self._rows: list[Row] = []
        self._since = time.monotonic()

    def __enter__(self) -> Journal:
        """Raises InputError for a file that is there, for parts of another job, and where another process is at work."""
        try:
            self._begin()
            return self
        except InputError:
            self._lock.release()
            raise
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            self._lock.release()
            raise self._no_place(error) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
        finally:
            self._lock.release()

    def _begin(self) -> None:
        if self.out.is_dir():
            raise InputError(str(self.out), Problem("--out", "a file to write", "a folder"))
        if self.out.exists() and not self.force and not self.tally():
            problem = Problem("", "a file that is not there yet", "one that is", next="--force writes it anew")
            raise InputError(str(self.out), problem)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            problem = Problem(str(self.folder), "to be the only one at work", "another process that writes it")
            raise InputError(str(self.out), problem) from None
        if self.force:
            self.out.unlink(missing_ok=True)
            self._clear()
        self._check_job()

    def _check_job(self) -> None:
        path = self.folder / JOB
        if not path.exists():
            write_whole(path, msgspec.json.format(msgspec.json.encode(self.job), indent=1))
            return
        try:
            before = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InputError(
                str(path), Problem("", "the record of a run", str(error), next="--force begins anew")
            ) from None
        now = msgspec.json.decode(msgspec.json.encode(self.job), type=dict[str, Any])
        differences = [
            Problem(
                name,
                f"{before.get(name)}, as in the rows that are there",
                f"{now.get(name)}",
                next="--force begins anew",
            )
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if differences:
            raise InputError(str(self.folder), differences)

    # what is there

    def tally(self) -> Tally | None:
        """Of a file that is finished, though its parts are still there: the process was killed at its very end. None for others."""
        try:
            return msgspec.json.decode((self.folder / DONE).read_bytes(), type=Tally) if self.out.exists() else None
        except (OSError, msgspec.DecodeError):
            return None

    def names(self) -> Counter[str]:
        """How often each picture has a row; a list may name one twice."""
        return Counter(key.image for part in self._parts() for key in self._read(part, _Key))

    def _parts(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if PART.fullmatch(path.name))

    def _read(self, part: Path, kind: type[Any]) -> list[Any]:
        try:
            rows: list[Any] = msgspec.msgpack.decode(part.read_bytes(), type=list[kind])  # type: ignore[valid-type]
            return rows
        except msgspec.DecodeError as error:
            problem = Problem("", "rows", f"a damaged file: {error}", next="delete it; its pictures are done again")
            raise InputError(str(part), problem) from None

    # what comes in

    def add(self, row: Row) -> None:
        if self._rows and row.position != self._rows[-1].position + 1:
            self._flush()
        self._rows.append(row)
        if len(self._rows) >= MOST_ROWS or time.monotonic() - self._since > MOST_SECONDS:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows, self._since = self._rows, [], time.monotonic()
        if rows:
            names = hashlib.sha256("\0".join(row.image for row in rows).encode()).hexdigest()
            write_whole(self.folder / f"{rows[0].position:09d}-{names[:16]}.part", msgspec.msgpack.encode(rows))

    def finish(self, write: Callable[[Iterable[Row], Path, Shape], None], shape: Shape) -> Tally:
        """Writes the file of all rows, then forgets the parts."""
        self._flush()
        rows = failed = 0

        def counted() -> Iterator[Row]:
            nonlocal rows, failed
            for part in self._parts():
                for row in self._read(part, Row):
                    rows, failed = rows + 1, failed + bool(row.error)
                    yield row

        draft = self.folder / f"draft{self.out.suffix}"  # here, where a kill leaves it to the next run
        try:
            write(counted(), draft, shape)
            with draft.open("r+b") as file:
                os.fsync(file.fileno())
            write_whole(self.folder / DONE, msgspec.json.encode(Tally(rows, failed)))
            os.replace(draft, self.out)
        except OSError as error:
            raise self._no_place(error) from None
        return self.forget(Tally(rows, failed))

    def forget(self, tally: Tally) -> Tally:
        """The parts of a finished file go; the word that it is finished goes last."""
        self._clear()
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        return tally

    def _clear(self) -> None:
        for path in (*self._parts(), self.folder / JOB, self.folder / DONE):
            path.unlink(missing_ok=True)

    def _no_place(self, error: OSError | ValueError) -> InputError:
        found = (error.strerror if isinstance(error, OSError) else "") or str(error)
        return InputError(printable(self.out), Problem("", "a place to write to", printable(found)))
