"""The three loops of graphs: steps of the selective scan, blocks of them, and chunks of the delta rule, in four kinds of the same.

    unrolled   plain torch, step after step: for lengths that are fixed
    onnx       one op, `zoo::scan_steps` and the like, for whoever writes a Scan in its place
    script     a loop of TorchScript
    scan       torch's own scan, for torch.export with a free length

The first axis of what goes through a loop is the time. Where it is known and short the loop is unrolled in every kind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from blocks.ops.graph.sizes import is_number, length_of
from blocks.registry.errors import BlockError, Problem, listed, nearest

Loops = Literal["unrolled", "onnx", "script", "scan"]

UNROLLED = 16
"""Up to so many rounds a loop costs more than what is in it."""

_loops: ContextVar[Loops] = ContextVar("blocks.ops.graph.loops", default="unrolled")


@contextmanager
def looping(loops: Loops) -> Iterator[None]:
    """Loops that are recorded inside are of this kind. Raises BlockError for another name."""
    names = get_args(Loops)
    if loops not in names:
        raise BlockError("blocks.ops.graph", Problem("loops", listed(names), f"`{loops}`", nearest(loops, names)))
    token = _loops.set(loops)
    try:
        yield
    finally:
        _loops.reset(token)


def scan_steps(step: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(step_t A) h_{t-1} + B_t x_t, y_t = C_t h_t: (y (L, B, G, 1, K), the last h).

    step, x (L, B, G, 1, K), B (L, B, G, N, 1), C (L, B, G, 1, N), A (G, N, K), state (B, G, N, K).
    """
    return _form_of("steps", step)(step, x, B, C, A, state)  # type: ignore[no-any-return]


