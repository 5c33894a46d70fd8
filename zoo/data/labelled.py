"""A labelled set: pictures, what is told of each, and the parts that it is divided into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, NamedTuple

from zoo.data.bands import SUFFIX as BANDS
from zoo.data.pictures import Picture
from zoo.errors import InputError, Problem, listed
from zoo.system.file_kinds import PICTURES

Task = Literal["classification", "multilabel", "regression"]
"""What is told of a picture: one class, any number of classes, or numbers."""
Target = int | tuple[int, ...] | tuple[float, ...]
"""The class; the classes; the numbers."""
PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test",
}  # fmt: skip
"""What parts of a data set are called, and what they are called here."""
SUFFIXES = frozenset({*PICTURES, BANDS})
"""Endings of files that are pictures, or the bands of one."""


class Example(NamedTuple):
    """A picture, and what is told of it."""

    picture: Picture
    target: Target


class Labelled(NamedTuple):
    """A labelled set. `labels` are the names of classes in the order of the logits, or of the numbers; `parts` are called `train`,
    `val` and `test`, or "" where the set is not divided; `ignored` names files that are no pictures by their endings."""

    task: Task
    labels: tuple[str, ...]
    parts: dict[str, list[Example]]
    ignored: tuple[str, ...] = ()

    def counts(self, part: str) -> list[int]:
        """How many pictures of a part have each label; of numbers, how many there are."""
        counts = [0] * len(self.labels)
        for _, target in self.parts[part]:
            for label in range(len(counts)) if self.task == "regression" else classes_of(target):
                counts[label] += 1
        return counts


def split(data: Labelled, share: float, seed: int = 0) -> Labelled:
    """The set with parts `train` and `val`: `val` as it is, or else `share` of each class.

    Which pictures that are follows from their names and the seed, so that a picture that is added moves no other. Raises InputError
    for a set without pictures to train on, and for classes without one."""
    parts = dict(data.parts)
    train = parts.pop("", None) or parts.get("train", [])
    if not parts.get("val"):
        chosen = _drawn(train, share, seed) if share else set()
        parts["val"] = [example for i, example in enumerate(train) if i in chosen] or parts.get("test", [])
        train = [example for i, example in enumerate(train) if i not in chosen]
    divided = data._replace(parts=parts | {"train": train})
    missing = [label for label, count in zip(data.labels, divided.counts("train"), strict=True) if not count]
    if missing or not train:
        raise InputError(
            "data", Problem("train", "a picture of each class to train on", f"none of {listed(missing, 5)}")
        )
    return divided


def classes_of(target: Target) -> tuple[int, ...]:
    """The classes of a picture, one or several."""
    return (target,) if isinstance(target, int) else target  # type: ignore[return-value]


def refused(source: object, expected: str, found: str, step: str = "") -> InputError:
    """The error of a source that is no data set."""
    return InputError("data", Problem(str(source), expected, found, next=step))


def part_of(name: str) -> str | None:
    """The part that a folder, a shard or a value is called after; None for any other."""
    word = name.lower().replace("_", "-").split("-")[0].split(".")[0]
    return PARTS.get(word)


def gathered(rows: Iterable[tuple[str, Picture, str]], source: object, ignored: Iterable[str] = ()) -> Labelled:
    """(part, picture, name of its class) as a set of one class each; classes stand in the order of their names, whole numbers in theirs."""
    rows = list(rows)
    names = {label for _, _, label in rows}
    if not names:
        raise refused(source, "pictures in folders that are called like their classes", "no picture")
    labels = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    place = {label: i for i, label in enumerate(labels)}
    parts: dict[str, list[Example]] = {}
    for part, picture, label in rows:
        parts.setdefault(part, []).append(Example(picture, place[label]))
    return Labelled("classification", tuple(labels), parts, tuple(ignored))


def _drawn(examples: list[Example], share: float, seed: int) -> set[int]:
    """The positions of `share` of the examples of each target, at least one of two or more."""
    groups: dict[Target, list[tuple[bytes, int]]] = {}
    for i, (picture, target) in enumerate(examples):
        order = hashlib.sha256(f"{seed}/{picture.name}".encode(errors="surrogatepass")).digest()
        groups.setdefault(target if isinstance(target, int) else -1, []).append((order, i))
    chosen: set[int] = set()
    for group in groups.values():
        count = min(max(1, round(len(group) * share)), len(group) - 1)
        chosen.update(i for _, i in sorted(group)[:count])
    return chosen
