"""What is known of a picture when the model has seen it, and the files that hold it. Imports no torch.

JSON lines nest classes; CSV and Parquet have a column for each: `label_1`, `index_1`, `chance_1`, …, the best first. Features are one
list in JSON lines and Parquet, and a column for each number in CSV. `error` says why a picture has none of them.
"""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from zoo.data.arrow import arrow
from zoo.errors import InputError, Problem, listed, nearest

GROUP = 4096
"""Rows of a group of a Parquet file."""


class Class(msgspec.Struct, frozen=True, array_like=True):
    """A class of the model: its name, its place among the logits, and its softmax, or its sigmoid where a picture has several classes."""

    label: str
    index: int
    chance: float


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One picture, at its position in the source. `features` are float32 numbers, as bytes."""

    position: int
    image: str
    classes: tuple[Class, ...] = ()
    features: bytes = b""
    error: str = ""

    @property
    def numbers(self) -> list[float]:
        return array("f", self.features).tolist()


class Shape(NamedTuple):
    """What all rows of a file have: a number of classes, and a number of features."""

    classes: int
    features: int


def plain(row: Row, digits: int = 6) -> dict[str, Any]:
    """A row as JSON has it."""
    if row.error:
        return {"image": row.image, "error": row.error}
    if row.features:
        return {"image": row.image, "features": row.numbers}
    classes = [{"label": c.label, "index": c.index, "chance": round(c.chance, digits)} for c in row.classes]
    return {"image": row.image, "classes": classes}


def write_jsonl(rows: Iterable[Row], path: Path, shape: Shape) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)


def write_csv(rows: Iterable[Row], path: Path, shape: Shape) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *_columns(shape), *(f"feature_{i}" for i in range(shape.features)), "error"])
        for row in rows:
            numbers: list[Any] = row.numbers or [""] * shape.features
            writer.writerow([row.image, *_cells(row, shape, ""), *numbers, row.error])


def write_parquet(rows: Iterable[Row], path: Path, shape: Shape) -> None:
    package = arrow(path)
    kinds = {"label": package.string(), "index": package.int32(), "chance": package.float32()}
    fields = [package.field("image", package.string())]
    fields += [package.field(name, kinds[name.partition("_")[0]]) for name in _columns(shape)]
    fields += [package.field("features", package.list_(package.float32()))] if shape.features else []
    schema = package.schema([*fields, package.field("error", package.string())])
    with package.parquet.ParquetWriter(path, schema) as writer:
        remaining = iter(rows)
        while part := list(islice(remaining, GROUP)):
            cells = [[row.image, *_cells(row, shape, None), *_listed(row, shape), row.error] for row in part]
            columns = zip(*cells, strict=True)
            arrays = [package.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(package.table(arrays, schema=schema))


def _columns(shape: Shape) -> Iterator[str]:
    for place in range(1, shape.classes + 1):
        yield from (f"label_{place}", f"index_{place}", f"chance_{place}")


def _cells(row: Row, shape: Shape, empty: Any) -> list[Any]:
    cells = [cell for each in row.classes for cell in (each.label, each.index, round(each.chance, 6))]
    return cells or [empty] * (3 * shape.classes)


def _listed(row: Row, shape: Shape) -> list[list[float] | None]:
    return [row.numbers or None] if shape.features else []


WRITERS: dict[str, Callable[[Iterable[Row], Path, Shape], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
"""By the ending of the file."""


def writer_of(path: Path) -> Callable[[Iterable[Row], Path, Shape], None]:
    """Raises InputError for an ending that no writer has, and where pyarrow is missing: before the first picture, not after the last."""
    ending = path.suffix.lower()
    if ending not in WRITERS:
        problem = Problem(
            "--out", f"a file that ends in {listed(list(WRITERS))}", f"`{ending}`", nearest(ending, WRITERS)
        )
        raise InputError(str(path), problem)
    if ending == ".parquet":
        arrow(path)
    return WRITERS[ending]
