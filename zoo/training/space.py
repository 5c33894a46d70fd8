"""The ranges of a sweep, as data: for fields of a recipe what they may be. Imports neither torch nor Optuna.

[optimizer]
lr = { low = 1e-4, high = 1e-2, log = true }
layer_decay = [0.65, 0.8, 1.0]

[schedule]
epochs = { low = 10, high = 30, step = 10 }
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from zoo.errors import InputError, Problem, nearest
from zoo.system.folders import at_home, read_whole
from zoo.system.strict_json import parse_json
from zoo.training.recipe import MOST_BYTES, fields, misfits


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from `low` to `high`, both of them in it: any, in steps, or evenly in their logarithm."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


Choices = tuple[Any, ...]
Space = dict[str, Range | Choices]
"""By the path of the field: numbers, or values to choose among."""


def read_space(source: str | os.PathLike[str] | Mapping[str, Any]) -> Space:
    """The ranges of a file, or of {path: range or list of values}.

    Raises InputError with every problem: fields that are none, ranges that are empty, values out of the bounds of their field."""
    subject = "space" if isinstance(source, Mapping) else f"space {source}"
    entries = dict(source.items() if isinstance(source, Mapping) else _flat(_tables(Path(source), subject)))
    kinds = {path: kind for path, kind, *_ in fields()}
    space: Space = {}
    problems = [] if entries else [Problem("", "a range for one field at least", "none")]
    for path, value in entries.items():
        if path not in kinds:
            problems.append(Problem(path, "a field of a recipe", "none of that name", nearest(path, kinds)))
        elif isinstance(value, (list, tuple)):
            space[path] = tuple(value)
            problems += _of_choices(path, value)
        else:
            try:
                space[path] = value if isinstance(value, Range) else msgspec.convert(value, Range)
            except msgspec.ValidationError:
                expected = "{ low = 1, high = 9 }, with `log` or `step`, or a list of values"
                problems.append(Problem(path, expected, f"{value!r}"[:60]))
                continue
            problems += _of_range(path, space[path], kinds[path])
    if not problems:
        ends = [(path, each) for path, known in space.items() for each in _ends(known)]
        problems = [problem for path, value in ends for problem in misfits(path, value)]
    if problems:
        raise InputError(subject, problems)
    return space


def drawn_of(path: str, drawn: Any, space: Space) -> Any:
    """The value of a field, of what was drawn for it: a list travels as JSON, since Optuna knows none."""
    choices = space[path]
    lists = isinstance(choices, tuple) and any(isinstance(choice, (list, tuple)) for choice in choices)
    return parse_json(drawn.encode()) if lists and isinstance(drawn, str) else drawn


def is_whole(path: str) -> bool:
    """Whether a field takes whole numbers."""
    return next(kind for each, kind, *_ in fields() if each == path).startswith("a whole number")


def _tables(path: Path, subject: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_whole(at_home(path), MOST_BYTES).decode())
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", "") or "other bytes"
        raise InputError(subject, Problem("", "a file of TOML", found)) from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(subject, Problem("", "TOML", f"an error: {error}")) from None


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`lr` of the table `optimizer` is `optimizer.lr`; a table that is no section of a recipe is a range."""
    sections = {path.partition(".")[0] for path, *_ in fields() if "." in path}
    for key, value in tree.items():
        if key in sections and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", entry) for inner, entry in value.items())
        else:
            yield key, value


def _ends(known: Range | Choices) -> tuple[Any, ...]:
    return (known.low, known.high) if isinstance(known, Range) else known


def _of_choices(path: str, choices: Any) -> list[Problem]:
    known = [
        msgspec.json.encode(choice) for choice in choices if isinstance(choice, (bool, int, float, str, list, tuple))
    ]
    if len(known) < len(choices) or len(known) < 2 or len(set(known)) < len(known):
        return [Problem(path, "two values at least, each another", f"{list(choices)!r}"[:60])]
    return []


def _of_range(path: str, ends: Any, kind: str) -> list[Problem]:
    if not kind.startswith(("a number", "a whole number")):
        return [Problem(path, f"a list of values, each {kind}", "a range of numbers")]
    if not -math.inf < ends.low < ends.high < math.inf:
        return [Problem(path, "`low` below `high`", f"{ends.low:g} and {ends.high:g}")]
    if is_whole(path) and not all(isinstance(end, int) for end in (ends.low, ends.high, ends.step or 1)):
        return [Problem(path, "whole numbers", f"{ends.low:g} to {ends.high:g}")]
    if ends.log and (ends.low <= 0 or ends.step is not None):
        return [Problem(path, "`log` with `low` above 0 and without `step`", f"{ends.low:g}, step {ends.step}")]
    if ends.step is not None and not 0 < ends.step <= ends.high - ends.low:
        return [Problem(path, "a `step` above 0 that fits into the range", f"{ends.step:g}")]
    return []
