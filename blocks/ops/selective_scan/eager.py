"""The scan in plain torch: blocks of steps whose states stay in cache, vectorised over samples, channels and states.

Cumulative sums of log-decays would vectorise over time and lose all digits where A is large (relative error 3e-2 within
64 steps); blocks of steps in cache are faster, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import implements
from blocks.ops.selective_scan.steps import (
    BACKWARD,
    OP,
    STEPS,
    Gradients,
    Scan,
    fast_dtype,
    first_blocks,
    kept_blocks,
)
from blocks.ops.sequences import lengths_of

BLOCK_NUMBERS = 2**17
"""Numbers of a block of states for each thread: with their decays, half of what a level-2 cache holds."""
FEWEST_STEPS, MOST_STEPS = 8, 64
"""Steps in a block where no state is kept. Samples are taken in slices before blocks are made shorter."""


class Piece(NamedTuple):
    """Sequences of one length that run side by side: rows of the inputs, steps, rows of the states, places of kept states.

    T is their length, R the number of samples times that of groups.
    """

    samples: slice
    begin: int
    end: int
    states: slice
    first_block: int
    blocks: int

    def rows(self, x: Tensor) -> Tensor:
        """(B, L, G, ...) -> (T, R, ...), the numbers of a step side by side; of one sample a view."""
        return x[self.samples, self.begin : self.end].transpose(0, 1).flatten(1, 2).contiguous()

    def put(self, rows: Tensor, x: Tensor) -> None:
        """`rows` into the place in x that `self.rows(x)` was taken from, unless they are it."""
        part = x[self.samples, self.begin : self.end]
        if rows.data_ptr() != part.data_ptr():
            part.copy_(rows.unflatten(1, (part.shape[0], -1)).transpose(0, 1))

    def kept(self, index: int) -> slice:
        """Where the states before block `index` are kept."""
        count = self.samples.stop - self.samples.start
        first = self.first_block + index
        return slice(first, first + (count - 1) * self.blocks + 1, max(1, self.blocks))


class Room(NamedTuple):
    """Memory for the decays and states (c, R, N, K) of a block, used by one after the other: new memory costs more than
    the sums in it. The views of them are made once, too: `flat` is (c * R, N, K), `steps` one pair for each step.
    """

    decay: Tensor
    states: Tensor
    flat: Tensor
    steps: list[tuple[Tensor, Tensor]]

    def of(self, count: int) -> Room:
        """The room for a block of `count` steps, the last of a piece perhaps."""
        return self if count == len(self.steps) else _room(self.decay[:count], self.states[:count])


@implements(OP, "eager")
def forward(scan: Scan, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(y (B, L, D), last state (S, D, N), with `keep` the states before each block (blocks, G, N, K))."""
    u, delta, A, B, C, D, z, bias, softplus, state, borders = scan
    groups, lengths = B.shape[2], lengths_of(u, borders)
    dtype = fast_dtype(u, delta, A, B, C, state)
    x, step = _by_group(u.to(dtype), groups), _by_group(_step_sizes(delta.to(dtype), bias, softplus), groups)
    A, B, C = _transposed(A.to(dtype), groups), B.to(dtype), C.to(dtype)
    y = _written_over(x, A)
    last = x.new_zeros(len(lengths), *A.shape) if state is None else _transposed(state.to(dtype), groups).clone()
    starts = x.new_empty(kept_blocks(u.shape[0], u.shape[1], borders) if keep else 0, *A.shape)
    for piece in _pieces(lengths, borders is not None, A.numel()):
        h, rates = last[piece.states].flatten(0, 1), _for_samples(A, piece)
        size = STEPS if keep else _block_size(rates.numel())
        room, y_rows = _room(*rates.new_empty(2, size, *rates.shape)), piece.rows(y)
        x_p, step_p, B_p, C_p = (piece.rows(tensor) for tensor in (x, step, B, C))
        along = x_p.unsqueeze(2), step_p.unsqueeze(2), B_p.unsqueeze(3)
        by_row = C_p.flatten(0, 1).unsqueeze(1), y_rows.flatten(0, 1).unsqueeze(1)
        for index, (x_s, step_s, B_s, C_s, y_s) in enumerate(_blocks(size, along, by_row)):
            if keep:
                starts[piece.kept(index)] = h.unflatten(0, (-1, groups))
            block = _run_block(x_s * step_s, step_s, rates, B_s, h, room)
            torch.bmm(C_s, block.flat, out=y_s)
            h.copy_(block.states[-1])
        piece.put(y_rows, y)
    y, x = y.flatten(2), x.flatten(2)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), _transposed_back(last), starts


