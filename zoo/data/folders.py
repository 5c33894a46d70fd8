"""Labelled pictures as people have them: folders of classes, tables, shards. `labelled` reads which there are; nothing is decoded.

DIR/train/CLASS/...  DIR/val/CLASS/...    a part for each folder of `PARTS`
DIR/CLASS/...                             one part, which `labelled.split` divides
table.csv  table.tsv  table.parquet       a column of paths or bytes, one or more of labels (`zoo.data.tables`)
DIR/*.parquet  DIR/**/*.arrow             what `datasets` saved or the Hub holds (`zoo.data.tables`)
train-0000.tar  DIR/*.tar                 shards of WebDataset (`zoo.data.shards`)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from zoo.data import shards, tables
from zoo.data.labelled import PARTS, SUFFIXES, Labelled, Task, gathered, refused
from zoo.data.pictures import Picture
from zoo.data.sources import text
from zoo.errors import listed
from zoo.system.folders import at_home
from zoo.weights.manifest_rules import MAX_LABEL


def labelled(source: str | os.PathLike[str], target: str = "", task: Task | None = None) -> Labelled:
    """The pictures of a source and what is told of them. `target` names the columns of a table, with commas between them.

    Raises InputError for a source that is not there or that holds nothing, for empty classes and names that no model could carry."""
    path = at_home(source)
    if not path.exists():
        step = f"`hf download --repo-type dataset {str(source)[3:]} --local-dir DIR`, then DIR"
        known = str(source).startswith("hf:")
        raise refused(source, "a folder, a table or a tar", "nothing there", step if known else "")
    if not (path.is_dir() or path.is_file()):
        raise refused(source, "a folder, a table or a tar", "a pipe or a device")
    if path.suffix in tables.SUFFIXES:
        data = tables.read(path, target, task)
    elif path.suffix in (".tar", ".tgz", ".gz"):
        data = shards.read([path])
    elif not path.is_dir():
        raise refused(source, "a folder, .csv, .tsv, .parquet or .tar", f"a file that ends in `{path.suffix}`")
    elif any(path.glob("*.tar")):
        data = shards.read(sorted(path.glob("*.tar")))
    elif files := tables.saved_by_datasets(path):
        data = tables.read_many(files, path, target, task)
    else:
        data = _of_folders(path)
    _refuse_odd(source, data)
    return data


def _of_folders(root: Path) -> Labelled:
    inner = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not inner:
        raise refused(root, "folders that are called like classes, or `train` and `val`", "no folder in it")
    parts = {entry: part for entry in inner if (part := PARTS.get(entry.name.lower()))}
    divided = "train" in parts.values() or len(parts) == len(inner)
    homes: Mapping[Path, str] = parts if divided else {root: ""}
    ignored: list[str] = []
    rows = [row for home, part in homes.items() for row in _of_classes(home, part, root, ignored)]
    return gathered(rows, root, ignored)


def _of_classes(home: Path, part: str, root: Path, ignored: list[str]) -> Iterator[tuple[str, Picture, str]]:
    """The pictures below each folder of `home`, which is called like their class. Raises InputError for folders without any."""
    empty = []
    for folder in sorted(entry for entry in home.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        ignored += [text(path.relative_to(root)) for path in files if path.suffix.lower() not in SUFFIXES]
        if not pictures:
            empty.append(str(folder.relative_to(root)))
        for path in pictures:
            yield part, Picture(text(path.relative_to(root)), str(path)), folder.name
    if empty:
        raise refused(root, "pictures in the folder of each class", f"none in {listed(empty, 5)}", "remove the folder")


def _refuse_odd(source: object, data: Labelled) -> None:
    """Names that a manifest cannot hold, and sets in which nothing is to be told apart."""
    if data.task == "classification" and len(data.labels) < 2:
        raise refused(source, "two classes at least", f"one, {listed(data.labels)}")
    odd = [label for label in data.labels if not label.strip() or not label.isprintable() or len(label) > MAX_LABEL]
    if odd:
        raise refused(source, f"printable names of classes, of at most {MAX_LABEL} letters", ascii(odd[0])[:80])
