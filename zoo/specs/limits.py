"""How large a spec may become when it is written out, so that a small file does not ask for all memory."""

from __future__ import annotations

from zoo.errors import Problem
from zoo.specs.tree import Origin

MAX_STAGES = 64
MAX_LAYERS = 4_096
MAX_VALUES = 400_000
MAX_WRITTEN = 20_000
"""Values of all layers together, written out. The largest model of the catalogue has 1,279; each may become a block of a dozen."""


class TooLarge(Exception):
    """A spec that expands beyond all bounds; carries its problem."""

    def __init__(self, problem: Problem):
        super().__init__(problem.sentence())
        self.problem = problem


class Room:
    """How many values, and how many layers in lists, the stages may still be written out to."""

    def __init__(self) -> None:
        self.values, self.layers = MAX_WRITTEN, MAX_LAYERS

    def take_value(self, origin: Origin) -> None:
        self.values -= 1
        if self.values < 0:
            raise TooLarge(Problem(str(origin), f"layers that hold at most {MAX_WRITTEN:,} values", "more"))

    def take_layers(self, count: int, origin: Origin) -> None:
        self.layers -= count
        if self.layers < 0:
            raise TooLarge(Problem(str(origin), f"at most {MAX_LAYERS:,} layers", f"{MAX_LAYERS - self.layers:,}"))
