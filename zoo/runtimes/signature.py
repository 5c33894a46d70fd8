"""What goes into a compiled net and what comes out, as data: names, dtypes and shapes, and how the outputs are handed to the caller.

A runtime sees flat tensors in and flat tensors out. `Signature` says which they are, and `kind` what the caller gets of them:
`tensor`, one tensor; `maps`, a list of feature maps; `named`, a dict of outputs by name; `language`, `logits` and `state`. This file imports no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from zoo.errors import InputError, Problem

Kind = Literal["tensor", "maps", "named", "language"]
Sizes = tuple[int | None, ...]
"""A shape; None where any size goes."""


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor that goes in. `shape` is what is taken, `example` the sizes that the net is compiled, checked and timed with."""

    name: str
    dtype: str
    """As torch names it: `float32`, `int64`."""
    shape: Sizes
    example: tuple[int, ...]
    low: int = 0
    high: int = 0
    """The bounds of integers, `high` left out; 0 and 0 say nothing."""
    least: tuple[int, ...] = ()
    """Where sizes are free: the smallest that leave something to compute; () says 1."""
    axes: tuple[str, ...] = ()
    """What the sizes count: `batch`, `height`. Free ones of one name are the same in all inputs; one without a name stands alone."""
    span: float = 0.0
    """Of numbers: drawn ones lie in [0, span); 0 draws normal ones."""

    @property
    def is_dynamic(self) -> bool:
        """Whether any of its sizes is free."""
        return None in self.shape

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape goes in; every size is at least 1."""
        if len(shape) != len(self.shape):
            return False
        least = self.least or (1,) * len(self.shape)
        sizes = zip(shape, self.shape, least, strict=True)
        return all(size >= smallest if wanted is None else size == wanted for size, wanted, smallest in sizes)

    def axis(self, index: int) -> str:
        """The name of an axis, as a graph has it where its size is free."""
        named = self.axes[index] if self.axes else "batch" if index == 0 else ""
        return named or f"{self.name}_{index}"

    def sized(self, **sizes: int) -> tuple[int, ...]:
        """The sizes of the example, those of the axes of these names but as they are given."""
        return tuple(sizes.get(self.axis(index), size) for index, size in enumerate(self.example))

    @property
    def words(self) -> str:
        """The shapes that it takes, as people read them: `(any, 3, from 32, from 32)`."""
        least = self.least or (1,) * len(self.shape)
        return shown(
            tuple(
                f"from {low}" if size is None and low > 1 else size for size, low in zip(self.shape, least, strict=True)
            )
        )


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of the state of a language model: number `index` of what the block at `path` keeps. It goes in and comes out.

    The first size of `shape` is the batch. `first` are the sizes before the first token, for one sequence: zeros of these sizes are the
    state of a sequence that has not begun."""

    path: str
    index: int
    dtype: str
    shape: Sizes
    first: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the input; the output has `.after` behind it."""
        return f"state.{self.path}.{self.index}"

    def axis(self, index: int) -> str:
        """The name of an axis, as a graph has it where its size is free."""
        return "batch" if index == 0 else f"{self.name}_{index}"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The flat inputs and outputs of a net. With `state` the leaves follow the inputs going in, and the outputs coming out."""

    kind: Kind
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    """Names of what comes out, but for the leaves of the state."""
    state: tuple[Leaf, ...] = ()

    @property
    def samples(self) -> int:
        """How many samples the examples hold; 1 where there is no axis of them, as of the points of molecules."""
        first = self.inputs[0]
        return next((size for index, size in enumerate(first.example) if first.axis(index) == "batch"), 1)

    @property
    def tensors(self) -> tuple[Input | Leaf, ...]:
        """All that goes in, in order."""
        return (*self.inputs, *self.state)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of all that goes in, the leaves included, in their order."""
        return tuple(one.name for one in self.tensors)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of all that comes out, the leaves included, in their order."""
        return (*self.outputs, *(f"{leaf.name}.after" for leaf in self.state))

    @property
    def is_dynamic(self) -> bool:
        """Whether any size of an input is free."""
        return any(one.is_dynamic for one in self.inputs)

    @property
    def lengths_are_free(self) -> bool:
        """Whether a free size counts steps of a sequence, or points."""
        return any(
            size is None and one.axis(index) in ("length", "points")
            for one in self.inputs
            for index, size in enumerate(one.shape)
        )

    def fixed(self) -> Signature:
        """The same for inputs of exactly the sizes of the examples."""
        inputs = tuple(msgspec.structs.replace(one, shape=one.example) for one in self.inputs)
        batch = self.samples
        leaves = (msgspec.structs.replace(leaf, shape=(batch, *leaf.shape[1:])) for leaf in self.state)
        return msgspec.structs.replace(self, inputs=inputs, state=tuple(leaves))

    @property
    def shown_example(self) -> str:
        """The sizes of the examples, as people read them: `(1, 3, 224, 224)`, or `(1, 4, 32, 32) and (1,)`."""
        return " and ".join(shown(one.example) for one in self.inputs)

    def with_example(self, *shapes: Sequence[int]) -> Signature:
        """The same with other sizes of its examples, one shape for each input. Raises InputError for a shape that an input does not take."""
        inputs = []
        for one, shape in zip(self.inputs, shapes, strict=True):
            refuse_shape(one, shape)
            inputs.append(msgspec.structs.replace(one, example=tuple(shape)))
        return msgspec.structs.replace(self, inputs=tuple(inputs))


