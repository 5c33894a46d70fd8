"""A language model as a net of flat tensors: tokens and what it keeps of the past go in, logits and what it keeps then come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.build.language import LanguageModel
from zoo.errors import InputError, Problem
from zoo.exporting.ports import FREE, Port, Ports


@dataclass(frozen=True, eq=False)
class StateLeaf:
    """Tensor number `index` of what the block at `path` keeps. `shape` has None where a size depends on the batch or on the tokens so far.

    `first` are its sizes before the first token, for one sequence: zeros of these sizes are the state of a sequence that has not begun. What
    the block itself begins with, where this is no zeros, is `origin`: the leaf is then how far its tensor has come from there.
    """

    path: str
    index: int
    dtype: torch.dtype
    shape: tuple[int | None, ...]
    first: tuple[int, ...]
    origin: Tensor | None = None

    @property
    def name(self) -> str:
        """The name of the input; the output has `.after` behind it."""
        return f"state.{self.path}.{self.index}"

    def empty(self, batch: int = 1) -> Tensor:
        """What it is before the first token."""
        return torch.zeros(batch, *self.first[1:], dtype=self.dtype)

    def to_block(self, x: Tensor) -> Tensor:
        """The block's tensor of a leaf."""
        return x if self.origin is None else x + self.origin.to(x.dtype)

    def of_block(self, x: Tensor) -> Tensor:
        """The leaf of a block's tensor."""
        return x if self.origin is None else x - self.origin.to(x.dtype)


class Streaming(nn.Module):
    """(tokens (B, L), *leaves) -> (logits (B, L, vocabulary), *leaves after them), the leaves as `leaves` lists them.

    Without `leaves` it keeps nothing: tokens -> logits. `last` gives the logits (B, 1, vocabulary) of the last position alone.
    """

    def __init__(self, model: LanguageModel, leaves: Sequence[StateLeaf] = (), last: bool = False):
        super().__init__()
        self.model, self.leaves, self.last = model, tuple(leaves), last

    def forward(self, tokens: Tensor, *state: Tensor) -> Any:
        past = of_leaves(self.leaves, state) if self.leaves else None
        if self.last:
            logits, after = self.model.next_logits(tokens, {} if past is None else past)
            logits = logits.unsqueeze(1)
        else:
            logits, after = self.model(tokens, state=past)
        return (logits, *leaves_of(self.leaves, after or {})) if self.leaves else logits


def of_leaves(leaves: Sequence[StateLeaf], tensors: Sequence[Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """The state as the model takes it, of its tensors in the order of the leaves."""
    state: dict[str, tuple[Tensor, ...]] = {}
    for leaf, tensor in zip(leaves, tensors, strict=True):
        state[leaf.path] = (*state.get(leaf.path, ()), leaf.to_block(tensor))
    return state


def leaves_of(leaves: Sequence[StateLeaf], state: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The tensors of a state in the order of the leaves."""
    return tuple(leaf.of_block(state[leaf.path][leaf.index]) for leaf in leaves)


def state_leaves(model: LanguageModel) -> tuple[StateLeaf, ...]:
    """What the model keeps of a sequence, found by reading none, one and two tokens. Raises InputError for what is no tensor."""
    like = next(model.parameters())

    def state_after(batch: int, length: int) -> dict[str, Any]:
        tokens = torch.zeros(batch, length, dtype=torch.int64, device=like.device)
        with torch.no_grad():
            state: dict[str, Any] | None = model(tokens, state={}).state
        return {} if state is None else state

    first, others = state_after(1, 0), [state_after(1, 1), state_after(1, 2), state_after(2, 1)]
    leaves = []
    for path, kept in first.items():
        for index, tensor in enumerate(kept):
            if not isinstance(tensor, Tensor):
                problem = Problem(f"state.{path}.{index}", "a tensor", f"a {type(tensor).__name__}")
                raise InputError(model.spec.name, problem)
            shapes = [tuple(state[path][index].shape) for state in others]
            free = [len({tensor.shape[axis], *(shape[axis] for shape in shapes)}) > 1 for axis in range(tensor.ndim)]
            shape = tuple(None if is_free else size for size, is_free in zip(tensor.shape, free, strict=True))
            origin = tensor if bool(tensor.any()) else None
            leaves.append(StateLeaf(path, index, tensor.dtype, shape, tuple(tensor.shape), origin))
    return tuple(leaves)


@torch.no_grad()
def streaming(
    model: LanguageModel, tokens: Tensor | None = None, dynamic: Collection[str] = FREE
) -> tuple[Streaming, Ports]:
    """A model as a net of tokens and state, and its ports: any past, and as `dynamic` says any batch and any number of tokens (`size`).

    `tokens` (B, L) are its example; without one there are some, or one where their number is not free."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.spec.input.vocab_size  # type: ignore[union-attr]
    drawn = torch.randint(0, vocabulary, (2, 10), generator=generator)
    if tokens is None:
        tokens = drawn[: 2 if "batch" in dynamic else 1, : 7 if "size" in dynamic else 1]
    net = Streaming(model, state_leaves(model)).eval()
    net.spec = model.spec  # type: ignore[assignment]
    before = drawn[:1, 7:].expand(len(tokens), -1)
    kept = net(before, *(leaf.empty(len(tokens)) for leaf in net.leaves))[1:] if net.leaves else ()
    words = {"past", *dynamic, *({"length"} if "size" in dynamic else ())}

    def free(axes: dict[int, str]) -> dict[int, str]:
        return {axis: name for axis, name in axes.items() if name in words}

    ports = [Port("tokens", tokens, free({0: "batch", 1: "length"}))]
    for leaf, tensor in zip(net.leaves, kept, strict=True):
        axes = {axis: "batch" if axis == 0 else "past" for axis, size in enumerate(leaf.shape) if size is None}
        ports.append(Port(leaf.name, tensor, free(axes)))
    return net, Ports(tuple(ports), ("logits", *(f"{leaf.name}.after" for leaf in net.leaves)))
