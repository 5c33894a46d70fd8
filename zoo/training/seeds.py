"""Randomness that follows from where it is used: of a picture in an epoch, of a step in a process. So nothing about it has to be kept:
a run that goes on draws what it would have drawn, in however many workers and processes."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import get_worker_info


def seed_of(*key: object) -> int:
    """A number of 63 bits for a key of plain values; others for other keys."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def sow(*key: object) -> None:
    """All generators begin where `key` says."""
    seed = _sow_on_cpu(key)
    if (
        torch.accelerator.is_available()
    ):  # where there is none, torch writes down the stack of calls to seed one that may come
        torch.manual_seed(seed)


@contextlib.contextmanager
def sown(*key: object) -> Iterator[None]:
    """The generators of the CPU begin where `key` says, and behind the block are where they were.

    In a worker of a loader, where nobody else draws, they stay: to keep and to give back takes longer than to begin."""
    if get_worker_info() is not None:
        _sow_on_cpu(key)
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _sow_on_cpu(key)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _sow_on_cpu(key: tuple[object, ...]) -> int:
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    return seed
