"""Which pictures a step sees, in which order, and as what tensors: a function of the seed and the number of the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.labelled import Example, Task, classes_of
from zoo.data.transforms import Transform
from zoo.errors import ProblemsError
from zoo.training.seeds import seed_of, sow, sown

Key = tuple[int, int]
"""(epoch, position of the example)."""


class LostPicture(Exception):
    """A picture that could be read before and cannot be read now. Of one string, as a worker's error has to be; its end says which and why."""


class Share(NamedTuple):
    """What one of several processes does: each takes its part of each batch, in `accumulate` parts of its own."""

    rank: int = 0
    processes: int = 1
    accumulate: int = 1


class Order(NamedTuple):
    """`examples` of them in an order of its own in each epoch, in batches of `batch_size`; a last, smaller batch is left out.

    With `weights` an epoch draws as many examples, with these chances and again and again."""

    examples: int
    batch_size: int
    seed: int
    weights: tuple[float, ...] | None = None

    @property
    def epoch_steps(self) -> int:
        return self.examples // self.batch_size

    def epoch(self, number: int) -> list[int]:
        draw = np.random.RandomState(seed_of("order", self.seed, number) % 2**32)
        if self.weights is None:
            return draw.permutation(self.examples).tolist()
        chances = np.asarray(self.weights)
        return draw.choice(self.examples, self.examples, p=chances / chances.sum()).tolist()

    def steps(self, start: int, end: int) -> Iterator[list[Key]]:
        """The whole batches of the steps from `start` on."""
        known, order = -1, []
        for step in range(start, end):
            epoch, place = divmod(step, self.epoch_steps)
            if epoch != known:
                known, order = epoch, self.epoch(epoch)
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(epoch, row) for row in rows]


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Items (epoch, i) -> (picture, target); what is drawn for one follows from the seed, the epoch and the name of the picture."""

    def __init__(self, examples: Sequence[Example], targets: Tensor, prepare: Transform, seed: int = 0):
        self.examples, self.targets, self.prepare, self.seed = examples, targets, prepare, seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, i = key
        picture = self.examples[i].picture
        with sown("picture", self.seed, epoch, picture.name) if self.prepare.train else nullcontext():
            try:
                return self.prepare.one(picture.open(self.prepare.preprocess.channels)), self.targets[i]
            except ProblemsError as error:
                raise LostPicture(f"{picture.name}: {error.problems[0].sentence()}") from None


class _Keys(Sampler[list[Key]]):
    def __init__(self, order: Order, start: int, end: int, share: Share):
        self.order, self.start, self.end, self.share = order, start, end, share

    def __iter__(self) -> Iterator[list[Key]]:
        rank, processes, accumulate = self.share
        size = self.order.batch_size // (processes * accumulate)
        for keys in self.order.steps(self.start, self.end):
            for part in range(rank * accumulate, (rank + 1) * accumulate):
                yield keys[part * size : (part + 1) * size]

    def __len__(self) -> int:
        return (self.end - self.start) * self.share.accumulate


def loader(
    pictures: Pictures, order: Order, start: int, end: int, share: Share = Share(), workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The parts of all batches from step `start` to `end` that are this process's, decoded ahead of their turn."""
    return DataLoader(pictures, batch_sampler=_Keys(order, start, end, share), **_workers(workers))


def in_turn(
    pictures: Pictures, batches: int | Sequence[Sequence[int]], workers: int = 0, again: bool = False
) -> DataLoader[tuple[Tensor, Tensor]]:
    """All pictures, each once, in their order, so many in a batch; or the batches that are named. `again`: the workers wait for the next time."""
    if isinstance(batches, int):
        batches = [range(start, min(start + batches, len(pictures))) for start in range(0, len(pictures), batches)]
    keys: Any = [[(0, i) for i in batch] for batch in batches]
    return DataLoader(pictures, batch_sampler=keys, persistent_workers=again and workers > 0, **_workers(workers))


def seeded(
    batches: DataLoader[tuple[Tensor, Tensor]], seed: int, start: int, share: Share
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same; what the model draws for a part of a batch follows from the seed and the part's number."""
    first, rank = start * share.accumulate, share.rank * share.accumulate
    for number, batch in enumerate(batches, first):
        step, part = divmod(number, share.accumulate)
        sow("step", seed, step, rank + part)
        yield batch


def targets_of(examples: Sequence[Example], task: Task, labels: int) -> Tensor:
    """int64 (N,) of classes, float32 (N, labels) of 0 and 1 for several classes, float32 (N, labels) of numbers."""
    if task == "classification":
        return torch.tensor([example.target for example in examples], dtype=torch.int64)
    if task == "regression":
        return torch.tensor([example.target for example in examples], dtype=torch.float32).view(-1, labels)
    marks = torch.zeros(len(examples), labels)
    for row, example in zip(marks, examples, strict=True):
        row[list(classes_of(example.target))] = 1.0
    return marks


def balanced_weights(examples: Sequence[Example], labels: int) -> tuple[float, ...]:
    """Of each example one over how often its rarest class occurs."""
    counts = np.bincount([label for example in examples for label in classes_of(example.target)], minlength=labels)
    return tuple(
        1.0 / min((int(counts[i]) for i in classes_of(example.target)), default=len(examples)) for example in examples
    )


def _workers(count: int) -> dict[str, Any]:
    pinned = torch.cuda.is_available()
    return {"num_workers": count, "worker_init_fn": _one_thread if count else None, "pin_memory": pinned}


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
