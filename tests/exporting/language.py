"""Language models as graphs of flat tensors: recorded once, run at any length, from nothing and from a state."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor

import zoo
from zoo.exporting.language import Streaming, state_leaves
from zoo.exporting.recurrences import recorded_ops, with_loops


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


def graph_of(model: Any, length: int = 7, before: int = 3, batch: int = 2) -> onnx.ModelProto:
    """The ONNX graph of a model with its state, for any batch, length and past."""
    leaves = state_leaves(model)
    net, tokens = Streaming(model, leaves).eval(), tokens_of(model, length, batch)
    with torch.no_grad():
        _, *past = net(tokens_of(model, before, batch), *(leaf.empty(batch) for leaf in leaves))
    axes: dict[str, dict[int, str]] = {"tokens": {0: "batch", 1: "length"}}
    for leaf in leaves:
        free = {axis: "batch" if axis == 0 else "past" for axis, size in enumerate(leaf.shape) if size is None}
        axes |= {leaf.name: free, f"{leaf.name}.after": free}
    buffer = io.BytesIO()
    with recorded_ops("onnx", dynamic=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (tokens, *past), buffer, opset_version=20, dynamo=False, dynamic_axes=axes,
            input_names=["tokens", *(leaf.name for leaf in leaves)],
            output_names=["logits", *(f"{leaf.name}.after" for leaf in leaves)],
        )  # fmt: skip
    return with_loops(onnx.load_from_string(buffer.getvalue()))


def is_language(name: str) -> bool:
    return zoo.catalog.entry(name).task == "language-modeling"
