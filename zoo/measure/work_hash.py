"""Which work a measurement is of: rows of a model that asks other work of a machine today show as stale. Imports no torch.

Code that is tidied, refuses more or is moved leaves the work as it was; another operation, another shape, one more copy change it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pathlib

import msgspec

from zoo.measure.latency import Latency
from zoo.measure.load import Load, loads

NATIVE = "blocks.ops.native"
SCANS = ("causal_conv1d.cpp", "recurrence.cpp", "selective_scan.cpp")
"""Our own kernels, which do in one operation what counts cannot tell apart."""


def work_hash(load: Load) -> str:
    """12 hexadecimal digits for a load, and for the source of the kernels where they compute a scan."""
    digest = hashlib.sha256(msgspec.json.encode(load))
    if load.scan:
        digest.update(_kernels())
    return digest.hexdigest()[:12]


@functools.lru_cache(maxsize=8192)
def work_of(model: str, form: str) -> str:
    """That of a model of the catalogue, as its loads ship."""
    return work_hash(loads()[model][form])


def is_stale(row: Latency, model: str) -> bool:
    """Whether a model of the catalogue asked other work of the machine when the row was taken."""
    return bool(row.source) and row.source != work_of(model, row.form)


@functools.cache
def _kernels() -> bytes:
    home = importlib.util.find_spec(NATIVE)
    assert home is not None and home.origin is not None
    return b"".join(pathlib.Path(home.origin).with_name(name).read_bytes() for name in SCANS)
