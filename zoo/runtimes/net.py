"""A net as a runtime meets it: which tensors go in and come out, and the net with flat tensors on both sides.

L is the length of a sequence of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.build.inputs import input_size
from zoo.build.language import LanguageModel
from zoo.errors import InputError, Problem, listed, nearest
from zoo.exporting.ports import flat
from zoo.runtimes.quiet import reason_of
from zoo.runtimes.signature import Input, Kind, Leaf, Signature, Sizes, shown
from zoo.specs.inputs import TokenInput

Dynamic = Literal["size", "batch", "none"]
DYNAMIC: tuple[Dynamic, ...] = ("size", "batch", "none")
ANOTHER = (32, 64)
"""Rows and columns that a picture has more where it is tried whether a net takes other sizes."""
SHORT = 2
"""Tokens of the shorter of two sequences whose states are compared."""


class Flat(nn.Module):
    """The net with the tensors of a signature: inputs and leaves of the state in, outputs and leaves out, each a plain tensor."""

    def __init__(self, net: nn.Module, signature: Signature):
        super().__init__()
        self.net, self.signature = net, signature

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        signature = self.signature
        if signature.kind == "language":
            count = len(signature.inputs)
            state = nested(signature.state, tensors[count:]) if signature.state else None
            prediction = self.net(*tensors[:count], state=state)
            return (prediction.logits, *(flattened(signature.state, prediction.state) if signature.state else ()))
        return flat(self.net(*tensors))


def nested(leaves: Sequence[Leaf], tensors: Sequence[Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """The state that blocks read, {module path: tensors}, of its leaves."""
    state: dict[str, list[Tensor]] = {}
    for leaf, tensor in zip(leaves, tensors, strict=True):
        state.setdefault(leaf.path, []).append(tensor)
    return {path: tuple(parts) for path, parts in state.items()}


def flattened(leaves: Sequence[Leaf], state: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The leaves of a state, in the order of the signature."""
    return tuple(state[leaf.path][leaf.index] for leaf in leaves)


def first_state(leaves: Sequence[Leaf], batch: int) -> tuple[Tensor, ...]:
    """The leaves before the first token."""
    return tuple(torch.zeros(batch, *leaf.first[1:], dtype=getattr(torch, leaf.dtype)) for leaf in leaves)


@torch.no_grad()
def signature_of(net: nn.Module, example: Tensor | Sequence[int] | None = None, dynamic: str = "size") -> Signature:
    """What goes into a net and comes out, found by running it.

    example: a tensor, or the shape of one, that the net is compiled, checked and timed with; else one input of the size that the model
    is made for. dynamic: `size` leaves batch and sizes free, as far as the net itself takes others; `batch` the batch alone; `none` takes
    the example's shape and no other. Raises InputError.
    """
    if dynamic not in DYNAMIC:
        raise InputError("deploy", Problem("dynamic", listed(DYNAMIC), f"`{dynamic}`", nearest(dynamic, DYNAMIC)))
    beside = getattr(getattr(net, "spec", None), "inputs", ())
    if beside:
        found = f"{listed([named.name for named in beside])} beside it"
        raise InputError("deploy", Problem("", "a net of one input", found))
    if isinstance(net, LanguageModel):
        return _of_tokens(net, example, dynamic)
    return _of_pictures(net, example, dynamic)


def _of_pictures(net: Any, example: Tensor | Sequence[int] | None, dynamic: str) -> Signature:
    declared = net.spec.input
    shape = _shape(example) or (1, declared.channels, *input_size(declared))
    if len(shape) != 4 or shape[1] != declared.channels or min(shape) < 1:
        expected = f"a shape (B, {declared.channels}, H, W)"
        raise InputError("deploy", Problem("example", expected, shown(shape)))
    y = _tried(net, shape)
    if isinstance(y, InputError):
        raise y
    free = dynamic == "size" and not isinstance(
        _tried(net, (1, shape[1], shape[2] + ANOTHER[0], shape[3] + ANOTHER[1])), InputError
    )
    sizes: Sizes = (
        None if dynamic != "none" else shape[0],
        shape[1],
        *((None, None) if free else shape[2:]),
    )
    kind, outputs = _kind_of(net, y)
    least = (1, shape[1], *_smallest(net, shape)) if free else ()
    return Signature(kind, (Input("x", "float32", sizes, shape, least=least),), outputs)


