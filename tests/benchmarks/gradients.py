"""What training costs beside a forward pass, and at twice the length, for each core.

Runs last of all, with an allocator that keeps what was freed: as it comes, glibc gives tens of megabytes back to the system
after one step and not after the next, and faulting them in again takes as long as the gradient itself.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from torch import Tensor

from blocks.ops.delta_rule import delta_rule
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.ops.selective_scan import selective_scan
from tests.benchmarks import ops, recurrences
from tests.benchmarks.harness import Comparison, compare
from tests.benchmarks.ops import L, _backends, _on, _quietly, _training

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of parameters of glibc's `mallopt`."""


def run(rounds: int = 15) -> dict[str, Comparison]:
    """The forward pass is the baseline of each row."""
    keep_freed_memory()
    rows = {
        f"what a gradient costs a selective scan, L={L}": _both_ways(selective_scan, ops._inputs(), ops._inputs(2 * L)),
        f"what a gradient costs a linear recurrence, L={L}": _both_ways(linear_recurrence, recurrences._decayed()),
        f"what a gradient costs a delta rule, L={L}": _both_ways(delta_rule, recurrences._delta()),
    }
    return {name: compare(candidates, rounds) for name, candidates in rows.items()}


def keep_freed_memory() -> None:
    """For the rest of the process; without glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_THRESHOLD, 2**30)


def _both_ways(op: Any, inputs: tuple[Tensor, ...], twice: tuple[Tensor, ...] = ()) -> dict[str, Any]:
    """Forward alone, then with gradients by each backend, and by the fastest at twice the length where that is given."""
    backends = _backends("selective_scan" if op is selective_scan else "recurrence")
    fastest = backends[-1]
    ways = {f"forward, {fastest}": _on(fastest, _quietly(lambda: op(*inputs)))}
    ways |= {f"{name}, both ways": _on(name, _training(op, inputs)) for name in backends}
    return ways | ({f"{fastest}, both ways, 2 L": _on(fastest, _training(op, twice))} if twice else {})
