"""Values that recur, kept once: what is written of each is its place."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


class Pool:
    """Values of JSON in the order in which they came."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place_of(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def column(values: Iterable[Any]) -> list[Any] | dict[str, list[Any]]:
    """A column of a table as it is shortest: the values, or `{"of": those that differ, "at": places among them}`."""
    listed, pool = list(values), Pool()
    places = [pool.place_of(value) for value in listed]
    return {"of": pool.values, "at": places} if 3 * len(pool.values) < 2 * len(listed) else listed