def _smallest(net: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the smallest square that leaves the net something to compute; at most those of the example.

    Runtimes may answer nothing at all with numbers, where torch refuses."""
    low, high = 0, min(shape[2:])
    while high - low > 1:
        side = (low + high) // 2
        y = _tried(net, (1, shape[1], side, side))
        fails = isinstance(y, InputError) or any(part.numel() == 0 or not part.isfinite().all() for part in flat(y))
        low, high = (side, high) if fails else (low, side)
    return high, high


def _kind_of(net: Any, y: Any) -> tuple[Kind, tuple[str, ...]]:
    """What a net returns, and names for it. Raises InputError for something else than a tensor, or several in a list or by name."""
    if isinstance(y, Tensor):
        return "tensor", ("logits" if net.num_classes else "features",)
    if isinstance(y, (list, tuple)) and y and all(isinstance(part, Tensor) for part in y):
        return "maps", tuple(f"level_{number}" for number in range(len(y)))
    if isinstance(y, dict) and y and all(isinstance(part, Tensor) for part in y.values()):
        return "named", tuple(y)
    found = f"a {type(y).__name__}"
    raise InputError("deploy", Problem(net.spec.name, "a net that returns a tensor, or a list or dict of them", found))


def _tried(net: nn.Module, shape: Sequence[int]) -> Any:
    """What the net answers to an input of zeros of this shape; the error that it raises, as an InputError."""
    try:
        return net(torch.zeros(*shape))
    except InputError as error:
        return error
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # blocks and torch say it each in their way
        return InputError(
            "deploy", Problem("example", "a shape that the model takes", f"{shown(tuple(shape))}: {reason_of(error)}")
        )


def _shape(example: Tensor | Sequence[int] | None) -> tuple[int, ...]:
    """The shape that is meant, () where none is given. Raises InputError for what is none."""
    sizes: Any = () if example is None else example.shape if isinstance(example, Tensor) else example
    if (
        isinstance(sizes, (str, bytes))
        or not isinstance(sizes, Sequence)
        or not all(type(size) is int for size in sizes)
    ):
        found = f"`{str(example)[:60]}`, of type {type(example).__name__}"
        raise InputError("deploy", Problem("example", "a tensor, or a shape: (1, 3, 224, 224)", found))
    return tuple(sizes)


def _of_tokens(net: LanguageModel, example: Tensor | Sequence[int] | None, dynamic: str) -> Signature:
    declared: Any = net.spec.input
    assert isinstance(declared, TokenInput)
    shape = _shape(example) or (1, *input_size(declared))
    if len(shape) != 2 or min(shape) < 1:
        raise InputError("deploy", Problem("example", "a shape (B, L) of tokens", shown(shape)))
    sizes: Sizes = {"size": (None, None), "batch": (None, shape[1]), "none": shape}[dynamic]  # type: ignore[assignment]
    ids = Input("ids", "int64", sizes, shape, 0, declared.vocab_size)
    if net.out_indices is not None:
        y = net(torch.zeros(1, SHORT, dtype=torch.long))
        return Signature("maps", (ids,), tuple(f"level_{number}" for number in range(len(y))))
    return Signature("language", (ids,), ("logits",), _leaves(net, dynamic))


def _leaves(net: LanguageModel, dynamic: str) -> tuple[Leaf, ...]:
    """The leaves of the state; none where zeros do not stand for a sequence that has not begun, or no other length is asked for."""
    ids = torch.arange(SHORT + 1).remainder(net.spec.input.vocab_size).unsqueeze(0)  # type: ignore[union-attr]
    longer, shorter = (net(ids[:, :length], state={}) for length in (SHORT + 1, SHORT))
    leaves, then = [], longer.state or {}
    for path, parts in (shorter.state or {}).items():
        for index, (short, long) in enumerate(zip(parts, then[path], strict=True)):
            grows = [now != then for now, then in zip(long.shape, short.shape, strict=True)]
            shape = tuple(
                None if grown or axis == 0 else size
                for axis, (grown, size) in enumerate(zip(grows, short.shape, strict=True))
            )
            first = tuple(0 if grown else size for grown, size in zip(grows, short.shape, strict=True))
            leaves.append(Leaf(path, index, str(short.dtype).removeprefix("torch."), shape, first))
    begun = net(ids, state=nested(leaves, first_state(leaves, 1))) if leaves else longer
    return tuple(leaves) if dynamic == "size" and torch.allclose(begun.logits, longer.logits, 1e-4, 1e-5) else ()
