"""A training that may be killed at any moment: all that it needs to go on, in one safetensors file that is whole or as it was.

Order, augmentation and what the model draws follow from the seed and the step (`seeds`), so the file holds weights, their average, what
the optimiser remembers, and plain facts: the step, the best figure, the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.errors import InputError, Problem, WeightsError
from zoo.system.folders import replacing
from zoo.training.loop import RunningAverage
from zoo.weights.header import read_header
from zoo.weights.load import read_tensors
from zoo.weights.opening import opened

FACTS = "zoo.training"
"""The key of the metadata under which the facts stand, as JSON."""


class Epoch(msgspec.Struct, frozen=True):
    """What was seen at the end of an epoch, counted from 1. `figure` is the more the better; `loss` that of the training part."""

    epoch: int
    loss: float
    held_out_loss: float
    figure: float
    rate: float


class Facts(msgspec.Struct):
    """Where a training stands. `losses` are those of the epoch that is not over; `waited` counts epochs without a better figure."""

    subject: str
    """A hash of recipe, model and data: another training does not go on from this."""
    step: int = 0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    waited: int = 0
    losses: list[float] = []
    history: list[Epoch] = []
    scaler: dict[str, float] = {}


def save_state(
    path: Path, facts: Facts, model: nn.Module, average: RunningAverage | None, optimizer: torch.optim.Optimizer
) -> None:
    """Raises InputError where nothing can be written, and for an optimiser that remembers more than tensors and numbers."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.model.state_dict().items()}
    plain: dict[str, Any] = {"average_step": average.step if average is not None else 0}
    memory = optimizer.state_dict()
    plain["groups"] = [
        {key: value for key, value in group.items() if _is_plain(value)} for group in memory["param_groups"]
    ]
    plain["numbers"] = {}
    for index, entries in memory["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif _is_plain(value):
                plain["numbers"].setdefault(str(index), {})[key] = value
            else:
                raise InputError(
                    "train",
                    Problem("optimizer.name", "an optimiser of tensors and numbers", f"a {type(value).__name__}"),
                )
    text = msgspec.json.encode({"facts": facts, "plain": plain}).decode()
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            safetensors.torch.save_file(copies, draft, metadata={FACTS: text})
    except (OSError, SafetensorError) as error:
        raise InputError("train", Problem(str(path), "a place to write to", str(error))) from None


def read_facts(path: Path) -> Facts:
    """What a file says of its training. Raises WeightsError and InputError for what is no such file."""
    return msgspec.convert(_said(path)["facts"], Facts)


def load_state(path: Path, model: nn.Module, average: RunningAverage | None, optimizer: torch.optim.Optimizer) -> Facts:
    """Gives all three what they had when the file was written. Raises WeightsError and InputError; nothing is changed then."""
    said, tensors = _said(path), read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    plain = said["plain"]
    try:
        model.load_state_dict(parts["model"])
        if average is not None:
            average.model.load_state_dict(parts["average"])
            average.step = plain["average_step"]
        optimizer.load_state_dict(_memory(optimizer, parts["optimizer"], plain))
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(
            str(path), Problem("", "the state of this very training", str(error).splitlines()[0])
        ) from None
    return msgspec.convert(said["facts"], Facts)


def _memory(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """The state of an optimiser as it gives and takes it."""
    memory = optimizer.state_dict()
    groups = [group | known for group, known in zip(memory["param_groups"], plain["groups"], strict=True)]
    state: dict[int, dict[str, Any]] = {int(index): dict(numbers) for index, numbers in plain["numbers"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    for group in groups:  # JSON has lists for tuples
        group.update({key: tuple(value) for key, value in group.items() if isinstance(value, list) and key != "params"})
    return {"state": state, "param_groups": groups}


def _said(path: Path) -> dict[str, Any]:
    with opened(path, path.name) as file:
        text = read_header(file, path.name).metadata.get(FACTS)
    if text is None:
        raise WeightsError(str(path), Problem("", "the state of a training", "tensors alone"))
    return msgspec.json.decode(text)  # type: ignore[no-any-return]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
