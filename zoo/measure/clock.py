"""Timing one function in one process: warm-up until it stops paying, loops long enough for the clock, CPU time beside wall time."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

LEAST_MS = 1.0
"""What one sample must last at least; shorter functions are looped."""
PATIENCE = 4
"""How many times the time meant for it a measurement may take to reach its number of samples."""
GAIN = 0.02
"""Warm-up ends when the best of the next three runs is not better by this share."""


class Clock(Protocol):
    """`wall` and `cpu` in seconds; `wait` returns when all work that was given is done."""

    def wall(self) -> float: ...
    def cpu(self) -> float: ...
    def wait(self) -> None: ...


class CpuClock:
    """The CPU time is that of the calling thread, whatever the number of threads: it works or spins in all of a pass."""

    wall = staticmethod(time.perf_counter)
    cpu = staticmethod(time.thread_time)

    def wait(self) -> None:
        return None


class ProcessClock(CpuClock):
    """The CPU time is that of all threads: those of a runtime, not the calling one, do the work. At least the wall time, unless others run."""

    cpu = staticmethod(time.process_time)


class CudaClock(CpuClock):
    """Wall time in which the device has finished; the CPU's own time says nothing of it."""

    def wait(self) -> None:
        import torch

        torch.cuda.synchronize()


class Timing(NamedTuple):
    """Milliseconds for one call, one value for each sample."""

    ms: list[float]
    cpu_ms: list[float]
    loops: int
    warm_up: int


def measure(call: Callable[[], Any], seconds: float = 0.3, least: int = 5, clock: Clock | None = None) -> Timing:
    """At least `least` samples, more while `seconds` have not passed; of slow functions three must do."""
    clock = clock or CpuClock()
    with _no_collections():
        warm_up, once = _warm(call, clock, seconds)
        loops = max(1, math.ceil(LEAST_MS / max(once * 1e3, 1e-6)))
        ms: list[float] = []
        cpu_ms: list[float] = []
        end = clock.wall() + seconds
        while clock.wall() < end or len(ms) < (least if clock.wall() < end + PATIENCE * seconds else 3):
            clock.wait()
            wall, cpu = clock.wall(), clock.cpu()
            for _ in range(loops):
                call()
            clock.wait()
            ms.append((clock.wall() - wall) * 1e3 / loops)
            cpu_ms.append((clock.cpu() - cpu) * 1e3 / loops)
    return Timing(ms, cpu_ms, loops, warm_up)


def _warm(call: Callable[[], Any], clock: Clock, seconds: float) -> tuple[int, float]:
    """(calls, seconds of the fastest): at least three, and no longer than the measurement itself once those are done."""
    best, calls, end = math.inf, 0, clock.wall() + seconds
    while True:
        before = best
        for _ in range(3):
            clock.wait()
            start = clock.wall()
            call()
            clock.wait()
            best, calls = min(best, clock.wall() - start), calls + 1
            if clock.wall() > end and calls > 1:
                return calls, best
        if best > before * (1 - GAIN):
            return calls, best


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """So many threads for what torch does meanwhile, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_collections() -> Iterator[None]:
    """The garbage collector waits meanwhile."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
