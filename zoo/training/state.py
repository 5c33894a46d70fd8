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
    settings = [{key: value for key, value in group.items() if not is_odd(value)} for group in memory["param_groups"]]
    for part, entries in (
        ("state", memory["state"]),
        ("groups", dict(enumerate(settings))),
    ):  # what is odd there, the recipe says
        held, plain[part] = _parted(entries)
        tensors |= {f"{part}.{name}": tensor for name, tensor in held.items()}
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
    """Gives all three what they had when the file was written. Raises WeightsError for the state of another training."""
    said, tensors = _said(path), read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "state": {}, "groups": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    plain = said["plain"]
    try:
        model.load_state_dict(parts["model"])
        if average is not None:
            average.model.load_state_dict(parts["average"])
            average.step = plain["average_step"]
        optimizer.load_state_dict(_memory(optimizer, parts, plain))
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(
            str(path), Problem("", "the state of this very training", str(error).splitlines()[0])
        ) from None
    return msgspec.convert(said["facts"], Facts)


def _parted(entries: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """{index: {key: value}} as tensors {index.key: tensor} and plain values {index: {key: value}}. Raises InputError for others."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in entries.items():
        plain[str(index)] = {}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            elif not is_odd(value):
                plain[str(index)][key] = value
            else:
                found = f"a {type(value).__name__} in `{key}`"
                raise InputError(
                    "train", Problem("optimizer.name", "an optimiser that remembers tensors and numbers", found)
                )
    return tensors, plain


def _memory(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Mapping[str, Tensor]], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """The state of an optimiser as it gives and takes it."""
    parts: dict[str, dict[int, dict[str, Any]]] = {}
    for part in ("state", "groups"):
        parts[part] = {int(index): dict(values) for index, values in plain[part].items()}
        for name, tensor in tensors[part].items():
            index, _, key = name.partition(".")
            parts[part].setdefault(int(index), {})[key] = tensor
    groups = [group | parts["groups"][i] for i, group in enumerate(optimizer.state_dict()["param_groups"])]
    for group in groups:  # JSON has lists for tuples
        group.update({key: tuple(value) for key, value in group.items() if isinstance(value, list) and key != "params"})
    return {"state": parts["state"], "param_groups": groups}


def _said(path: Path) -> dict[str, Any]:
    with opened(path, path.name) as file:
        text = read_header(file, path.name).metadata.get(FACTS)
    if text is None:
        raise WeightsError(str(path), Problem("", "the state of a training", "tensors alone"))
    return msgspec.json.decode(text)  # type: ignore[no-any-return]


def is_odd(value: Any) -> bool:
    """Whether neither a tensor nor JSON can hold it: a dtype, a function."""
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, Tensor) or is_odd(item) for item in value)
    return not (value is None or isinstance(value, (bool, int, float, str, Tensor)))
