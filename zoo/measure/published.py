"""What papers and model pages print of the registered models, and where. Imports no torch."""

from __future__ import annotations

import functools
import tomllib
from typing import NamedTuple

from blocks.registry.words import is_text
from zoo import catalog
from zoo.catalog.collection import Collection, collections, read_data

PUBLISHED = "published.toml"
UNITS = {"k": 10**3, "M": 10**6, "G": 10**9}
METRIC = "imagenet-1k/top1"


class Published(NamedTuple):
    """`params` and `macs` with the digits that are printed, "" where none are; `top1` in percent, at `size`."""

    params: str
    macs: str
    top1: float | None
    form: str
    source: str
    size: int
    differs: str

    @property
    def metric(self) -> str:
        """`dataset/metric@size`."""
        return f"{METRIC}@{self.size}"


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
    by_name = {}
    for table in tomllib.loads(data.decode("utf-8")).values():
        form, differs = table.get("form", "train"), table.get("differs", "")
        for short, figures in table.items():
            if isinstance(figures, list):
                name, (params, macs, *top1) = collection.full(short), figures
                size = table.get("size") or catalog.entries()[name].input_size[-1]
                by_name[name] = Published(params, macs, next(iter(top1), None), form, table["source"], size, differs)
                if fault := _fault(by_name[name]):
                    raise ValueError(f"`{short}`: {fault}")
    return by_name


def _fault(one: Published) -> str:
    """What cannot be printed or compared, or ""."""
    texts = all(is_text(text) for text in (one.params, one.macs, one.form, one.source, one.differs))
    top1 = one.top1 is None or (type(one.top1) in (int, float) and 0 <= one.top1 <= 100)
    return "" if texts and top1 and type(one.size) is int else "figures that are none"


def agrees(printed: str, counted: int) -> bool:
    """Whether the count, written with the printed digits, is what is printed, give or take one in the last of them."""
    if not printed:
        return True
    number, unit = printed[:-1], UNITS[printed[-1]]
    step = 10.0 ** -len(number.partition(".")[2])
    return abs(counted / unit - float(number)) <= step * (1 + 1e-9)