def refuse_disagreement(inputs: Sequence[Input], shapes: Sequence[Sequence[int]], subject: str = "deployed") -> None:
    """Raises InputError for tensors whose shapes each go in, and not together: of another number of samples, or another length."""
    known: dict[str, tuple[str, int]] = {}
    for one, shape in zip(inputs, shapes, strict=True):
        for index, size in enumerate(shape):
            if one.shape[index] is not None:
                continue
            axis = one.axis(index)
            name, first = known.setdefault(axis, (one.name, size))
            if size != first:
                expected = f"a tensor whose {axis} is {first}, as that of `{name}`"
                raise InputError(subject, Problem(one.name, expected, shown(tuple(shape))))


def shown(shape: Sequence[int | str | None]) -> str:
    """A shape as people read it: `(any, 3, 224, 224)`."""
    return f"({', '.join('any' if size is None else str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def refuse_shape(one: Input, shape: Sequence[int], subject: str = "deployed") -> None:
    """Raises InputError for a shape that an input does not take, with those that work."""
    if one.takes(shape):
        return
    step = "" if one.is_dynamic else f"deploy it once more with `example=` of shape {shown(tuple(shape))}"
    raise InputError(subject, Problem(one.name, f"a tensor of shape {one.words}", shown(tuple(shape)), next=step))


@functools.cache
def numbers(shape: tuple[int, ...]) -> int:
    """How many values a tensor of this shape has."""
    return math.prod(shape)


def signature_json(signature: Signature) -> bytes:
    """As `signature_from` reads it."""
    return msgspec.json.encode(signature)


def signature_from(data: object, where: str) -> Signature:
    """A signature of plain data that others may have written. Raises InputError with the place and what was expected there."""
    try:
        signature = msgspec.convert(data, Signature)
    except msgspec.ValidationError as error:
        raise InputError(
            where, Problem("signature", "the inputs and outputs of a deployed model", str(error))
        ) from None
    problems = list(_problems(signature))
    if problems:
        raise InputError(where, problems)
    return signature


DTYPES = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "bool")
MOST_AXES = 8
MOST_NUMBERS = 2**34


def _problems(signature: Signature) -> Iterator[Problem]:
    """What is wrong with a signature whose types are right."""
    if not signature.inputs or not signature.outputs:
        yield Problem("signature", "at least one input and one output", "none")
    tensors = [(one.name, one.dtype, one.example) for one in signature.inputs]
    tensors += [(leaf.name, leaf.dtype, leaf.first) for leaf in signature.state]
    for name, dtype, sizes in tensors:
        if dtype not in DTYPES:
            yield Problem(name, f"one of {', '.join(DTYPES)}", dtype)
        if len(sizes) > MOST_AXES or any(size < 0 for size in sizes) or numbers(tuple(sizes)) > MOST_NUMBERS:
            yield Problem(name, f"at most {MOST_AXES} sizes of a tensor that fits into memory", shown(tuple(sizes)))
    for one in signature.inputs:
        if one.least and len(one.least) != len(one.shape):
            yield Problem(one.name, f"{len(one.shape)} smallest sizes", shown(one.least))
        elif one.axes and len(one.axes) != len(one.shape):
            yield Problem(one.name, f"{len(one.shape)} names of axes", shown(one.axes))
        elif not one.takes(one.example):
            yield Problem(one.name, f"an example of shape {shown(one.shape)}", shown(one.example))
    if len(set(signature.input_names)) < len(signature.input_names):
        yield Problem("signature", "each name once", "one of them twice")
