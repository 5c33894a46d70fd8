"""A model as the pieces that its forward pass runs one after another; their times add up to that of the model.

A piece is a stem, a downsample, the entrance or exit of a view, one layer, a post or a head. Two pieces of the same structure
that meet inputs of the same shape are one `key`, whatever models they stand in: what is measured once is known everywhere.
They are timed where they stand, in passes of a whole net: a piece alone would find its weights in the cache, which a net finds there
only as far as all of it fits, and its input as no other piece leaves it.
"""

from __future__ import annotations

import copy
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from zoo.build.backbone import Backbone
from zoo.build.inputs import meta_input
from zoo.measure.clock import measure

Call = Callable[[nn.Module, Tensor, Context | None, Any], Any]

DRAWN = 262_147
"""Random numbers that `give_values` draws; a prime, so that no two rows of a matrix are the same ones."""


class Piece(NamedTuple):
    """`x` is its input in a pass on meta: shape and strides alone."""

    path: str
    key: str
    module: nn.Module
    call: Call
    x: Tensor
    weight_bytes: int


@torch.no_grad()
def pieces(model: Backbone, batch: int = 1) -> Iterator[Piece]:
    """The pieces of a model on meta, in the order in which they run."""
    x = meta_input(model.spec, batch)
    x = x.to(next(model.parameters()).dtype) if x.is_floating_point() else x
    ctx = Context() if model.reads_slots else None
    memo: Any = None
    for path, module, call in _calls(model):
        if x.ndim == 4:  # as the stream is in memory; on meta strides go their own ways
            x = x.contiguous(memory_format=torch.channels_last)
        context = copy.copy(ctx) if ctx is not None else None
        if context is not None:
            context.slots = {slot: dict(values) for slot, values in context.slots.items()}
        yield Piece(path, _key(module, call, x, context, memo), module, call, x, _bytes(module))
        result = call(module, x, ctx, memo)
        x, memo = result if call is _enter else (result, memo)


def piece_times(model: Backbone, x: Tensor, seconds: float) -> list[float]:
    """Milliseconds of each piece, in the order in which they run: medians over whole passes of a model that is in memory.

    They are the thread's own time, which others do not stretch by taking the processor.
    """
    passes: list[list[float]] = []
    timing = measure(lambda: passes.append(_timed_pass(model, x)), seconds)
    return [statistics.median(times) for times in zip(*passes[timing.warm_up :], strict=True)]


def _timed_pass(model: Backbone, x: Tensor) -> list[float]:
    value: Any = x
    ctx = Context() if model.reads_slots else None
    memo: Any = None
    times = []
    for _, module, call in _calls(model):
        start = time.thread_time()
        result = call(module, value, ctx, memo)
        times.append(1e3 * (time.thread_time() - start))
        value, memo = result if call is _enter else (result, memo)
    return times


def _calls(model: Backbone) -> Iterator[tuple[str, nn.Module, Call]]:
    if model.stem is not None:
        yield "stem", model.stem, _run
    for i, stage in enumerate(model.stages):
        path = f"stages.{i}"
        if stage.downsample is not None:
            yield f"{path}.downsample", stage.downsample, _run  # type: ignore[misc]
        if stage.view is not None:
            yield f"{path}.view", stage.view, _enter  # type: ignore[misc]
        for j, layer in enumerate(stage.layers):  # type: ignore[arg-type]
            yield f"{path}.layers.{j}", layer, _run
        if stage.view is not None:
            yield f"{path}.view", stage.view, _exit  # type: ignore[misc]
        if stage.post is not None:
            yield f"{path}.post", stage.post, _run  # type: ignore[misc]
    if model.head is not None:
        yield "head", _Tied(model.head) if getattr(model.head, "tie", None) else model.head, _run


class _Tied(nn.Module):
    """A head together with the table that it shares, which is no module of its own."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head, self.table = head, head.table[0]  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        return run(self.head, x)


def _run(module: nn.Module, x: Tensor, ctx: Context | None, memo: Any) -> Tensor:
    return run(module, x, ctx)


def _enter(module: nn.Module, x: Tensor, ctx: Context | None, memo: Any) -> Any:
    return module.enter(x)  # type: ignore[operator]


def _exit(module: nn.Module, x: Tensor, ctx: Context | None, memo: Any) -> Any:
    return module.exit(x, memo)  # type: ignore[operator]


def _key(module: nn.Module, call: Call, x: Tensor, ctx: Context | None, memo: Any) -> str:
    """Hash of all that the time can depend on: classes, plain attributes, shapes of parameters and buffers, the input."""
    lines = [call.__name__, _layout((x, ctx, memo))]
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if key not in UNTIMED and _is_plain(value)}
        tensors = {
            key: (tuple(value.shape), str(value.dtype))
            for key, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        }
        lines.append(f"{name} {type(part).__qualname__} {sorted(plain.items())!r} {sorted(tensors.items())!r}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


UNTIMED = {
    "training",
    "path",
    "depth_index",
    "drop",
    "drop_path",
    "drop_prob",
    "attn_drop",
    "proj_drop",
    "eps",
    "momentum",
}
"""Attributes that differ between pieces which take the same time."""


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple))


def _layout(value: Any) -> str:
    """Shapes, dtypes and strides of all tensors in a value."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {value.stride()}"
    if isinstance(value, Context):
        return _layout(list(value.slots.values()))
    if isinstance(value, dict):
        return _layout(list(value.values()))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_layout(part) for part in value)}]"
    return repr(value) if _is_plain(value) else type(value).__name__


@torch.no_grad()
def give_values(module: nn.Module) -> None:
    """Values that keep activations normal numbers, in a fraction of the time of an initialisation."""
    drawn = torch.empty(DRAWN).uniform_(-1, 1)
    for part in module.modules():
        for tensor in [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            if not tensor.is_floating_point():
                tensor.zero_()
            elif tensor.ndim > 1:
                _repeat(drawn * (tensor.numel() / tensor.shape[0]) ** -0.5, tensor)
            else:
                tensor.fill_(0.1)  # scales and shifts: with more, what deep nets add up would leave float32
        if callable(reset := getattr(part, "reset_buffers", None)):
            reset()


def _repeat(drawn: Tensor, tensor: Tensor) -> None:
    """The same numbers again and again: copying them is several times as fast as drawing more."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())  # in whatever order its strides have
    for piece in memory.split(len(drawn)):
        piece.copy_(drawn[: len(piece)])


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