def carried(decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_{i+1} = decay_i S_i + written_i: (the S_i before each block, like `written` (n, …); the last S), S_0 = `state` (…)."""
    return _form_of("carried", decay)(decay, written, state)  # type: ignore[no-any-return]


def delta_chunks(
    writes: Tensor, of_state: Tensor, shown: Tensor, kept: Tensor, total: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """w_i = writes_i + of_state_i S, seen_i = shown_i S, S <- total_i S + kept_i w_i: (w, seen (n, B, H, C, V), the last S).

    writes (n, B, H, C, V), of_state, shown (n, B, H, C, K), kept (n, B, H, K, C), total (n, B, H, 1 or K, 1), state (B, H, K, V).
    """
    return _form_of("chunks", writes)(writes, of_state, shown, kept, total, state)  # type: ignore[no-any-return]


def _form_of(loop: str, along: Tensor) -> Callable[..., Any]:
    """What runs for a loop over the first axis of a tensor, of the kind that is set."""
    kind, count = _loops.get(), length_of(along, 0)
    return LOOPS["unrolled" if is_number(count) and count <= UNROLLED else kind][loop]


def _unrolled_steps(step: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for step_t, x_t, B_t, C_t in zip(step.unbind(0), x.unbind(0), B.unbind(0), C.unbind(0), strict=True):
        state = torch.exp(step_t * A) * state + B_t * x_t
        outputs.append(C_t @ state)
    return torch.stack(outputs), state


def _unrolled_chunks(
    writes: Tensor, of_state: Tensor, shown: Tensor, kept: Tensor, total: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    written, seen = [], []
    for writes_i, of_state_i, shown_i, kept_i, total_i in zip(
        *(along.unbind(0) for along in (writes, of_state, shown, kept, total)), strict=True
    ):
        w = writes_i + of_state_i @ state
        written.append(w)
        seen.append(shown_i @ state)
        state = total_i * state + kept_i @ w
    return torch.stack(written), torch.stack(seen), state


@functools.cache
def _scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.jit.script(function)  # type: ignore[no-any-return]


def _unrolled_carried(decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    before = []
    for decay_i, written_i in zip(decay.unbind(0), written.unbind(0), strict=True):
        before.append(state)
        state = decay_i * state + written_i
    return torch.stack(before), state


def _steps_in_script(step: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs: list[Tensor] = []
    for t in range(step.size(0)):
        state = torch.exp(step[t] * A) * state + B[t] * x[t]
        outputs.append(torch.matmul(C[t], state))
    return torch.stack(outputs), state


def _carried_in_script(decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    before: list[Tensor] = []
    for i in range(decay.size(0)):
        before.append(state)
        state = decay[i] * state + written[i]
    return torch.stack(before), state


def _chunks_in_script(
    writes: Tensor, of_state: Tensor, shown: Tensor, kept: Tensor, total: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    written: list[Tensor] = []
    seen: list[Tensor] = []
    for i in range(writes.size(0)):
        w = writes[i] + torch.matmul(of_state[i], state)
        written.append(w)
        seen.append(torch.matmul(shown[i], state))
        state = total[i] * state + torch.matmul(kept[i], w)
    return torch.stack(written), torch.stack(seen), state


def _scanned_steps(step: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    from torch._higher_order_ops.scan import scan

    def body(carry: tuple[Tensor, Tensor], along: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        rates, h = carry
        step_t, x_t, B_t, C_t = along
        h = torch.exp(step_t * rates) * h + B_t * x_t
        return (rates.clone(), h.contiguous()), C_t @ h

    (_, last), y = scan(body, (A.contiguous(), state.contiguous()), (step, x, B, C))
    return y, last


def _scanned_carried(decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    from torch._higher_order_ops.scan import scan

    def body(S: Tensor, along: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        decay_i, written_i = along
        return (decay_i * S + written_i).contiguous(), S.clone()

    last, before = scan(body, state.contiguous(), (decay, written))
    return before, last


def _scanned_chunks(
    writes: Tensor, of_state: Tensor, shown: Tensor, kept: Tensor, total: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from torch._higher_order_ops.scan import scan

    def body(S: Tensor, along: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        writes_i, of_state_i, shown_i, kept_i, total_i = along
        w = writes_i + of_state_i @ S
        return (total_i * S + kept_i @ w).contiguous(), (w, shown_i @ S)

    last, (w, seen) = scan(body, state.contiguous(), (writes, of_state, shown, kept, total))
    return w, seen, last


@torch.library.custom_op("zoo::scan_steps", mutates_args=())
def scan_steps_op(step: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The loop as one op, whose place a recorder takes."""
    y, last = _unrolled_steps(step, x, B, C, A, state)
    return y, last


@scan_steps_op.register_fake
def _(step, x, B, C, A, state):  # type: ignore[no-untyped-def]
    return step.new_empty(step.shape), state.new_empty(state.shape)


@torch.library.custom_op("zoo::carried", mutates_args=())
def carried_op(decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The loop as one op, whose place a recorder takes."""
    before, last = _unrolled_carried(decay, written, state)
    return before, last


@carried_op.register_fake
def _(decay, written, state):  # type: ignore[no-untyped-def]
    return written.new_empty(written.shape), state.new_empty(state.shape)


@torch.library.custom_op("zoo::delta_chunks", mutates_args=())
def delta_chunks_op(
    writes: Tensor, of_state: Tensor, shown: Tensor, kept: Tensor, total: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loop as one op, whose place a recorder takes."""
    return _unrolled_chunks(writes, of_state, shown, kept, total, state)


@delta_chunks_op.register_fake
def _(writes, of_state, shown, kept, total, state):  # type: ignore[no-untyped-def]
    return writes.new_empty(writes.shape), writes.new_empty(writes.shape), state.new_empty(state.shape)


def _in_script(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors: _scripted(function)(*tensors)


LOOPS: dict[str, dict[str, Callable[..., Any]]] = {
    "unrolled": {"steps": _unrolled_steps, "carried": _unrolled_carried, "chunks": _unrolled_chunks},
    "onnx": {"steps": scan_steps_op, "carried": carried_op, "chunks": delta_chunks_op},
    "script": {
        "steps": _in_script(_steps_in_script),
        "carried": _in_script(_carried_in_script),
        "chunks": _in_script(_chunks_in_script),
    },
    "scan": {"steps": _scanned_steps, "carried": _scanned_carried, "chunks": _scanned_chunks},
}
"""{kind: {loop: what runs}}."""
