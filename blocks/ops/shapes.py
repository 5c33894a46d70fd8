"""What the recurrences share at their front doors: shapes checked, heads repeated, packed sequences parted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blocks.ops.sequences import checked_borders, lengths_of


def check_shapes(expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]], name: str, given: Tensor) -> None:
    """Raises ValueError for the first tensor that has not the shape that `given`, the argument `name`, asks for."""
    for other, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"`{other}` has shape {tuple(tensor.shape)}; for {name} of shape {tuple(given.shape)} it should be {shape}"
            )


def check_heads(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> None:
    """Raises ValueError unless q and k (B, L, G, K), v (B, L, H, V) and the decay fit each other, G dividing H."""
    (batch, length, heads, _), width = v.shape, q.shape[-1]
    per_head = log_decay is not None and log_decay.ndim == 3
    expected = {
        "q": (q, (batch, length, q.shape[2], width)),
        "k": (k, (batch, length, k.shape[2], width)),
        "log_decay": (log_decay, (batch, length, heads) if per_head else (batch, length, heads, width)),
    }
    check_shapes(expected, "v", v)
    for name, groups in (("q", q.shape[2]), ("k", k.shape[2])):
        if heads % groups if groups else heads:
            raise ValueError(f"the {groups} heads of `{name}` do not divide the {heads} heads of `v`")


def check_states(state: Tensor | None, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor | None:
    """The checked borders. Raises ValueError unless they fit, and there is a state (H, K, V) for each sequence."""
    borders = checked_borders(cu_seqlens, v, v.shape[0], v.shape[1], "v")
    sequences = v.shape[0] if borders is None else len(borders) - 1
    check_shapes({"initial_state": (state, (sequences, v.shape[2], k.shape[3], v.shape[3]))}, "v", v)
    return borders


def shared_by(x: Tensor, heads: int) -> Tensor:
    """(B, L, G, …) -> (B, L, H, …): what G groups share, for each head of the group."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], 2)


def each_sequence(
    run: Callable[..., tuple[Tensor, Tensor]], cu_seqlens: Tensor | None, state: Tensor | None, *tensors: Tensor
) -> tuple[Tensor, Tensor]:
    """`run` on the whole batch or, with `cu_seqlens` (N + 1,), on each of N sequences in one sample; states are (N, …).

    `run` takes the tensors (B, L, …) and a state or None, and gives its output (B, L, …) and the state after the last step.
    """
    if cu_seqlens is None:
        return run(*tensors, state)
    lengths = lengths_of(tensors[0], cu_seqlens)
    if not lengths:  # of no sequence there is no state, and no step either
        o, last = run(*tensors, None)
        return o, last[:0]
    states = [None] * len(lengths) if state is None else state.split(1)
    parts = [x.split(lengths, 1) for x in tensors]
    results = [run(*part, before) for *part, before in zip(*parts, states, strict=True)]
    return torch.cat([y for y, _ in results], 1), torch.cat([after for _, after in results])
