"""A net as a runtime meets it: which tensors go in and come out, and the net with flat tensors on both sides.

L is the length of a sequence of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.build.inputs import drawn_inputs, meta_inputs
from zoo.build.language import LanguageModel
from zoo.errors import InputError, Problem, listed, nearest
from zoo.exporting.ports import FREE, IMAGE, Port, flat, ports_of
from zoo.runtimes.quiet import reason_of
from zoo.runtimes.signature import Input, Kind, Leaf, Signature, Sizes, shown
from zoo.specs.inputs import ImageInput, TokenInput
from zoo.specs.model import Described

Example = Tensor | Sequence[int] | Sequence[Tensor | Sequence[int]] | None
"""What a net is made and timed for: a tensor or a shape, or one for each of several inputs."""
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
def signature_of(net: nn.Module, example: Example = None, dynamic: str = "size") -> Signature:
    """What goes into a net and comes out, found by running it.

    example: a tensor, or the shape of one, that the net is compiled, checked and timed with, and of a net of several inputs one for each;
    else one input of the size that the model is made for. dynamic: `size` leaves batch and sizes free, as far as the net itself takes
    others; `batch` the batch alone; `none` takes the example's shape and no other. Raises InputError.
    """
    if dynamic not in DYNAMIC:
        raise InputError("deploy", Problem("dynamic", listed(DYNAMIC), f"`{dynamic}`", nearest(dynamic, DYNAMIC)))
    model: Any = net
    shapes = _shapes(model.spec, example)
    if isinstance(net, LanguageModel):
        return _of_tokens(net, shapes[0], dynamic)
    if type(model.spec.input) is ImageInput and not model.spec.inputs:
        return _of_pictures(net, shapes[0], dynamic)
    return _of_ports(net, shapes, dynamic)


def _shapes(spec: Described, example: Example) -> list[tuple[int, ...]]:
    """The shape of each input that is meant. Raises InputError for what is none, and for another number of them."""
    names = names_in(spec)
    own = [tuple(x.shape) for x in meta_inputs(spec)]
    if example is None:
        return own
    one_alone = isinstance(example, Tensor) or (
        isinstance(example, Sequence) and all(type(size) is int for size in example) and len(own) == 1
    )
    given = [example] if one_alone else list(example) if isinstance(example, Sequence) else []
    shapes: list[Any] = [tuple(x.shape) if isinstance(x, Tensor) else x for x in given]
    sound = [
        isinstance(shape, Sequence) and not isinstance(shape, str) and all(type(size) is int for size in shape)
        for shape in shapes
    ]
    if isinstance(example, (str, bytes)) or len(shapes) != len(own) or not all(sound):
        each = f", for each of {listed(names)}" if len(own) > 1 else ""
        found = f"`{str(example)[:60]}`, of type {type(example).__name__}"
        expected = f"a tensor, or a shape: {shown(own[0])}{each}"
        raise InputError("deploy", Problem("example", expected, found))
    return [tuple(shape) for shape in shapes]


def names_in(spec: Described) -> tuple[str, ...]:
    """What the inputs of a model are called where it is deployed: `ids` or `x`, and the others as its spec calls them."""
    return ("ids" if isinstance(spec.input, TokenInput) else "x", *(named.name for named in spec.inputs))


def _of_pictures(net: Any, shape: tuple[int, ...], dynamic: str) -> Signature:
    declared = net.spec.input
    if len(shape) != 4 or shape[1] != declared.channels or min(shape) < 1:
        expected = f"a shape (B, {declared.channels}, H, W)"
        raise InputError("deploy", Problem("example", expected, shown(shape)))
    y = _tried(net, torch.zeros(*shape))
    if isinstance(y, InputError):
        raise y
    free = dynamic == "size" and not isinstance(
        _tried(net, torch.zeros(1, shape[1], shape[2] + ANOTHER[0], shape[3] + ANOTHER[1])), InputError
    )
    sizes: Sizes = (
        None if dynamic != "none" else shape[0],
        shape[1],
        *((None, None) if free else shape[2:]),
    )
    kind, outputs = _kind_of(net, y)
    least = (1, shape[1], *_smallest(net, shape)) if free else ()
    return Signature(kind, (Input("x", "float32", sizes, shape, least=least, axes=IMAGE),), outputs)


def _of_ports(net: Any, shapes: Sequence[tuple[int, ...]], dynamic: str) -> Signature:
    """A net of other inputs than one picture, with those axes free of which the net itself takes other sizes."""
    examples = [_like(x, shape) for x, shape in zip(drawn_inputs(net.spec), shapes, strict=True)]
    y = _tried(net, *examples)
    if isinstance(y, InputError):
        raise y
    named = [port.free for port in ports_of(net, examples, FREE).inputs]
    choices = {"size": (FREE, FREE[:1], ()), "batch": (FREE[:1], ()), "none": ((),)}[dynamic]
    for words in choices:
        ports = ports_of(net, examples, words)
        other = next(ports.others(), None)
        if other is None or not isinstance(_tried(net, *other), InputError):
            break
    kind, outputs = _kind_of(net, y)
    inputs = [
        _input(name, port, axes, declared)
        for name, port, axes, declared in zip(
            names_in(net.spec), ports.inputs, named, (net.spec.input, *net.spec.inputs), strict=True
        )
    ]
    return Signature(kind, tuple(inputs), outputs)


def _input(name: str, port: Port, axes: Mapping[int, str], declared: Any) -> Input:
    """An input as a runtime meets it, of the port that an exporter meets."""
    shape = tuple(port.example.shape)
    sizes = tuple(None if axis in port.free else size for axis, size in enumerate(shape))
    dtype = str(port.example.dtype).removeprefix("torch.")
    whole = not port.example.is_floating_point() and port.example.dtype != torch.bool
    high = getattr(declared, "vocab_size", getattr(declared, "count", 0)) if whole else 0
    span = port.span[1] if port.span is not None and not whole else 0.0
    names = tuple(axes.get(axis, "") for axis in range(len(shape)))
    return Input(name, dtype, sizes, shape, 0, high, axes=names, span=span)


def _like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An input of another shape: the values of `x` again and again."""
    if x.shape == shape:
        return x.contiguous()
    count = math.prod(shape)
    return x.flatten().repeat(-(-count // max(1, x.numel())))[:count].view(shape)


def _smallest(net: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the smallest square that leaves the net something to compute; at most those of the example.

    Runtimes may answer nothing at all with numbers, where torch refuses."""
    low, high = 0, min(shape[2:])
    while high - low > 1:
        side = (low + high) // 2
        y = _tried(net, torch.zeros(1, shape[1], side, side))
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


def _tried(net: nn.Module, *inputs: Tensor) -> Any:
    """What the net answers; the error that it raises, as an InputError."""
    try:
        return net(*inputs)
    except InputError as error:
        return error
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # blocks and torch say it each in their way
        shapes = " and ".join(shown(tuple(x.shape)) for x in inputs)
        expected = "a shape that the model takes" if len(inputs) == 1 else "shapes that the model takes"
        return InputError("deploy", Problem("example", expected, f"{shapes}: {reason_of(error)}"))


def _of_tokens(net: LanguageModel, shape: tuple[int, ...], dynamic: str) -> Signature:
    declared: Any = net.spec.input
    assert isinstance(declared, TokenInput)
    if len(shape) != 2 or min(shape) < 1:
        raise InputError("deploy", Problem("example", "a shape (B, L) of tokens", shown(shape)))
    sizes: Sizes = {"size": (None, None), "batch": (None, shape[1]), "none": shape}[dynamic]  # type: ignore[assignment]
    ids = Input("ids", "int64", sizes, shape, 0, declared.vocab_size, axes=("batch", "length"))
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