@implements(BACKWARD, "eager")
def backward(grad_y: Tensor, grad_last: Tensor, scan: Scan, starts: Tensor) -> Gradients:
    """The gradients: with g_t that of h_t, g_t = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}, from the last block to the first."""
    u, delta, A, B, C, D, z, bias, softplus, _, borders = scan
    groups, lengths, dtype = B.shape[2], lengths_of(u, borders), starts.dtype
    x, step = _by_group(u.to(dtype), groups), _by_group(_step_sizes(delta.to(dtype), bias, softplus), groups)
    A, B, C = _transposed(A.to(dtype), groups), B.to(dtype), C.to(dtype)
    grad_inner = _by_group(grad_y.to(dtype) if z is None else grad_y.to(dtype) * F.silu(z.to(dtype)), groups)
    inner = _written_over(x, A) if z is not None else None
    grad_pulse, grad_step, grad_A = _written_over(x, A), _written_over(x, A), torch.zeros_like(A)
    grad_B, grad_C = _written_over(B, A), _written_over(C, A)
    grad_first = _transposed(grad_last.to(dtype), groups).clone()
    for piece in _pieces(lengths, borders is not None, A.numel()):
        carry, rates = grad_first[piece.states].flatten(0, 1), _for_samples(A, piece)
        decay, states, back, sum_A = rates.new_empty(4, STEPS, *rates.shape)
        room, room_back, ones = _room(decay, states), _room(decay, back), rates.new_ones(1, 1, rates.shape[1])
        sum_A.zero_()
        x_p, step_p, B_p, C_p, grad_p = (piece.rows(tensor) for tensor in (x, step, B, C, grad_inner))
        outputs = [tensor for tensor in (grad_pulse, grad_step, grad_B, grad_C, inner) if tensor is not None]
        results = [piece.rows(tensor) for tensor in outputs]
        flat = [tensor.flatten(0, 1) for tensor in (B_p, C_p, grad_p, *results)]
        along = x_p.unsqueeze(2), step_p.unsqueeze(2), B_p.unsqueeze(3), C_p.unsqueeze(3), grad_p.unsqueeze(2)
        for index, block in reversed(list(enumerate(_blocks(STEPS, along, flat)))):
            x_s, step_s, B_s, C_s, grad_s, B_r, C_r, grad_r, pulse_out, step_out, B_out, C_out, *inner_out = block
            h, pulse = starts[piece.kept(index)].flatten(0, 1), x_s * step_s
            block_room = _run_block(pulse, step_s, rates, B_s, h, room)
            if inner is not None:
                torch.bmm(C_r.unsqueeze(1), block_room.flat, out=inner_out[0].unsqueeze(1))
            torch.bmm(block_room.flat, grad_r.unsqueeze(2), out=C_out.unsqueeze(2))
            g = _run_back(C_s, grad_s, carry, room_back)
            torch.bmm(g.flat, pulse.view(len(g.flat), -1, 1), out=B_out.unsqueeze(2))
            torch.bmm(B_r.unsqueeze(1), g.flat, out=pulse_out.unsqueeze(1))
            grad_exponent = block_room.decay  # times g by now, and times h_{t-1} the gradient of delta_t A
            grad_exponent[0] *= h
            grad_exponent[1:] *= block_room.states[:-1]
            sum_A[: len(step_s)].addcmul_(grad_exponent, step_s)
            by_step = grad_exponent.mul_(rates).flatten(0, 1)
            torch.bmm(ones.expand(len(by_step), -1, -1), by_step, out=step_out.unsqueeze(1))  # a fast sum
        for rows, tensor in zip(results, outputs, strict=True):
            piece.put(rows, tensor)
        grad_A += sum_A.unflatten(1, (-1, groups)).sum((0, 1))
    grad_u, grad_step = grad_pulse * step, grad_step.addcmul_(grad_pulse, x)
    x, grad_inner, grad_u, grad_delta = (tensor.flatten(2) for tensor in (x, grad_inner, grad_u, grad_step))
    grad_D, grad_z = None, None
    if D is not None:
        grad_D = (grad_inner * x).sum((0, 1))
        grad_u = grad_u.addcmul_(grad_inner, D.to(dtype))
    if z is not None and inner is not None:
        ungated = inner.flatten(2) if D is None else inner.flatten(2).addcmul_(x, D.to(dtype))
        open_ = torch.sigmoid(z.to(dtype))
        grad_z = grad_y.to(dtype) * ungated * open_ * (1 + z.to(dtype) * (1 - open_))
    if softplus:
        grad_delta = grad_delta * torch.sigmoid(_biased(delta.to(dtype), bias))
    grad_bias = None if bias is None else grad_delta.sum((0, 1))
    of_A, of_state = _transposed_back(grad_A[None])[0], _transposed_back(grad_first)
    return Gradients(grad_u, grad_delta, of_A, grad_B, grad_C, grad_D, grad_z, grad_bias, of_state)


