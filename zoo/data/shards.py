"""Shards of WebDataset: tars in which the files of a sample share a name up to its first dot, `0001.jpg` and `0001.cls`.

A shard is indexed once, and a picture then read from its place, so that samples may come in any order.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.data.labelled import SUFFIXES, Labelled, gathered, part_of, refused
from zoo.data.pictures import Picture

LABELS = (".cls", ".label.txt", ".label", ".txt", ".json")
"""The endings of what tells the class, the likeliest first; of JSON it is the value of `label`, `cls` or `class`."""
MOST_LABEL_BYTES = 65_536


def read(paths: Sequence[Path]) -> Labelled:
    """The samples of shards. `train-0000.tar` is of the part `train`. Raises InputError for tars that are compressed or damaged, and
    for pictures without a class."""
    rows = [row for path in paths for row in _samples(path, (part_of(path.name) or "") if len(paths) > 1 else "")]
    return gathered(rows, paths[0].parent if len(paths) > 1 else paths[0])


def _samples(path: Path, part: str) -> Iterator[tuple[str, Picture, str]]:
    pictures: dict[str, Picture] = {}
    labels: dict[str, tuple[int, str]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, ending = _key_and_ending(member.name)
                if not member.isreg() or member.sparse is not None or "/." in f"/{member.name}":
                    continue
                if f".{ending.rsplit('.', 1)[-1]}" in SUFFIXES:
                    name = f"{path.name}/{member.name}"
                    pictures[key] = Picture(name, str(path), member.offset_data, member.size)
                elif ending in LABELS and LABELS.index(ending) < labels.get(key, (len(LABELS), ""))[0]:
                    content = tar.extractfile(member).read(MOST_LABEL_BYTES)  # type: ignore[union-attr]
                    labels[key] = LABELS.index(ending), _label(content, ending)
    except (tarfile.TarError, OSError) as error:
        step = "unpack it with `gunzip`: pictures are compressed already" if path.suffix != ".tar" else ""
        raise refused(path, "a tar that is not compressed", str(error) or "a damaged one", step) from None
    unlabelled = [picture.name for key, picture in pictures.items() if not labels.get(key, (0, ""))[1]]
    if unlabelled:
        raise refused(
            path, "a `.cls`, `.txt` or `.json` with the class beside each picture", f"none for {unlabelled[0]}"
        )
    yield from ((part, picture, labels[key][1]) for key, picture in pictures.items())


def _key_and_ending(name: str) -> tuple[str, str]:
    """`a/0001.seg.png` -> (`a/0001`, `.seg.png`)."""
    folder, slash, file = name.rpartition("/")
    key, dot, ending = file.partition(".")
    return f"{folder}{slash}{key}", f"{dot}{ending}".lower()


def _label(content: bytes, ending: str) -> str:
    text = content.decode("utf-8", "replace").strip()
    if ending != ".json":
        return text
    try:
        data = json.loads(text)
    except ValueError:
        return ""
    values = [data[key] for key in ("label", "cls", "class") if isinstance(data, dict) and key in data]
    return str(values[0]) if values and isinstance(values[0], (str, int)) else ""
