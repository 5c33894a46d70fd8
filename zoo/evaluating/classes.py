"""Which class of a model a folder of pictures means: by its name, its WordNet id, its number, or its place among all folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from zoo._timm import import_timm
from zoo.errors import InputError, Problem, nearest

WORDNET = re.compile(r"n[0-9]{8}")
IMAGENET_CLASSES = 1000
How = Literal["name", "wordnet", "number", "order"]
MOST_TOLD = 5


class Matching(NamedTuple):
    """For each class of the data its class among the logits, and by what it was found."""

    indices: tuple[int, ...]
    how: How


def matching(data: Sequence[str], model: Sequence[str], num_classes: int, subject: str, how: str = "") -> Matching:
    """The first way that finds all classes of the data, or the one that is asked for. Names may differ in capitals; numbers count from 0.

    data, model: names of classes, those of the model () where nobody knows them. Places are used unasked only there.
    Raises InputError with the classes that the model does not have.
    """
    ways = {"name": _by_name, "wordnet": _by_wordnet, "number": _by_number, "order": _by_order}
    tried = [how] if how else ["name", "wordnet", "number", *([] if model else ["order"])]
    found = {way: ways[way](data, model, num_classes) for way in tried}
    for way, indices in found.items():
        if None not in indices:
            return Matching(tuple(index for index in indices if index is not None), way)  # type: ignore[arg-type]
    best = max(found.values(), key=lambda indices: sum(index is not None for index in indices))
    missing = [label for label, index in zip(data, best, strict=True) if index is None]
    step = "" if how == "order" else "--classes order, where the folders sorted by name are the classes"
    problems = [
        Problem("", f"a class of {subject}", f"`{label}`", nearest(label, model)) for label in missing[:MOST_TOLD]
    ]
    more = f"{len(missing)} of {len(data)} classes of the data are none of the {num_classes} of the model"
    raise InputError("evaluate", [*problems, Problem("", found=more, next=step)])


def _by_name(data: Sequence[str], model: Sequence[str], num_classes: int) -> list[int | None]:
    """Names that two classes share mean neither of them."""
    for known, asked in ((list(model), list(data)), ([n.casefold() for n in model], [n.casefold() for n in data])):
        counts = Counter(known)
        places = {name: index for index, name in enumerate(known) if counts[name] == 1}
        found = [places.get(name) for name in asked]
        if None not in found:
            break
    return found


def _by_wordnet(data: Sequence[str], model: Sequence[str], num_classes: int) -> list[int | None]:
    """ImageNet's classes stand in the order of their ids; which a part of them is, timm's list knows."""
    if num_classes != IMAGENET_CLASSES or not all(WORDNET.fullmatch(name) for name in data):
        return [None] * len(data)
    order = sorted(data) if len(data) == IMAGENET_CLASSES else import_timm().data.ImageNetInfo().label_names()
    places = {name: index for index, name in enumerate(order)}
    return [places.get(name) for name in data]


def _by_number(data: Sequence[str], model: Sequence[str], num_classes: int) -> list[int | None]:
    numbers = [int(name) if name.isdecimal() and len(name) < 10 else num_classes for name in data]
    return [number if number < num_classes else None for number in numbers]


def _by_order(data: Sequence[str], model: Sequence[str], num_classes: int) -> list[int | None]:
    return list(range(len(data))) if len(data) == num_classes else [None] * len(data)