def _written_over(x: Tensor, A: Tensor) -> Tensor:
    """Memory like x for what the states give at every step: zeros where there are none."""
    return torch.empty_like(x) if A.numel() else torch.zeros_like(x)


def _biased(delta: Tensor, bias: Tensor | None) -> Tensor:
    return delta if bias is None else delta + bias.to(delta.dtype)


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    delta = _biased(delta, bias)
    return F.softplus(delta) if softplus else delta


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(B, L, D) -> (B, L, G, K) with neighbouring channels side by side; free for what a linear layer gave."""
    return x.contiguous().unflatten(-1, (groups, -1))


def _transposed(A: Tensor, groups: int) -> Tensor:
    """(..., D, N) -> (..., G, N, K)."""
    return A.unflatten(-2, (groups, -1)).transpose(-1, -2).contiguous()


def _transposed_back(state: Tensor) -> Tensor:
    """(S, G, N, K) -> (S, D, N)."""
    return state.transpose(-1, -2).flatten(1, 2).contiguous()


def _pieces(lengths: list[int], packed: bool, per_step: int) -> Iterator[Piece]:
    """Packed sequences one by one; samples in slices, cut so that a block of their states fits the cache.

    Nothing where a step has no states.
    """
    if not per_step:
        return
    firsts = first_blocks(lengths, packed)
    if packed:
        begin = 0
        for index, length in enumerate(lengths):
            if length:
                yield Piece(slice(0, 1), begin, begin + length, slice(index, index + 1), firsts[index], 1)
            begin += length
        return
    count = max(1, BLOCK_NUMBERS * torch.get_num_threads() // (per_step * 2 * FEWEST_STEPS))
    for start in range(0, len(lengths) if lengths and lengths[0] else 0, count):
        rows = slice(start, min(start + count, len(lengths)))
        yield Piece(rows, 0, lengths[0], rows, firsts[start], (lengths[0] + STEPS - 1) // STEPS)


def _for_samples(A: Tensor, piece: Piece) -> Tensor:
    """(G, N, K) -> (R, N, K), once for each sample of a piece."""
    count = piece.samples.stop - piece.samples.start
    return A if count == 1 else A.repeat(count, 1, 1)


def _block_size(per_step: int) -> int:
    return min(MOST_STEPS, max(FEWEST_STEPS, BLOCK_NUMBERS * torch.get_num_threads() // per_step))


def _blocks(size: int, by_step: Iterable[Tensor], by_row: Iterable[Tensor]) -> list[tuple[Tensor, ...]]:
    """What each block of `size` steps has of tensors (T, R, ...) and (T * R, ...)."""
    by_step = list(by_step)
    rows = by_step[0].shape[1]
    parts = [tensor.split(size) for tensor in by_step] + [tensor.split(size * rows) for tensor in by_row]
    return list(zip(*parts, strict=True))


def _room(decay: Tensor, states: Tensor) -> Room:
    return Room(decay, states, states.flatten(0, 1), list(zip(decay.unbind(), states.unbind(), strict=True)))


def _run_block(pulse: Tensor, step: Tensor, A: Tensor, B: Tensor, h: Tensor, room: Room) -> Room:
    """Fills the room with the decays exp(step A) and the states of c steps after state `h`. `pulse` is delta_t u_t."""
    room = room.of(len(step))
    torch.mul(step, A, out=room.decay).exp_()
    torch.mul(pulse, B, out=room.states)
    for decay_t, state_t in room.steps:
        h = state_t.addcmul_(decay_t, h)
    return room


def _run_back(C: Tensor, grad_y: Tensor, carry: Tensor, room: Room) -> Room:
    """Fills the room with the gradients g of the states of a block, and the place of its decays with decay_t g_t.

    `carry`, that of the state after the block, becomes that of the state before it.
    """
    room = room.of(len(C))
    torch.mul(C, grad_y, out=room.states)
    after = carry
    for decay_t, g_t in reversed(room.steps):
        after = decay_t.mul_(g_t.add_(after))
    carry.copy_(after)
    return room
