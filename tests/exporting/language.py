"""Language models as graphs of flat tensors: recorded once, run at any length, from nothing and from a state."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

import zoo
from zoo.exporting.language import Streaming, state_leaves, streaming
from zoo.exporting.onnx import write_onnx


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return zoo.create(name).eval()


def tokens_of(model: Any, length: int, batch: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(length)
    return torch.randint(0, model.spec.input.vocab_size, (batch, length), generator=draw)


def exact(model: Any, length: int) -> tuple[Tensor, ...]:
    """Logits and state after so many tokens, in float64."""
    twin = copy.deepcopy(model).double()
    leaves = state_leaves(twin)
    with torch.no_grad():
        return Streaming(twin, leaves)(tokens_of(model, length), *(leaf.empty() for leaf in leaves))


def graph_of(model: Any, folder: Path) -> onnx.ModelProto:
    """The ONNX graph of a model with its state, for any batch, length and past."""
    return onnx.load(str(write_onnx(*streaming(model), folder / "recorded.onnx", check=False)))


def is_language(name: str) -> bool:
    return zoo.catalog.entry(name).task == "language-modeling"
