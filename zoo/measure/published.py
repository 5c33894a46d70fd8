"""What papers and model pages print of the registered models, and where. Imports no torch."""

from __future__ import annotations

import functools
import re
import tomllib
from typing import Any, NamedTuple

from blocks.registry.words import is_text
from zoo import catalog
from zoo.catalog.collection import Collection, collections, read_data

PUBLISHED = "published.toml"
UNITS = {"k": 10**3, "M": 10**6, "G": 10**9}
PRINTED = re.compile(r"[0-9]+(\.[0-9]+)?[kMG]")
METRIC = "imagenet-1k/top1"
KIND = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9_]+")
"""A data set, and what is measured on it."""


class Published(NamedTuple):
    """`params` and `macs` with the digits that are printed, "" where none are; `accuracy` in percent, at `size`: the `kind` says of what.

    `accuracy_source` is where it is printed, `source` where the others are.
    """

    params: str
    macs: str
    accuracy: float | None
    kind: str
    form: str
    source: str
    accuracy_source: str
    size: int
    differs: str

    @property
    def metric(self) -> str:
        """`dataset/metric@size`."""
        return f"{self.kind}@{self.size}"

    @property
    def top1(self) -> float | None:
        """The accuracy of a model that was judged on ImageNet-1k."""
        return self.accuracy if self.kind == METRIC else None


@functools.cache
def published() -> dict[str, Published]:
    """The rows by model."""
    figures: dict[str, Published] = {}
    for collection in collections().values():
        figures |= read_data(
            collection, collection.data / PUBLISHED, functools.partial(_printed, collection), dict[str, Published]()
        )
    return figures


def _printed(collection: Collection, data: bytes) -> dict[str, Published]:
    """The rows by full name, each with the size of its images. Raises ValueError."""
    by_name, models = {}, catalog.entries()
    for short, row in figures_in(data).items():
        name = collection.full(short)
        if name not in models:
            raise ValueError(f"`{short}`: no model of the index")
        by_name[name] = row if row.size else row._replace(size=models[name].input_size[-1])
    return by_name


def figures_in(data: bytes) -> dict[str, Published]:
    """The rows of a file by the names in it; `size` is 0 where it is the model's own. Raises ValueError with the place."""
    rows = {}
    for group, table in tomllib.loads(data.decode("utf-8")).items():
        if not isinstance(table, dict):
            raise ValueError(f"`{group}`: no table of figures")
        for model, figures in table.items():
            if isinstance(figures, list):
                rows[model] = _row(model, figures, table)
    return rows


def _row(model: str, figures: list[Any], table: dict[str, Any]) -> Published:
    """One line, of texts that can be compared and printed, with what its table says of all. Raises ValueError."""
    form, source, differs = table.get("form", "train"), table.get("source", ""), table.get("differs", "")
    kind, elsewhere, size = table.get("metric", METRIC), table.get("accuracy_source", source), table.get("size", 0)
    if len(figures) not in (2, 3):
        raise ValueError(f"`{model}`: expected parameters, MACs and perhaps an accuracy; found {len(figures)} values")
    params, macs, accuracy = [*figures, None][:3]
    if not all(is_text(text) for text in (params, macs, form, source, elsewhere, differs)) or not source:
        raise ValueError(f"`{model}`: expected texts for parameters, MACs and the source")
    if wrong := [text for text in (params, macs) if text and not PRINTED.fullmatch(text)]:
        raise ValueError(f"`{model}`: expected a count such as 4.4M; found `{wrong[0]}`")
    if accuracy is not None and not (type(accuracy) in (int, float) and 0 <= accuracy <= 100):
        raise ValueError(f"`{model}`: expected an accuracy in percent; found {accuracy!r}")
    if not (isinstance(kind, str) and KIND.fullmatch(kind)):
        raise ValueError(f"`{model}`: expected a metric such as {METRIC}; found {kind!r}")
    if type(size) is not int or size < 0:
        raise ValueError(f"`{model}`: expected a size in pixels; found {size!r}")
    return Published(params, macs, accuracy, kind, form, source, elsewhere, size, differs)


def agrees(printed: str, counted: int) -> bool:
    """Whether the count, written with the printed digits, is what is printed, give or take one in the last of them."""
    if not printed:
        return True
    number, unit = printed[:-1], UNITS[printed[-1]]
    step = 10.0 ** -len(number.partition(".")[2])
    return abs(counted / unit - float(number)) <= step * (1 + 1e-9)
