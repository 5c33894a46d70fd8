"""Take the tensors out of what a training script wrapped around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from zoo.errors import Problem, listed
from zoo.weights.errors import TensorsError
from zoo.weights.plain import strange_entries

DEEPEST = 8
"""Envelopes one in the other. A mapping may hold itself, and then there is no end to them."""


def open_envelope(
    data: Mapping[str, Any],
    unwrap: Sequence[str] = (),
    strip_prefix: Sequence[str] = (),
    subject: str = "checkpoint",
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, torch.Tensor]:
    """{name: tensor} inside a checkpoint.

    While the mapping has a key of `unwrap` (the first in their order) that holds a mapping, that mapping is taken.
    A prefix of `strip_prefix` is removed if every name carries it but those that are `ignored`, as what lies beside the net is. Raises
    WeightsError naming what is not a plain tensor."""
    for _ in range(DEEPEST):
        data = next((data[key] for key in unwrap if isinstance(data.get(key), Mapping)), data)
    if wrong := strange_entries(data):
        raise TensorsError(subject, _hint(data, wrong, unwrap))
    tensors = {name: value.detach() for name, value in data.items()}
    for prefix in strip_prefix:
        counted = [name for name in tensors if not ignored(name)]
        if counted and all(name.startswith(prefix) and name != prefix for name in counted):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _hint(data: Mapping[str, Any], wrong: list[Problem], unwrap: Sequence[str]) -> list[Problem]:
    """If the tensors seem to be one level further in, say where."""
    mappings = {key: value for key, value in data.items() if isinstance(value, Mapping)}
    inner = [key for key, value in mappings.items() if any(map(torch.is_tensor, value.values()))]
    if not inner:
        return wrong
    opened = f"; the keys opened by themselves are {listed(list(unwrap))}" if unwrap else ""
    advice = f"pass the mapping under {listed([str(key) for key in inner])} itself{opened}"
    return [problem._replace(next=advice) if problem.where in inner else problem for problem in wrong]
