"""The calls of a step, recorded one after the other over numbers of no fixed place, and laid out in one room.

A call reads and writes parts of buffers, rows of numbers for each sample. A buffer lies somewhere from the call that writes it to the
last that reads it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from blocks.ops import native

LIBRARY = "step"
KINDS = ("norm", "linear", "act", "multiply", "add", "scale", "rotate", "attend", "convolve", "scan")
ACTS = ("silu", "sigmoid", "relu", "squared_relu", "tanh", "gelu", "gelu_tanh", "times", "cap")
LINE = 16
"""Numbers of a line of cache: buffers begin at one."""
READ = ("x", "other", "third")


class Part(NamedTuple):
    """In each row of a buffer so many `groups` of `size` numbers, `step` apart, from `first` on."""

    buffer: int
    first: int
    groups: int
    size: int
    step: int

    @property
    def width(self) -> int:
        return self.groups * self.size

    def grouped(self, size: int) -> Part:
        """The same numbers in groups of another size."""
        whole = self.whole()
        return whole._replace(groups=whole.size // size, size=size, step=size)

    def whole(self) -> Part:
        """The same numbers as one group. Raises ValueError where others lie between them."""
        if self.groups > 1 and self.step != self.size:
            raise ValueError(f"groups of {self.size} numbers, {self.step} apart, are not one group")
        return self._replace(groups=1, size=self.width, step=self.width)

    def split(self, *counts: int) -> list[Part]:
        """So many numbers, or groups where there are several, one after the other."""
        each = self if self.groups > 1 else self.grouped(1)
        parts, begin = [], 0
        for count in counts:
            part = each._replace(first=each.first + begin * each.step, groups=count)
            parts.append(part if self.groups > 1 else part.whole())
            begin += count
        return parts

    def every(self, stride: int, start: int) -> Part:
        """Each `stride`-th group, from `start` on."""
        return self._replace(
            first=self.first + start * self.step, groups=self.groups // stride, step=self.step * stride
        )


class Place(ctypes.Structure):
    """`struct Place` of the C++ file."""

    _fields_ = [(name, ctypes.c_int64) for name in ("at", "row", "first", "step")]


class Call(ctypes.Structure):
    """`struct Call` of the C++ file."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        *((name, Place) for name in (*READ, "y")),
        *((name, ctypes.c_int64) for name in ("count", "size", "kept", "which", "shared")),
        *((name, ctypes.c_double) for name in ("number", "second")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "rates")),
    ]


class Entry(NamedTuple):
    """One call: what it reads and writes, and its fields; `module` where it is none of C++ but a module's own."""

    parts: dict[str, Part]
    fields: dict[str, Any]
    module: nn.Module | None = None


class Listed(NamedTuple):
    """Calls that C++ runs one after the other."""

    calls: Any
    length: int
    address: int


class Called(NamedTuple):
    """A module that is called as ever, with numbers from `read` and for `written`: where they begin, and how many each sample has."""

    module: nn.Module
    read: tuple[int, int]
    written: tuple[int, int]


class Program(NamedTuple):
    """What is run for each token: the numbers that the room has for each sample, where the last of them are, and what holds the weights."""

    entries: list[Listed | Called]
    numbers: int
    result: tuple[int, int]
    held: list[Any]


