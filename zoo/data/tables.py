"""Tables of pictures and labels: CSV, TSV, Parquet, and the Arrow files that the library `datasets` saves.

A column holds paths, from the table's folder on, or the bytes of the pictures; the others hold what is told of them: one column of
names is one class each, one with `|` in it is several classes each, numbers are to be predicted as numbers, and several columns of 0
and 1 are a class each.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec

from zoo.data.arrow import arrow
from zoo.data.labelled import Example, Labelled, Target, Task, part_of, refused
from zoo.data.pictures import Picture
from zoo.errors import InputError, Problem, listed, nearest

SUFFIXES = (".csv", ".tsv", ".parquet")
PICTURE_COLUMNS = ("path", "image", "file_name", "filename", "file", "picture", "img", "image_path", "filepath")
SPLIT_COLUMNS = ("split", "part", "subset", "fold")
BETWEEN = "|"
"""What stands between the classes of a picture that has several."""
MOST_CLASSES = 100_000
MOST_LETTERS = 2**24
"""Of a line."""
MOST_DIGITS = 100
"""Of a number of a class."""


class Table(NamedTuple):
    """Columns of equal length; `names` are the words of a column that holds numbers of classes, `part` is that of the whole file."""

    name: str
    columns: dict[str, list[Any]]
    names: dict[str, list[str]]
    part: str = ""


class Learned(NamedTuple):
    """What a table tells: the task, the labels, the target of each row."""

    task: Task
    labels: tuple[str, ...]
    targets: Sequence[Target]


class _Info(msgspec.Struct, frozen=True):
    features: dict[str, Any] = {}


class _Notes(msgspec.Struct, frozen=True):
    info: _Info = _Info()


def read(path: Path, target: str = "", task: Task | None = None) -> Labelled:
    """The labelled pictures of one table. Raises InputError with what is wrong with it."""
    table = _of_text(path) if path.suffix in (".csv", ".tsv") else _of_arrow(path)
    return _labelled([table], path, target, task)


def saved_by_datasets(folder: Path) -> list[Path]:
    """The Parquet or Arrow files of a folder that the library `datasets` saved, or that holds a data set of the Hub."""
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
    return files or (sorted(folder.rglob("*.arrow")) if saved else [])


def read_many(files: Sequence[Path], folder: Path, target: str = "", task: Task | None = None) -> Labelled:
    """The same of several files: `train-00000-of-00002.parquet` and `train/data-00000.arrow` are of the part `train`."""
    tables = [_of_arrow(file)._replace(part=part_of(file.name) or part_of(file.parent.name) or "") for file in files]
    return _labelled(tables, folder, target, task)


def _of_text(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
            rows = list(csv.DictReader(_lines(file), dialect=dialect, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refused(path, "a table in UTF-8, its first line the names of the columns", str(error)) from None
    short = [i for i, row in enumerate(rows, 2) if None in row or None in row.values()]
    if short:
        raise refused(path, f"{len(rows[0])} values in each line", f"another number in line {short[0]}")
    return Table(path.name, {name: [row[name] for row in rows] for name in rows[0]} if rows else {}, {})


def _lines(file: TextIO) -> Iterator[str]:
    """Raises csv.Error for a line that no memory would hold, such as that of a file of zeros."""
    while line := file.readline(MOST_LETTERS):
        if len(line) == MOST_LETTERS:
            raise csv.Error(f"a line of {MOST_LETTERS:,} letters and more")
        yield line


def _of_arrow(path: Path) -> Table:
    pyarrow = arrow(path.name)
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise refused(path, "a table that Arrow can read", str(error).splitlines()[0]) from None
    names = _names_of_classes((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    return Table(path.name, {name: table.column(name).to_pylist() for name in table.column_names}, names)


def _names_of_classes(facts: bytes) -> dict[str, list[str]]:
    """What the library `datasets` notes of columns that hold numbers of classes; nothing of notes by somebody else."""
    try:
        features = msgspec.json.decode(facts, type=_Notes).info.features
        named = {name: form["names"] for name, form in features.items() if isinstance(form, dict) and "names" in form}
        return msgspec.convert(named, dict[str, list[str]])
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _labelled(tables: Sequence[Table], source: Path, target: str, task: Task | None) -> Labelled:
    picture, division, targets = _roles(tables[0], source, target)
    needed = {picture, *targets} | ({division} if division else set())
    columns: dict[str, list[Any]] = {name: [] for name in targets}
    places: list[tuple[str, Picture]] = []
    root = source.parent if source.is_file() else source
    for table in tables:
        if missing := needed - table.columns.keys():
            raise refused(
                source,
                f"the same columns in each file: {listed(sorted(needed))}",
                f"none in {table.name}: {listed(sorted(missing))}",
            )
        for i, value in enumerate(table.columns[picture]):
            part = part_of(str(table.columns[division][i])) if division else table.part
            places.append((part or "", _picture(value, root, f"{table.name}/{i}", source)))
        for name in targets:
            columns[name] += _named_classes(table.columns[name], table.names.get(name), source)
    kind, labels, values = _targets(columns, source, task)
    out: dict[str, list[Example]] = {}
    for (part, place), value in zip(places, values, strict=True):
        out.setdefault(part, []).append(Example(place, value))
    if "" in out and len(out) > 1:
        out["train"] = out.get("train", []) + out.pop("")
    return Labelled(kind, labels, out)


def _roles(table: Table, source: Path, target: str) -> tuple[str, str | None, list[str]]:
    """The column of pictures, that of parts, and those that are learned."""
    if not any(table.columns.values()):
        raise refused(source, "rows below the names of the columns", "none")
    picture = _named(table, PICTURE_COLUMNS, source, "a column of pictures")
    division = next((name for name in SPLIT_COLUMNS if name in table.columns), None)
    targets = [name.strip() for name in target.split(",") if name.strip()]
    for name in targets:
        if name not in table.columns:
            near = nearest(name, table.columns)
            raise InputError("data", Problem(f"{source}: {name}", "a column", "none of that name", near))
    targets = targets or [name for name in table.columns if name not in (picture, division)]
    if not targets:
        raise refused(source, f"a column of labels beside `{picture}`", "none")
    return picture, division, targets


def _named_classes(values: list[Any], words: list[str] | None, source: Path) -> list[Any]:
    """Numbers of classes as their names, where these are known. Raises InputError for a number without a name, such as -1."""
    if words is None:
        return values
    odd = [value for value in values if not isinstance(value, int) or not 0 <= value < len(words)]
    if odd:
        raise refused(
            source, f"classes from 0 to {len(words) - 1}", repr(odd[0])[:40], "leave out rows that nobody labelled"
        )
    return [words[value] for value in values]


def _named(table: Table, names: Sequence[str], source: Path, what: str) -> str:
    known = {column.lower(): column for column in table.columns}
    for name in names:
        if name in known:
            return known[name]
    raise refused(source, f"{what}, called {listed(names[:4])}", f"columns {listed(list(table.columns), 8)}")


def _picture(value: Any, root: Path, name: str, source: Path) -> Picture:
    """Of a path, of bytes, or of the two together as `datasets` keeps them."""
    if isinstance(value, dict):
        path = value.get("path")
        value, name = (value["bytes"], path or name) if value.get("bytes") else (path, name)
    if isinstance(value, bytes):
        return Picture(str(name), data=value)
    if not isinstance(value, str) or not value:
        raise refused(source, "a path or the bytes of a picture in each row", f"a {type(value).__name__}")
    return Picture(value, str(root / value))


def _targets(columns: dict[str, list[Any]], source: Path, task: Task | None) -> Learned:
    """Raises InputError for values that fit no task, or not the one asked for."""
    if len(columns) > 1:
        return _of_columns(columns, source, task)
    (name, values), *_ = columns.items()
    figures = _numbers(values)
    whole = figures is not None and all(value == int(value) for value in figures)
    if task == "regression" or (task is None and figures is not None and not whole):
        if figures is None:
            raise refused(source, f"numbers in `{name}`", "words")
        return Learned("regression", (name,), [(value,) for value in figures])
    return _of_words(name, [_words(value) for value in values], source, task)


def _of_columns(columns: dict[str, list[Any]], source: Path, task: Task | None) -> Learned:
    """A number in each column, or a class in each, which is there or not."""
    numbers = {name: _numbers(values) for name, values in columns.items()}
    lacking = [name for name, values in numbers.items() if values is None]
    if lacking:
        step = "name the columns that are to be predicted: `--target a,b`"
        raise refused(source, "numbers in several columns of labels", f"words in `{lacking[0]}`", step)
    rows = list(zip(*(values for values in numbers.values() if values is not None), strict=True))
    marks = all(value in (0, 1) for row in rows for value in row)
    if (task or ("multilabel" if marks else "regression")) == "multilabel":
        return Learned("multilabel", tuple(columns), [tuple(i for i, value in enumerate(row) if value) for row in rows])
    return Learned("regression", tuple(columns), [tuple(row) for row in rows])


def _of_words(name: str, words: list[list[str]], source: Path, task: Task | None) -> Learned:
    """One class in each row, or any number of them."""
    labels = tuple(sorted({word for row in words for word in row}, key=_order))
    if len(labels) > MOST_CLASSES:
        raise refused(source, f"at most {MOST_CLASSES:,} classes in `{name}`", f"{len(labels):,}")
    place = {label: i for i, label in enumerate(labels)}
    lone = [i for i, row in enumerate(words) if len(row) != 1]
    if task == "multilabel" or (task is None and lone):
        return Learned("multilabel", labels, [tuple(sorted({place[word] for word in row})) for row in words])
    if lone:
        raise refused(source, f"one class in each row of `{name}`", f"{len(words[lone[0]])} in row {lone[0] + 1}")
    return Learned("classification", labels, [place[row[0]] for row in words])


def _words(value: Any) -> list[str]:
    """The classes of a cell: of a list, of a text with `|` between them, of a number."""
    items = value if isinstance(value, list) else str(value if value is not None else "").split(BETWEEN)
    return [word for item in items if (word := str(item).strip())]


def _order(word: str) -> tuple[bool, int, str]:
    """Whole numbers in their order, before words in theirs."""
    is_number = word.isdecimal() and len(word) <= MOST_DIGITS
    return (not is_number, int(word) if is_number else 0, word)


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """The values as finite numbers, or None where they are something else."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(value) for value in numbers) else None
