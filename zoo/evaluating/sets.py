"""The labelled sets that a place holds: one as a rule, and for each corruption and severity one where folders lie as ImageNet-C's do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.data.folders import labelled
from zoo.data.labelled import Example, Labelled, Task
from zoo.errors import InputError, Problem, listed
from zoo.evaluating.corruptions import Corruption
from zoo.system.folders import at_home, read_whole

SEVERITIES = frozenset("12345")
JUDGING = ("val", "test", "", "train")
"""The parts of a set, by how well they judge."""
NUMBER = re.compile(r"([0-9]+)\.[A-Za-z]+$")
MOST_REAL_BYTES = 2**28


class LabelledSet(NamedTuple):
    """Pictures of one part with a class each, or several; `labels` are the names of the classes. A model sees them through `corruption`, if any."""

    name: str
    labels: tuple[str, ...]
    examples: list[Example]
    corruption: Corruption | None = None


def sets_of(
    data: str | os.PathLike[str], name: str, split: str = "", target: str = "", made: Sequence[Corruption] = (),
    task: Task = "classification",
) -> list[LabelledSet]:  # fmt: skip
    """`split`: the part that judges, `val` where there is one; behind a set as it is stands one for each corruption that is `made` of it.
    `task`: with `multilabel` pictures have any number of classes, one is a number, too; with `regression` they have numbers.

    Raises InputError for what is no set of pictures with classes."""
    folders = _corruptions(at_home(data))
    if folders:
        named = [(f"{name}/{corruption}@{folder.name}", folder) for corruption, folder in folders]
        return [_set(labelled(folder), each, split, task) for each, folder in named]
    whole = _set(labelled(data, target, "regression" if task == "regression" else None), name, split, task)
    return [whole, *(whole._replace(name=f"{name}/{each}", corruption=each) for each in made)]


def _corruptions(root: Path) -> list[tuple[str, Path]]:
    """(corruption, folder of a severity) of DIR/CORRUPTION/SEVERITY/CLASS/…; nothing for other folders."""
    if not root.is_dir():
        return []
    kinds = sorted(entry for entry in root.iterdir() if entry.is_dir())
    inner = {kind: sorted(entry for entry in kind.iterdir() if entry.is_dir()) for kind in kinds}
    is_layout = kinds and all(
        levels
        and {level.name for level in levels} <= SEVERITIES
        and any(entry.is_dir() for entry in levels[0].iterdir())
        for levels in inner.values()
    )
    return [(kind.name, level) for kind, levels in inner.items() for level in levels] if is_layout else []


def _set(data: Labelled, name: str, split: str, task: Task) -> LabelledSet:
    if data.task != task and (data.task != "classification" or task == "regression"):
        problem = Problem(name, f"pictures for {task}, as the model is for it", f"a set for {data.task}")
        raise InputError("evaluate", problem)
    part = split or next(part for part in JUDGING if data.parts.get(part))
    if not data.parts.get(part):
        parts = listed([each or "one without a name" for each in data.parts])
        raise InputError("evaluate", Problem("--split", f"a part of {name}: {parts}", f"`{part}`"))
    return LabelledSet(name, data.labels, data.parts[part])


class Real(NamedTuple):
    """All classes that are right for a picture, by its file name or its number; a picture may have none, and is not counted then."""

    by_name: dict[str, list[int | str]]
    by_number: list[list[int | str]]

    def of(self, name: str) -> list[int | str]:
        """Of `ILSVRC2012_val_00000001.JPEG` the first of a list."""
        if self.by_name:
            return self.by_name.get(name.rpartition("/")[2], [])
        number = NUMBER.search(name)
        place = int(number[1]) - 1 if number else -1
        return self.by_number[place] if 0 <= place < len(self.by_number) else []


def real_labels(path: str | os.PathLike[str]) -> Real:
    """`real.json` of arXiv:2006.07159, a list of lists of classes; or {file name: [classes]}. Classes are numbers or names. Raises InputError."""
    try:
        content = json.loads(read_whole(at_home(path), MOST_REAL_BYTES))
    except OSError as error:
        raise InputError(str(path), Problem("--real", "a file of JSON", error.strerror or str(error))) from None
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), Problem("--real", "a file of JSON", str(error))) from None
    rows = content if isinstance(content, list) else list(content.values()) if isinstance(content, dict) else []
    if not rows or not all(isinstance(row, list) and all(type(each) in (int, str) for each in row) for row in rows):
        expected = "a list of lists of classes, or {file name: [classes]}"
        raise InputError(str(path), Problem("--real", expected, "something else"))
    return Real(content, []) if isinstance(content, dict) else Real({}, content)
