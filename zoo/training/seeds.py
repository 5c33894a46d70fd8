"""Randomness that follows from where it is used: of a picture in an epoch, of a step in a process. So nothing about it has to be kept:
a run that goes on draws what it would have drawn, in however many workers and processes."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_of(*key: object) -> int:
    """A number of 63 bits for a key of plain values; others for other keys."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def sow(*key: object) -> None:
    """All generators begin where `key` says."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def sown(*key: object) -> Iterator[None]:
    """The generators of the CPU begin where `key` says, and behind the block are where they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
