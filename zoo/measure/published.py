"""What papers and model pages print of the registered models, and where. Imports no torch."""

from __future__ import annotations

import functools
import tomllib
from typing import NamedTuple

from zoo import catalog
from zoo.collection import collections

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
    """By model."""
    found = {}
    for collection in collections().values():
        path = collection.data / PUBLISHED
        for table in tomllib.loads(path.read_text(encoding="utf-8")).values() if path.is_file() else ():
            form, differs = table.get("form", "train"), table.get("differs", "")
            for short, figures in table.items():
                if isinstance(figures, list):
                    name, (params, macs, *top1) = collection.full(short), figures
                    size = table.get("size") or catalog.entries()[name].input_size[-1]
                    found[name] = Published(params, macs, next(iter(top1), None), form, table["source"], size, differs)
    return found


def agrees(printed: str, counted: int) -> bool:
    """Whether the count, written with the printed digits, is what is printed, give or take one in the last of them."""
    if not printed:
        return True
    number, unit = printed[:-1], UNITS[printed[-1]]
    step = 10.0 ** -len(number.partition(".")[2])
    return abs(counted / unit - float(number)) <= step * (1 + 1e-9)