@dataclass
class Tape:
    """`held` are tensors whose addresses calls know; `kept` counts the addresses that a step is given anew for each token."""

    entries: list[Entry] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    """Numbers in a row of each buffer."""
    held: list[Any] = field(default_factory=list)
    kept: int = 0

    def new(self, width: int, group: int | None = None) -> Part:
        """A buffer of its own."""
        self.rows.append(width)
        return Part(len(self.rows) - 1, 0, 1, width, width).grouped(group or width)

    def call(self, kind: str, x: Part, y: Part | None = None, **fields: Any) -> Part:
        """Records a call, for as many groups as it writes; y without a place of its own is like x."""
        y = y or self.new(x.width, x.size)
        parts = {"x": x, "y": y, **{name: fields.pop(name) for name in READ if isinstance(fields.get(name), Part)}}
        fields = {name: self.address(value) if isinstance(value, Tensor) else value for name, value in fields.items()}
        self.entries.append(Entry(parts, {"kind": KINDS.index(kind), "count": y.groups, "size": y.size, **fields}))
        return y

    def module(self, module: nn.Module, x: Part, width: int) -> Part:
        """Records the call of a module."""
        y = self.new(width)
        self.entries.append(Entry({"x": x.whole(), "y": y}, {}, module))
        return y

    def address(self, tensor: Tensor) -> int:
        """Where the numbers of a tensor lie, as floats in their order; it is held from now on."""
        self.held.append(tensor.detach().float().contiguous())
        return int(self.held[-1].data_ptr())

    def keep(self, count: int) -> int:
        """The first of so many addresses that each step is given."""
        self.kept += count
        return self.kept - count

    def mark(self) -> tuple[int, int, int, int]:
        return len(self.entries), len(self.rows), len(self.held), self.kept

    def rewind(self, mark: tuple[int, int, int, int]) -> None:
        """Forgets what was recorded since."""
        entries, rows, held, self.kept = mark
        del self.entries[entries:], self.rows[rows:], self.held[held:]

    def program(self, first: Part, last: Part) -> Program:
        """The calls in a room whose first numbers are those of `first`; `last` is what they lead to."""
        places, numbers = self._laid_out(first, last)
        entries: list[Listed | Called] = []
        run: list[Call] = []
        for entry in self.entries:
            if entry.module is None:
                run.append(self._structure(entry, places))
                continue
            entries += _listed(run)
            run = []
            x, y = entry.parts["x"], entry.parts["y"]
            entries.append(Called(entry.module, (places[x.buffer], x.size), (places[y.buffer], y.size)))
        entries += _listed(run)
        return Program(entries, numbers, (places[last.buffer], last.width), self.held)

    def _structure(self, entry: Entry, places: Sequence[int]) -> Call:
        where = {
            name: Place(places[part.buffer], self.rows[part.buffer], part.first, part.step)
            for name, part in entry.parts.items()
        }
        return Call(**where, **entry.fields)

    def _laid_out(self, first: Part, last: Part) -> tuple[list[int], int]:
        """(where each buffer begins, numbers in all): each in the first gap that is free while it is in use."""
        ends = {first.buffer: 0}
        for number, entry in enumerate(self.entries):
            ends |= {part.buffer: number for part in entry.parts.values()}
        ends[last.buffer] = len(self.entries)
        places, numbers = [0] * len(self.rows), 0
        taken: list[tuple[int, int, int]] = []
        begun: set[int] = set()
        for number in range(-1, len(self.entries)):
            named = [first] if number < 0 else self.entries[number].parts.values()
            for part in named:
                if part.buffer in begun:
                    continue
                begun.add(part.buffer)
                size, at = -(-self.rows[part.buffer] // LINE) * LINE, 0
                for begin, end, _ in sorted(taken):
                    if begin - at >= size:
                        break
                    at = max(at, end)
                places[part.buffer] = at
                taken.append((at, at + size, part.buffer))
                numbers = max(numbers, at + size)
            taken = [each for each in taken if ends[each[2]] > number]
        return places, numbers


def _listed(calls: list[Call]) -> list[Listed]:
    if not calls:
        return []
    array = (Call * len(calls))(*calls)
    return [Listed(array, len(calls), ctypes.addressof(array))]


def missing() -> str:
    """Why no step runs in C++ here, as a part of a sentence; "" where it does."""
    return native.missing(LIBRARY)


def runner() -> Any:
    """`run_step` of the C++ file."""
    function = native.library(LIBRARY).run_step  # type: ignore[union-attr]
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
    ]
    return function
