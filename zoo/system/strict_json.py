"""Strict JSON, for what others wrote: each key once in a table, no NaN, numbers and nesting bounded. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from zoo.errors import listed
from zoo.system.nesting import check_nesting

MAX_DIGITS = 20


def refuse_keys(keys: list[str]) -> None:
    """Raises ValueError."""
    raise ValueError(f"key {listed(keys)} twice in one table")


def parse_json(data: str | bytes, on_duplicates: Callable[[list[str]], None] = refuse_keys) -> Any:
    """Plain data of a text, which is UTF-8 if it is bytes. How large it may be is for its reader to say.

    `on_duplicates` gets the keys that stand in one table more than once, sorted; the last value of each counts. Raises ValueError, and
    TooDeep of its kind, for a text that is not such JSON.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    check_nesting(text)

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            on_duplicates(sorted(key for key in counts if counts[key] > 1))
        return members

    try:
        return json.loads(text, object_pairs_hook=table, parse_constant=_refuse_constant, parse_int=_integer)
    except RecursionError as error:  # of a caller that is deep in the stack itself
        raise ValueError(str(error)) from None


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)
