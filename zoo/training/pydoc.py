"""Training small language models on the docstrings of Python's library, byte by byte: one recipe, reproducible from its seed."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from zoo.artifacts.record import WEIGHTS
from zoo.build.groups import param_groups
from zoo.data import pydoc as text
from zoo.errors import InputError, Problem
from zoo.training.embedded import command_of, embed
from zoo.training.loop import Progress, RunningAverage, train
from zoo.weights.manifest import Manifest, Metric

TAG = "pydoc"
ASIDE = 32_768
"""Bytes of the training text that judge while a recipe is tuned."""


class TextRecipe(msgspec.Struct, frozen=True):
    """AdamW with warm-up and a cosine to zero on windows of `length` bytes, drawn anywhere in the text; decay only of matrices."""

    steps: int = 2400
    batch_size: int = 16
    length: int = 256
    lr: float = 4e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    ema_decay: float = 0.99
    seed: int = 0


class TextResult(NamedTuple):
    """A trained model, and how many bits it needs for each of `n` bytes that it was not trained on."""

    model: nn.Module
    bits_per_byte: float
    n: int
    seconds: float


def train_text(name: str, recipe: TextRecipe = TextRecipe(), progress: Progress | None = None) -> TextResult:
    """Trains the model `name` from scratch. Raises InputError for a model that does not read bytes.

    The same seed gives the same weights on one machine, with one number of threads and one Python.
    """
    from zoo.factory import create

    torch.manual_seed(recipe.seed)
    model = create(name)
    check_bytes(model)
    return fit_text(model, recipe, progress)


def fit_text(model: Any, recipe: TextRecipe, progress: Progress | None = None, tuning: bool = False) -> TextResult:
    """Trains in place; returns the running average, which is what generalises. Routers do not even out their loads here.

    `progress` is called after every hundredth step and the last, with the mean loss since the call before. While `tuning` a recipe, the
    end of the training text is set aside and judges, so that the held-out text stays unseen.
    """
    start = time.perf_counter()
    whole = text.training_text()
    judge = whole[-ASIDE:] if tuning else text.held_out_text()
    data = torch.frombuffer(bytearray(whole[:-ASIDE] if tuning else whole), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(
        param_groups(model, recipe.weight_decay, lr=recipe.lr), lr=recipe.lr, betas=(0.9, 0.95)
    )
    average, losses = RunningAverage(model, recipe.ema_decay), []
    steps = train(
        model, optimizer, _windows(data, recipe), _loss, steps=recipe.steps, warmup=recipe.warmup, average=average
    )
    for step, loss in enumerate(steps, 1):
        losses.append(loss)
        if progress is not None and (step % 100 == 0 or step == recipe.steps):
            progress(step, recipe.steps, sum(losses) / len(losses))
            losses = []
    bits, n = bits_per_byte(average.model, recipe.length, judge=judge)
    return TextResult(average.model, bits, n, time.perf_counter() - start)


def _windows(data: Tensor, recipe: TextRecipe) -> Iterator[Tensor]:
    """(batch_size, length + 1) bytes of each step, from anywhere in the text."""
    draw = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.steps):
        places = torch.randint(len(data) - recipe.length, (recipe.batch_size, 1), generator=draw)
        yield data[places + torch.arange(recipe.length + 1)].long()


def bits_per_byte(model: Any, length: int = 256, batch_size: int = 16, judge: bytes | None = None) -> tuple[float, int]:
    """(bits for each byte, bytes) on the held-out text, or on another, in windows of `length` bytes that know nothing of each other."""
    judge = text.held_out_text() if judge is None else judge
    data = torch.frombuffer(bytearray(judge), dtype=torch.uint8).long()
    windows = data[: len(data) // length * length].view(-1, length)
    with torch.inference_mode():
        nats = sum(
            float(F.cross_entropy(model(part[:, :-1]).logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
            for part in windows.split(batch_size)
        )
    n = windows[:, 1:].numel()
    return nats / n / math.log(2), n


def check_bytes(model: Any) -> None:
    """Raises InputError for a model whose tokens are not bytes."""
    check_bytes_of(model.spec, hasattr(model, "generate"))


def check_bytes_of(spec: Any, generates: bool = True) -> None:
    """`check_bytes` of a model that is known by its spec alone."""
    vocabulary = getattr(spec.input, "vocab_size", None)
    if vocabulary != text.BYTES or not generates:
        found = f"one of {vocabulary} tokens" if vocabulary else "one of images"
        next_step = "encode the text with the tokenizer of the model and call model.generate(ids)" if vocabulary else ""
        wanted = f"a language model of bytes ({text.BYTES} tokens)"
        raise InputError("text", Problem(spec.name, wanted, found, next=next_step))


def _loss(model: Any, windows: Tensor, ctx: Context) -> Tensor:
    logits = model(windows[:, :-1], ctx).logits
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def publish_text(name: str, result: TextResult, recipe: TextRecipe) -> Manifest:
    """Writes the weights and their manifest into the package that has the model: NAME.pydoc.safetensors and .json."""
    command = command_of("text", name, recipe, ("steps", "seed"))
    figure = Metric(
        value=round(result.bits_per_byte, 4),
        n=result.n,
        command=command,
        seed=recipe.seed,
        date=str(datetime.date.today()),
    )
    origin = "trained from scratch on the docstrings of Python's standard library; smoke weights: proof that the block learns, no ranking"
    manifest = Manifest(
        model=name,
        tag=TAG,
        digest=result.model.digest,  # type: ignore[arg-type]
        source=f"file:{WEIGHTS}",
        state="saved",
        licence="Apache-2.0",
        licence_class="permissive",
        origin=origin,
        metrics={f"{TAG}/bits_per_byte@{recipe.length}": figure},
        recipe=command,
    )
    return embed(result.model, manifest, (1, 32), origin)
