"""Pictures -> rows: decoding in threads, ahead of a model that takes them in batches. The same here and in a worker of a cluster."""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from blocks.registry.words import printable, raised
from zoo import factory
from zoo.catalog.labels import labels
from zoo.data.pictures import Picture
from zoo.data.sources import Numbered
from zoo.data.transforms import Transform, transform
from zoo.errors import InputError, Problem, ProblemsError
from zoo.predicting.rows import Class, Row, Shape

MOST_WORKERS = 8


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to predict, and with what. `deploy`: a runtime, `auto` for the fastest that is installed, "" for torch's train form;
    `workers`: threads that decode, 0 for as many as there are cores, up to 8; `score`: of detectors, from which on a thing is told."""

    name: str
    top: Annotated[int, msgspec.Meta(ge=1)] = 5
    features: bool = False
    batch: Annotated[int, msgspec.Meta(ge=1)] = 32
    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    deploy: str = ""
    device: str = "cpu"
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3


def wished(name: str, **options: Any) -> Wish:
    """Raises InputError for options that there are not, and for values that they do not take."""
    try:
        return msgspec.convert({"name": str(name), **options}, Wish)
    except msgspec.ValidationError as error:
        step = f"options are {', '.join(Wish.__struct_fields__[1:])}"
        raise InputError("predict", Problem("", found=printable(error), next=step)) from None


class Placed(NamedTuple):
    """A picture and its position among all of a run."""

    position: int
    picture: Picture


class Predictor:
    """A model that is ready. Raises what `zoo.create` raises, and InputError for weights that do not say how pictures are prepared."""

    def __init__(self, wish: Wish):
        self.wish = wish
        changes: dict[str, Any] = {"num_classes": 0} if wish.features else {}
        model: Any = factory.create(wish.name, pretrained=True, **changes)
        self.manifest = model.pretrained
        if self.manifest.preprocess is None:
            expected = "weights that say how images are prepared"
            raise InputError(self.manifest.name, Problem("", expected, "no `preprocess` in their manifest"))
        self.prepare: Transform = transform(model)
        self.task = model.spec.family.task
        self.numbers = wish.features or self.task == "image-regression"
        """Whether an answer is numbers, and not classes."""
        self.labels = [] if self.numbers else known_labels(model)
        self.digest = model.digest
        self.model = self._deployed(model) if wish.deploy else on_device(wish.device, model)
        self.seconds = 0.0  # that the model alone has taken so far
        self.workers = wish.workers or min(MOST_WORKERS, os.cpu_count() or 1)

    def _deployed(self, model: Any) -> Any:
        from zoo.runtimes.deploy import deploy

        runtimes = [word.strip() for word in self.wish.deploy.split(",") if word.strip()]
        example = (self.wish.batch, *self._input)
        return deploy(model, runtimes[0] if len(runtimes) == 1 else runtimes, example=example)

    @property
    def _input(self) -> tuple[int, int, int]:
        form = self.prepare.preprocess
        return (form.channels, *form.rows_and_columns)

    @functools.cached_property
    def width(self) -> int:
        """How many logits or features there are, which the model itself is asked."""
        return int(self.outputs(torch.zeros(1, *self._input)).shape[-1])

    @property
    def shape(self) -> Shape:
        """What rows of this model have."""
        return Shape(0, self.width) if self.numbers else Shape(min(self.wish.top, self.width), 0)

    def outputs(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits or features (B, K), in float32 on the CPU. What is deployed gets the batch that it was made for."""
        start = time.perf_counter()
        with torch.inference_mode():
            if self.wish.deploy:
                missing = self.wish.batch - len(x)
                whole = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing > 0 else x
                values = self.model(whole)[: len(x)]
            else:
                values = self.model(x.to(self.wish.device)).float().cpu()
        self.seconds += time.perf_counter() - start
        return values

    def rows(self, pictures: Iterable[Placed]) -> Iterator[Row]:
        """A row for each picture, in their order."""
        for part, values in self.answers(pictures):
            yield from self._rows(part, values)

    def answers(
        self, pictures: Iterable[Placed], prepare: Transform | None = None
    ) -> Iterator[tuple[list[tuple[Placed, str]], Tensor]]:
        """Batches of pictures, each with the reason why it cannot be read or "", and the outputs of those that can. `prepare`: instead of
        the model's own transform."""
        decoded = self._decoded(pictures, prepare or self.prepare)
        while part := list(islice(decoded, self.wish.batch)):
            inputs = [x for _, x in part if isinstance(x, Tensor)]
            values = self.outputs(torch.stack(inputs)) if inputs else torch.empty(0, 0)
            yield [(placed, "" if isinstance(x, Tensor) else x) for placed, x in part], values

    def _decoded(self, pictures: Iterable[Placed], prepare: Transform) -> Iterator[tuple[Placed, Tensor | str]]:
        """Each with its input, or why there is none; a few batches ahead."""
        waiting: deque[tuple[Placed, Future[Tensor | str]]] = deque()
        pool = ThreadPoolExecutor(self.workers, "decode")
        try:
            for placed in pictures:
                waiting.append((placed, _begun(pool, prepare, placed.picture)))
                if len(waiting) > 2 * self.wish.batch:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _rows(self, part: list[tuple[Placed, str]], values: Tensor) -> Iterator[Row]:
        several = self.task == "multilabel-classification"
        chances = values if self.numbers else values.sigmoid() if several else values.softmax(-1)
        best = None if self.numbers or not len(values) else chances.topk(min(self.wish.top, chances.shape[-1]))
        done = 0
        for (position, picture), error in part:
            if error:
                yield Row(position, picture.name, error=error)
                continue
            if best is None:
                yield Row(position, picture.name, features=chances[done].numpy().tobytes())
            else:
                found = zip(best.indices[done].tolist(), best.values[done].tolist(), strict=True)
                classes = tuple(Class(self.label(index), index, chance) for index, chance in found)
                yield Row(position, picture.name, classes)
            done += 1

    def label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else str(index)


def _begun(pool: ThreadPoolExecutor, prepare: Transform, picture: Picture) -> Future[Tensor | str]:
    """An archive is read here, in its order; all else is the pool's."""
    try:
        return pool.submit(_input_of, prepare, picture.loaded() if isinstance(picture, Numbered) else picture)
    except Exception as error:  # of the archive's reader, as below
        refused: Future[Tensor | str] = Future()
        refused.set_result(reason_of(error))
        return refused


def _input_of(prepare: Transform, picture: Picture) -> Tensor | str:
    try:
        return prepare.one(picture.open(prepare.preprocess.channels))
    except Exception as error:  # whatever a decoder raises costs this picture, and no other
        return reason_of(error)


def reason_of(error: Exception) -> str:
    """Why there is no answer about a picture, in a line."""
    if isinstance(error, ProblemsError):
        return printable(error.problems[0].sentence())
    return f"a picture that cannot be decoded: {raised(error)}"


def on_device(device: str, model: Any) -> Any:
    """The model on a device of torch. Raises InputError for one that is not there."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError("predict", Problem("--device", "a device that torch has here", raised(error))) from None


def known_labels(model: Any) -> list[str]:
    """The names of a model's classes; none where nobody knows them."""
    try:
        return labels(model)
    except (InputError, ImportError):
        return []
