"""The scan in plain torch: blocks of steps whose states stay in cache, vectorised over samples, channels and states.

Cumulative sums of log-decays would vectorise over time and lose all digits where A is large (relative error 3e-2 within
64 steps); blocks of steps in cache are faster, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import implements
from blocks.ops.selective_scan.steps import (
    BACKWARD,
    OP,
    STEPS,
    fast_dtype,
    first_blocks,
    kept_blocks,
)
from blocks.ops.sequences import lengths_of

BLOCK_NUMBERS = 2**17
"""Numbers in one block of states: with its decays, half of what a level-2 cache holds."""
FEWEST_STEPS, MOST_STEPS = 8, 64
"""Steps in a block where no state is kept. Samples are taken in slices before blocks are made shorter."""


class Piece(NamedTuple):
    """Sequences of one length that run side by side: rows of the inputs, steps, rows of the states, places of kept states."""

    samples: slice
    begin: int
    end: int
    states: slice
    first_block: int
    blocks: int

    def blocks_of(self, *tensors: Tensor, size: int) -> list[tuple[Tensor, ...]]:
        """What the tensors (B, L, ...) hold of these sequences, in blocks of `size` steps."""
        along = (tensor[self.samples, self.begin : self.end].split(size, 1) for tensor in tensors)
        return list(zip(*along, strict=True))

    def kept(self, index: int) -> slice:
        """Where the states before block `index` are kept."""
        count = self.samples.stop - self.samples.start
        first = self.first_block + index
        return slice(first, first + (count - 1) * self.blocks + 1, max(1, self.blocks))


class Room(NamedTuple):
    """Memory for blocks of states (B, c, G, N, K), used by one after the other: new memory costs more than the sums in it.

    The steps of each are cut once, too.
    """

    decay: Tensor
    states: Tensor
    steps: list[tuple[Tensor, Tensor]]


@implements(OP, "eager")
def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    state: Tensor | None,
    borders: Tensor | None,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (B, L, D), last state (S, D, N), with `keep` the states before each block (blocks, G, N, K)).

    u, delta, z (B, L, D), A (D, N), B, C (B, L, G, N), D, bias (D,), state (S, D, N), borders (S+1,).
    """
    groups, lengths = B.shape[2], lengths_of(u, borders)
    dtype = fast_dtype(u, delta, A, B, C, state)
    x, step = _by_group(u.to(dtype), groups), _by_group(_step_sizes(delta.to(dtype), bias, softplus), groups)
    A, B, C = _transposed(A.to(dtype), groups), B.to(dtype), C.to(dtype)
    y = torch.empty_like(x)
    last = x.new_zeros(len(lengths), *A.shape) if state is None else _transposed(state.to(dtype), groups).clone()
    starts = x.new_empty(kept_blocks(u.shape[0], u.shape[1], borders) if keep else 0, *A.shape)
    for piece in _pieces(lengths, borders is not None, A.numel()):
        h, size = last[piece.states], STEPS if keep else _block_size(piece, A.numel())
        room = _room(piece, size, A)
        for index, (x_s, step_s, B_s, C_s, y_s) in enumerate(piece.blocks_of(x, step, B, C, y, size=size)):
            if keep:
                starts[piece.kept(index)] = h
            _, states = _run_block(x_s, step_s, A, B_s, h, room)
            torch.matmul(C_s.unsqueeze(-2), states, out=y_s.unsqueeze(-2))
            h.copy_(states[:, -1])
    y, x = y.flatten(2), x.flatten(2)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), _transposed_back(last), starts


