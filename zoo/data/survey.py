"""What is wrong with a labelled set, found by decoding it once: pictures that cannot be read, and pictures that stand in two parts.

Two pictures are the same where their fingerprints, 16 x 16 greys, differ by less than `SAME` grey levels in the mean square: a copy in
another format or another size does, another picture of the same thing does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from zoo.data.labelled import Example, Labelled
from zoo.data.pictures import Picture
from zoo.data.transforms import in_mode
from zoo.errors import InputError, Problem, ProblemsError

SIDE = 16
SAME = 2.0
AT_ONCE = 64
"""Pictures that are looked at before progress is told."""
MOST_PAIRS = 4_000_000_000
"""Pairs of pictures that are compared at most: minutes of one core."""


class Survey(NamedTuple):
    """`unreadable`: names and reasons; `doubles`: names of the same picture in `train` and in another part, which are looked for where
    `compared`; `subject`: see `subject_of`."""

    unreadable: tuple[tuple[str, str], ...] = ()
    doubles: tuple[tuple[str, str], ...] = ()
    compared: bool = True
    subject: str = ""


def survey(data: Labelled, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Decodes each picture of all parts; `progress` is called with (pictures so far, all of them)."""
    examples = [example for part in data.parts.values() for example in part]
    fingerprints: dict[str, np.ndarray] = {}
    unreadable: list[tuple[str, str]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(examples), AT_ONCE):
            names = [example.picture.name for example in examples[start : start + AT_ONCE]]
            answers = pool.map(_looked_at, (example.picture for example in examples[start : start + AT_ONCE]))
            for name, answer in zip(names, answers, strict=True):
                if isinstance(answer, str):
                    unreadable.append((name, answer))
                else:
                    fingerprints[name] = answer
            if progress is not None:
                progress(start + len(names), len(examples))
    train = _known(data.parts.get("train", []), fingerprints)
    others = _known([one for part, many in data.parts.items() if part != "train" for one in many], fingerprints)
    compared = len(train) * len(others) <= MOST_PAIRS
    doubles = tuple(_doubles(train, others, fingerprints)) if compared else ()
    return Survey(tuple(unreadable), doubles, compared, subject_of(data))


def subject_of(data: Labelled) -> str:
    """A hash of the names of all pictures and of their parts: a survey of other pictures says nothing of these."""
    lines = (f"{part}/{example.picture.name}" for part, examples in data.parts.items() for example in examples)
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


def readable(data: Labelled, found: Survey, strict: bool = False) -> Labelled:
    """The set without what cannot be read. Raises InputError for any such picture where it is to be `strict`."""
    out = dict(found.unreadable)
    if strict and out:
        raise InputError("data", [Problem(name, "a picture", reason) for name, reason in found.unreadable])
    parts = {part: [one for one in examples if one.picture.name not in out] for part, examples in data.parts.items()}
    return data._replace(parts=parts)


def _looked_at(picture: Picture) -> np.ndarray | str:
    """The fingerprint of a picture, or why there is none."""
    try:
        grey = in_mode(picture.shown(), "L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except ProblemsError as error:
        return error.problems[0].sentence()
    return np.asarray(grey).ravel()


def _doubles(train: list[str], others: list[str], fingerprints: dict[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Each of the others beside the nearest of `train`, where the two are the same."""
    if not train:
        return
    here = np.stack([fingerprints[name] for name in train]).astype(np.float32)
    norms = (here**2).sum(1)
    for name in others:
        mine = fingerprints[name].astype(np.float32)
        distances = (norms - 2 * here @ mine + mine @ mine) / mine.size
        nearest = int(distances.argmin())
        if distances[nearest] < SAME**2:
            yield train[nearest], name


def _known(examples: list[Example], fingerprints: dict[str, np.ndarray]) -> list[str]:
    return [example.picture.name for example in examples if example.picture.name in fingerprints]
