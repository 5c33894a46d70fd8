"""How far a run over many pictures is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from zoo.display.console import duration
from zoo.measure.processes import Progress

QUIET_SECONDS = 2.0
"""For which nobody needs to be told how far it is."""

Told = Callable[[Progress], None]
"""What hears of progress."""


def nobody(now: Progress) -> None:
    """Hears nothing."""


class Clock:
    """Counts pictures of `total`, and tells `progress` what their pace promises."""

    def __init__(self, total: int, progress: Told = nobody):
        self.total, self.progress, self.done, self.start = total, progress, 0, time.monotonic()

    def count(self, more: int = 1, what: str = "") -> None:
        self.done += more
        if (seconds := time.monotonic() - self.start) > QUIET_SECONDS:
            rate = self.done / seconds
            words = [what, f"{rate:.3g} pictures a second", f"{duration((self.total - self.done) / rate)} left"]
            self.progress(Progress(self.done, self.total, ", ".join(filter(None, words))))
