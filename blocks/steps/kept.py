"""The memory that a step reads and leaves: keys and values with room for later tokens behind them, and states of a fixed size.

A state that was used is left as it was: what is written lies behind what it shows, or in memory of its own. B is the number of samples,
M of the tokens that are kept, G of heads of keys, D their width, W the window.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor

from blocks.attention.rotary import Rope, rotary_waves
from blocks.recurrent import State

LEAST_ROOM = 64
"""Tokens that a new room has space for at least, beyond those that there are; else half as many as there are."""


class Moment:
    """What the blocks of one step have in common, made once; it holds the tensors whose addresses they were given."""

    def __init__(self, rows: int):
        self.rows = rows
        self.held: list[Tensor] = []
        self._after: dict[int, Tensor] = {}
        self._waves: dict[tuple[int, Rope, int], tuple[int, int]] = {}

    def after(self, seen: Tensor) -> Tensor:
        """The tokens (B,) that there are then, of those so far."""
        found = self._after.get(id(seen))
        if found is None:
            self.held.append(seen)  # as long as this lives no other tensor has its id
            found = self._after[id(seen)] = seen + 1
        return found

    def waves(self, seen: Tensor, rope: Rope, dims: int) -> tuple[int, int]:
        """Where the cosines and sines (B, dims / 2) of the new tokens lie."""
        found = self._waves.get((id(seen), rope, dims))
        if found is None:
            like = torch.empty(0, dtype=torch.float32, device="cpu")
            waves = [wave.contiguous() for wave in rotary_waves(like, seen.unsqueeze(1), rope, dims)]
            self.held += [seen, *waves]
            found = self._waves[id(seen), rope, dims] = waves[0].data_ptr(), waves[1].data_ptr()
        return found


class Taken(NamedTuple):
    """The addresses and numbers that C++ is given, and the state behind the step."""

    numbers: tuple[int, ...]
    state: State


@dataclass
class Room:
    """Keys and values (B, capacity, G, D), of which the first `used` tokens are those of some state."""

    keys: Tensor
    values: Tensor
    used: int


class Cache:
    """What an attention at `path` keeps: (keys, values (B, M, G, D), tokens so far (B,)), of a window what the next token sees.

    It knows of the keys and values that it gave which room they are in, for as long as they live."""

    count = 6

    def __init__(self, path: str, shape: tuple[int, int], window: int | None, rope: Rope | None, rope_dim: int):
        self.path, self.shape, self.window, self.rope, self.rope_dim = path, shape, window, rope, rope_dim
        self._given: dict[int, tuple[ref[Tensor], ref[Tensor], Room, int]] = {}
        self._lock = threading.Lock()

    def take(self, state: State, moment: Moment) -> Taken | None:
        """None for a state that tells padding from tokens, or that is none of this attention in float32."""
        if len(state) != 3:
            return None
        keys, values, seen = state
        held = keys.shape[1] if keys.ndim == 4 else 0
        whole = (moment.rows, held, *self.shape)
        if not (_fits(keys, whole) and _fits(values, whole)) or seen.dtype is not torch.int64 or seen.ndim != 1:
            return None
        room, begin = self._room(keys, values)
        moment.held += [room.keys, room.values]
        step, place = room.keys.stride(0), begin * room.keys.stride(1) * 4
        waves = (0, 0) if self.rope is None else moment.waves(seen, self.rope, self.rope_dim)
        end = begin + held + 1
        first = begin if self.window is None else max(begin, end - self.window + 1)
        after = room.keys[:, first:end], room.values[:, first:end]
        self._remember(*after, room, first)
        numbers = *waves, room.keys.data_ptr() + place, room.values.data_ptr() + place, step, held
        return Taken(numbers, (*after, moment.after(seen)))

    def _room(self, keys: Tensor, values: Tensor) -> tuple[Room, int]:
        """A room in which there is a place behind these that nobody has taken, and where they begin in it."""
        held, known = keys.shape[1], self._given.get(id(keys))
        if known is not None and known[0]() is keys and known[1]() is values:
            room, begin = known[2:]
            with self._lock:
                if room.used == begin + held < room.keys.shape[1]:
                    room.used += 1
                    return room, begin
        sizes = (keys.shape[0], held + max(LEAST_ROOM, held // 2), *self.shape)
        room = Room(keys.new_empty(sizes), keys.new_empty(sizes), held + 1)
        room.keys[:, :held] = keys
        room.values[:, :held] = values
        return room, 0

    def _remember(self, keys: Tensor, values: Tensor, room: Room, begin: int) -> None:
        given, number = self._given, id(keys)

        def forget(gone: ref[Tensor]) -> None:
            if number in given and given[number][0] is gone:
                del given[number]

        given[number] = ref(keys, forget), ref(values), room, begin


class Fixed:
    """What a recurrence at `path` keeps: tensors (B, *shape), read and written anew."""

    def __init__(self, path: str, *shapes: tuple[int, ...]):
        self.path, self.shapes, self.count = path, shapes, 2 * len(shapes)

    def take(self, state: State, moment: Moment) -> Taken | None:
        """None for a state that is none of this recurrence in float32."""
        if len(state) != len(self.shapes):
            return None
        numbers: list[int] = []
        after: list[Tensor] = []
        for tensor, shape in zip(state, self.shapes, strict=True):
            if not _fits(tensor, (moment.rows, *shape)):
                return None
            before = tensor.contiguous()
            after.append(before.new_empty(before.shape))
            moment.held.append(before)
            numbers += before.data_ptr(), after[-1].data_ptr()
        return Taken(tuple(numbers), tuple(after))


def _fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return type(tensor) is Tensor and tensor.shape == shape and tensor.dtype is torch.float32 and tensor.is_cpu