@implements(BACKWARD, "eager")
def backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    borders: Tensor | None,
    starts: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, bias and the first state, None where there is none.

    With g_t the gradient of h_t, g_t = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}, from the last block to the first.
    """
    groups, lengths, dtype = B.shape[2], lengths_of(u, borders), starts.dtype
    x, step = _by_group(u.to(dtype), groups), _by_group(_step_sizes(delta.to(dtype), bias, softplus), groups)
    A, B, C = _transposed(A.to(dtype), groups), B.to(dtype), C.to(dtype)
    grad_inner = _by_group(grad_y.to(dtype) if z is None else grad_y.to(dtype) * F.silu(z.to(dtype)), groups)
    inner = torch.empty_like(x) if z is not None else None
    grad_u, grad_step, grad_A = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(A)
    grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
    grad_first = _transposed(grad_last.to(dtype), groups).clone()
    ones = A.new_ones(1, A.shape[1])  # sums are fastest as products with it
    tensors = x, step, B, C, grad_inner, grad_u, grad_step, grad_B, grad_C
    for piece in _pieces(lengths, borders is not None, A.numel()):
        carry, room = grad_first[piece.states], _room(piece, STEPS, A)
        room_back, sum_A = torch.empty_like(room.states), torch.zeros_like(room.states)
        inner_blocks = [None] if inner is None else [i for (i,) in piece.blocks_of(inner, size=STEPS)]
        for index, block in reversed(list(enumerate(piece.blocks_of(*tensors, size=STEPS)))):
            x_s, step_s, B_s, C_s, grad_s, grad_u_s, grad_step_s, grad_B_s, grad_C_s = block
            h = starts[piece.kept(index)]
            decay, states = _run_block(x_s, step_s, A, B_s, h, room)
            if inner is not None:
                torch.matmul(C_s.unsqueeze(-2), states, out=inner_blocks[index].unsqueeze(-2))
            _over_channels(grad_s, states, grad_C_s)
            g = _run_back(C_s, grad_s, decay, carry, room_back)
            _over_channels(step_s * x_s, g, grad_B_s)
            grad_input = (B_s.unsqueeze(-2) @ g).squeeze(-2)
            torch.mul(grad_input, step_s, out=grad_u_s)
            grad_exponent = g.mul_(decay)  # times h_{t-1}: the gradient of delta_t A
            grad_exponent[:, 0] *= h
            grad_exponent[:, 1:] *= states[:, :-1]
            sum_A[:, : x_s.shape[1]].addcmul_(grad_exponent, step_s.unsqueeze(-2))
            torch.matmul(ones, grad_exponent.mul_(A), out=grad_step_s.unsqueeze(-2))
            grad_step_s.addcmul_(grad_input, x_s)
        grad_A += sum_A.sum((0, 1))
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
    grads = grad_u, grad_delta, _transposed_back(grad_A[None])[0], grad_B, grad_C, grad_D, grad_z, grad_bias
    return *grads, _transposed_back(grad_first)


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
    """Packed sequences one by one; samples in slices, cut so that a block of their states fits the cache."""
    firsts = first_blocks(lengths, packed)
    if packed:
        begin = 0
        for index, length in enumerate(lengths):
            if length:
                yield Piece(slice(0, 1), begin, begin + length, slice(index, index + 1), firsts[index], 1)
            begin += length
        return
    count = max(1, BLOCK_NUMBERS // (per_step * 2 * FEWEST_STEPS))
    for start in range(0, len(lengths) if lengths and lengths[0] else 0, count):
        rows = slice(start, min(start + count, len(lengths)))
        yield Piece(rows, 0, lengths[0], rows, firsts[start], (lengths[0] + STEPS - 1) // STEPS)


def _block_size(piece: Piece, per_step: int) -> int:
    samples = piece.samples.stop - piece.samples.start
    return min(MOST_STEPS, max(FEWEST_STEPS, BLOCK_NUMBERS // (per_step * samples)))


def _over_channels(x: Tensor, states: Tensor, out: Tensor) -> None:
    """sum_k x_k states_nk: (B, c, G, K) and (B, c, G, N, K) -> (B, c, G, N)."""
    torch.matmul(states, x.unsqueeze(-1), out=out.unsqueeze(-1))


def _room(piece: Piece, steps: int, A: Tensor) -> Room:
    samples = piece.samples.stop - piece.samples.start
    decay, states = A.new_empty(2, samples, steps, *A.shape)
    return Room(decay, states, list(zip(decay.unbind(1), states.unbind(1), strict=True)))


def _run_block(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, h: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """(decays exp(delta A), states) of c steps after state `h`, both (B, c, G, N, K)."""
    count = u.shape[1]
    decay, states = room.decay[:, :count], room.states[:, :count]
    torch.mul(delta.unsqueeze(-2), A, out=decay).exp_()
    torch.mul((delta * u).unsqueeze(-2), B.unsqueeze(-1), out=states)
    for decay_t, state_t in room.steps[:count]:
        h = state_t.addcmul_(decay_t, h)
    return decay, states


def _run_back(C: Tensor, grad_y: Tensor, decay: Tensor, carry: Tensor, room: Tensor) -> Tensor:
    """Gradients of the states of a block. `carry`, that of the state after it, becomes that of the state before it."""
    g = torch.mul(C.unsqueeze(-1), grad_y.unsqueeze(-2), out=room[:, : C.shape[1]])
    for g_t, decay_t in zip(reversed(g.unbind(1)), reversed(decay.unbind(1)), strict=True):
        torch.mul(g_t.add_(carry), decay_t, out=carry)
    return g
