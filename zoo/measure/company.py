"""What other programs take of this machine meanwhile, as the kernel tells: a figure measured beside a busy neighbour is none."""

from __future__ import annotations

import os
import pathlib
import time

BUSY = 0.08
"""Share of the machine taken by others above which a run counts as disturbed."""


class Company:
    """What other processes take of the machine, between its making and `share()`; NaN where the kernel does not tell."""

    def __init__(self) -> None:
        self.start = self._busy(), self._own(), time.perf_counter()

    def share(self) -> float:
        busy, own, since = self.start
        capacity = (time.perf_counter() - since) * (os.cpu_count() or 1)
        return max(0.0, (self._busy() - busy - (self._own() - own)) / capacity)

    @staticmethod
    def _busy() -> float:
        """Seconds of work that all processors have done, without idling and waiting for disks."""
        try:
            fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except (OSError, ValueError):
            return float("nan")
        user, nice, system, _, _, irq, softirq, steal = fields[:8]
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system
