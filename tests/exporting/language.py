"""Language models as graphs of flat tensors: recorded once, run at any length, from nothing and from a state."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

import zoo
from zoo.exporting.language import Streaming, state_leaves
from zoo.exporting.onnx import write_onnx
from zoo.exporting.ports import Port, Ports


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


def graph_of(model: Any, folder: Path, length: int = 7, before: int = 3, batch: int = 2) -> onnx.ModelProto:
    """The ONNX graph of a model with its state, for any batch, length and past."""
    leaves = state_leaves(model)
    net, tokens = Streaming(model, leaves).eval(), tokens_of(model, length, batch)
    with torch.no_grad():
        _, *past = net(tokens_of(model, before, batch), *(leaf.empty(batch) for leaf in leaves))
    ports = [Port("tokens", tokens, {0: "batch", 1: "length"})]
    for leaf, kept in zip(leaves, past, strict=True):
        free = {axis: "batch" if axis == 0 else "past" for axis, size in enumerate(leaf.shape) if size is None}
        ports.append(Port(leaf.name, kept, free))
    outputs = ("logits", *(f"{leaf.name}.after" for leaf in leaves))
    return onnx.load(str(write_onnx(net, Ports(tuple(ports), outputs), folder / "recorded.onnx", check=False)))


def is_language(name: str) -> bool:
    return zoo.catalog.entry(name).task == "language-modeling"
