"""How well each sequence mixer learned each generated task, as shipped; `zoo train tasks --publish` makes it. Imports no torch."""

from __future__ import annotations

import functools

import msgspec

from zoo.catalog.collection import CORE

TABLE = CORE.data / "tasks.json"


class TaskRecipe(msgspec.Struct, frozen=True):
    """AdamW with warm-up and a cosine to zero; fresh sequences at every step; the gradient's norm is cut at 1.

    One rate for all mixers: of 39 pairs of mixer and task tried at 0.005 and 0.01, the latter was better in 29, and most others were
    solved, or at chance, at both.
    One layer, so that a mixer shows what it can by itself, and a width at which a state cannot hold all pairs of `recall` side by side.
    """

    steps: int = 500
    batch_size: int = 32
    dim: int = 32
    depth: int = 1
    lr: float = 1e-2
    weight_decay: float = 0.01
    warmup: float = 0.1


class TaskRow(msgspec.Struct, frozen=True):
    """Accuracy on held-out sequences for each seed from 0 on."""

    mixer: str
    task: str
    accuracies: list[float]
    params: int

    @property
    def mean(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)


class TaskTable(msgspec.Struct, frozen=True):
    """The rows of one recipe; `chance` is the accuracy of a guess, for each task."""

    recipe: TaskRecipe
    chance: dict[str, float]
    rows: list[TaskRow]

    def names(self) -> list[str]:
        """The mixers; what recalls best comes first."""
        mixers = {row.mixer for row in self.rows}
        return sorted(mixers, key=lambda name: (-self.scores(name).get("recall", 0), name))

    def scores(self, mixer: str) -> dict[str, float]:
        """Task -> mean accuracy of a mixer, in the order of `chance`; empty for one that it does not hold."""
        means = {row.task: row.mean for row in self.rows if row.mixer == mixer}
        return {task: means[task] for task in self.chance if task in means}


@functools.cache
def shipped() -> TaskTable:
    """The table of the package; empty where none was written."""
    if not TABLE.is_file():
        return TaskTable(TaskRecipe(), {}, [])
    return msgspec.json.decode(TABLE.read_bytes(), type=TaskTable)


def scores(mixer: str) -> dict[str, float]:
    """Task -> mean accuracy of a mixer in the shipped table."""
    return shipped().scores(mixer)
