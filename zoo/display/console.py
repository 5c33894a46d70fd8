"""What commands print: tables for people, JSON for machines, one sentence for errors.

While a command runs, `guarded` stands before the terminal: names and texts of others may be in all that is printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from blocks.registry.words import printable, printable_lines


class OutputError(Exception):
    """Standard output takes nothing more: a full disk."""


class Guarded:
    """A stream that writes as escapes what cannot be seen, but for tabs, line ends, and a return to the beginning of the line that
    leads what is written, as a line of progress does. Raises OutputError, and BrokenPipeError where the reader went away."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        lead = "\r" if text.startswith("\r") else ""
        with _told():
            self.stream.write(lead + printable_lines(text[len(lead) :]))
        return len(text)

    def flush(self) -> None:
        with _told():
            self.stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from None


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Both standard streams are guarded in the block. One that is closed takes everything and keeps nothing."""
    _occupied()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Guarded(stream or io.StringIO()) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _occupied() -> None:
    """Where a standard stream is closed, the next file that is opened, a store or a kernel, would get its number, and what is printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def unguarded(stream: TextIO) -> TextIO:
    """The stream behind the guard, for what colours and moves the cursor itself; its texts must be printable."""
    return stream.stream if isinstance(stream, Guarded) else stream


def broken_off() -> None:
    """Points standard output to nowhere: it cannot be written to, and Python would try once more at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Prints rows under named columns; numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    rows = [list(row) for row in rows]
    view = Table(title=printable(title) or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) or _figure(row[i]) for row in rows)
        view.add_column(printable(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*[printable(cell) for cell in row])
    # a pipe has no width: rows stay whole there, for grep and cut
    width = None if sys.stdout.isatty() else 200
    with _told():
        Console(file=unguarded(sys.stdout), width=width, highlight=False, markup=False, emoji=False).print(view)


def _figure(cell: Any) -> bool:
    return isinstance(cell, str) and (cell == "" or cell[0].isdigit() or (cell[0] in "+-" and len(cell) > 1))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def dump(value: Any) -> None:
    """Prints a value as JSON; what cannot be seen is written as JSON's own escape of it."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    print(text if text.replace("\n", "").isprintable() else "".join(map(_json_letter, text)))


def _json_letter(letter: str) -> str:
    return letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1].replace("\x7f", "\\u007f")


def count(value: float, unit: str = "") -> str:
    """4649060 -> 4.65 M: three significant digits and a prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def size(count: float) -> str:
    """Bytes with a prefix: 4649060 -> 4.4 MiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def complain(text: str) -> None:
    """Prints an error to stderr; where that is full nobody can be told."""
    with contextlib.suppress(OutputError):
        print(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds in the two units that matter: `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
