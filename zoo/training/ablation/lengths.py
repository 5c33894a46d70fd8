"""What a block alone takes as sequences grow: time in turns with the others, and memory as it is counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import construct
from blocks.context import Context
from blocks.registry.slots import Place
from zoo.measure.clock import on_threads
from zoo.measure.op_counter import Work

LENGTHS = (256, 1024, 4096)
ROUNDS = 5
MOST_SECONDS = 5.0
"""A block that takes longer than this at one length is not tried at the next."""


class Growth(NamedTuple):
    """Milliseconds of a forward pass on one thread, and bytes that it holds at one time, for one sequence of `length`."""

    block: str
    length: int
    ms: float
    peak_bytes: int


def growth(calls: dict[str, Any], dim: int, tokens: bool) -> list[Growth]:
    """How the time of each block grows with the length, by name; images are square."""
    rows: list[Growth] = []
    slow: set[str] = set()
    with on_threads(1):
        for length in LENGTHS:
            inputs = _input(length, dim, tokens)
            modules = {name: _built(call, inputs, dim) for name, call in calls.items() if name not in slow}
            spent: dict[str, list[float]] = {name: [] for name in modules}
            for _ in range(ROUNDS + 1):
                for name, module in modules.items():
                    start = time.perf_counter()
                    with torch.inference_mode():
                        run(module, inputs, Context())
                    spent[name].append(time.perf_counter() - start)
            for name, seconds in spent.items():
                ms = 1e3 * statistics.median(seconds[1:])
                rows.append(Growth(name, length, ms, _peak(calls[name], inputs, dim)))
                slow |= {name} if ms > 1e3 * MOST_SECONDS else set()
    return rows


def _input(length: int, dim: int, tokens: bool) -> Tensor:
    side = int(length**0.5)
    x = torch.randn(1, length, dim) if tokens else torch.randn(1, dim, side, side)
    return x if tokens else x.contiguous(memory_format=torch.channels_last)


def _built(call: Any, x: Tensor, dim: int) -> nn.Module:
    size = tuple(x.shape[1:2]) if x.ndim == 3 else tuple(x.shape[2:])
    torch.manual_seed(0)
    module = construct(call, Place(sizes=lambda: size), dim)
    return (module if module is not None else nn.Identity()).eval()


def _peak(call: Any, x: Tensor, dim: int) -> int:
    with torch.device("meta"):
        module = _built(call, x, dim)
        work = Work(watch_memory=True)
        with torch.no_grad(), work:
            run(module, x.to("meta"), Context())
    return work.peak_bytes


def ratio(rows: Sequence[Growth], block: str) -> float:
    """The factor by which the time grows from the shortest to the longest length that was tried, for each token."""
    block_rows = [row for row in rows if row.block == block]
    return (block_rows[-1].ms / block_rows[0].ms) / (block_rows[-1].length / block_rows[0].length)
