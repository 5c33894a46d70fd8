"""The Legendre memory unit: one number of each token enters a linear memory that spans a window of time. Paper: arXiv:2402.04882.

The memory: Voelker et al., NeurIPS 2019. Names of the state are those of zeyuliu1037/LMUFormer (MIT). M is the size of the memory.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.ops.graph.loops import delta_chunks
from blocks.ops.graph.sizes import chunks_of, in_chunks, in_sequence, length_of
from blocks.ops.recorded import lengths_are_free
from blocks.primitives.norms import BatchNorm
from blocks.primitives.spikes import spike_train
from blocks.recurrent import Recurrent, State
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]

CHUNK = 64
"""Tokens that are convolved at once; from one chunk to the next the memory is carried."""


@block(
    "lmu",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2402.04882",
    covers=("legendre_memory_unit", "lmuformer"),
)
class Lmu(Recurrent):
    """y = relu(W_h [m_t | x_t]), m_t = A m_{t-1} + B u_t, u_t = relu(w x_t + b), one number a token.

    (A, B) is the zero-order hold, for steps of 1, of the system theta m' = a m + b u with a_ij = (2 i + 1) (-1 if i < j else
    (-1)^(i - j + 1)) and b_i = (2 i + 1) (-1)^i, whose state are the Legendre coefficients of the last `theta` tokens; neither is learned.
    (B, L, C) -> (B, L, C), or `out_dim` channels. Any length, where the authors' parallel form takes one. The state is m (B, M).
    `spiking`: u, m and y are the spikes of neurons (`sequence_lif`) behind a batch norm each, in the place of the two relus; m spikes only where y
    reads it. The state holds their potentials, too: (B, 1), (B, M) and (B, out_dim).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        memory_dim: Count = 32,
        theta: Annotated[float, Meta(ge=1)] = 128.0,
        linear: Linear = slot("dense"),
        spiking: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
    ):
        super().__init__()
        self.out_dim, self.memory_dim, self.spiking = out_dim or dim, memory_dim, spiking
        self.bn_u, self.bn_m, self.bn_h = (
            BatchNorm(width) if spiking else None for width in (1, memory_dim, self.out_dim)
        )
        self.W_u = nn.Linear(dim, 1)
        self.W_h = linear(dim + memory_dim, self.out_dim, bias=True)
        self.responses = Table(responses, (memory_dim, theta, CHUNK))
        self.powers = Table(powers, (memory_dim, theta, CHUNK))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """For each chunk of c tokens the c^2 M products of the convolution, and c M^2 for what is carried."""
        B, L, _ = shape
        size, M = min(CHUNK, L), self.memory_dim
        return {"matmul": -(-L // size) * B * size * M * (size + M)} if L else {}

    def state_size(self, length: int = 0) -> int:
        return self.memory_dim + (1 + self.memory_dim + self.out_dim) * self.spiking

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        held = iter(state[1:] if state is not None else ())
        potentials: list[Tensor] = []

        def fired(y: Tensor, norm: BatchNorm | None) -> Tensor:
            if norm is None:
                return F.relu(y)
            y, potential = spike_train(norm(y), next(held, None), mask)
            potentials.append(potential)
            return y

        u = fired(self.W_u(x), self.bn_u).squeeze(-1)
        wide = torch.promote_types(x.dtype, torch.float32)
        before = x.new_zeros(x.shape[0], self.memory_dim, dtype=wide) if state is None else state[0].to(wide)
        m = self._remembered(u.to(wide), before)
        read = m.to(x.dtype) if self.bn_m is None else fired(m.to(x.dtype), self.bn_m)
        y = fired(run(self.W_h, torch.cat([read, x], -1)), self.bn_h)
        memories = torch.cat([before.unsqueeze(1), m], 1)
        ends = u.new_full((x.shape[0],), x.shape[1], dtype=torch.int64) if mask is None else mask.sum(1)
        last = memories.gather(1, ends[:, None, None].expand(-1, 1, self.memory_dim)).squeeze(1)
        return y, (last, *potentials)

    def _remembered(self, u: Tensor, m: Tensor) -> Tensor:
        """m_t of all tokens (B, L, M) for u (B, L) and the memory before (B, M)."""
        if lengths_are_free():
            return self._remembered_at_any_length(u, m)
        L = u.shape[1]
        size = min(CHUNK, L)
        if not L:
            return u.unsqueeze(-1).expand(-1, -1, self.memory_dim)
        table, carry = self.responses.like(u)[:size, :size], self.powers.like(u)[:size]
        chunks = F.pad(u, (0, -L % size)).unflatten(1, (-1, size))
        parts = []
        for written in torch.einsum("bns,tsm->bntm", chunks, table).unbind(1):
            part = written + torch.einsum("tij,bj->bti", carry, m)
            parts.append(part)
            m = part[:, -1]
        return torch.cat(parts, 1)[:, :L]

    def _remembered_at_any_length(self, u: Tensor, m: Tensor) -> Tensor:
        """The same in a graph: what each chunk begins with is carried by a loop, m <- A^c m + what the chunk wrote."""
        length = length_of(u)
        size, count = chunks_of(length, CHUNK)
        table, powers = self.responses.like(u)[:size, :size], self.powers.like(u)[:size]
        written = (in_chunks(u, length, size, count)[:, :, None, None] @ table)[:, :, :, 0]  # (B, n, c, M)
        whole, same = (
            powers[-1].expand(count, 1, 1, -1, -1),
            torch.eye(self.memory_dim).to(u).expand(count, 1, 1, -1, -1),
        )
        last = written[:, :, -1].transpose(0, 1)[:, :, None, :, None]
        _, begins, _ = delta_chunks(
            last, whole, same, same, u.new_zeros(1).expand(count, 1, 1, 1, 1), m[:, None, :, None]
        )
        carried = (powers @ begins[:, :, 0].transpose(0, 1).unsqueeze(2)).squeeze(-1)
        return in_sequence(written + carried, length)


def discretised(memory_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """(A (M, M), B (M,)) in float64."""
    order = torch.arange(memory_dim, dtype=torch.float64)
    scale = (2 * order + 1) / theta
    i, j = order[:, None], order[None, :]
    a = torch.where(i < j, -torch.ones_like(i - j), (-1.0) ** (i - j + 1)) * scale[:, None]
    b = (-1.0) ** order * scale
    # exp of [[a, b], [0, 0]] holds the integral that a zero-order hold asks for
    whole = torch.zeros(memory_dim + 1, memory_dim + 1, dtype=torch.float64)
    whole[:-1, :-1], whole[:-1, -1] = a, b
    held = torch.linalg.matrix_exp(whole)
    return held[:-1, :-1].contiguous(), held[:-1, -1].contiguous()


def powers(memory_dim: int, theta: float, count: int) -> Tensor:
    """(count, M, M): A, A^2, …"""
    A, _ = discretised(memory_dim, theta)
    found = [A]
    for _ in range(count - 1):
        found.append(A @ found[-1])
    return torch.stack(found)


def responses(memory_dim: int, theta: float, count: int) -> Tensor:
    """(count, count, M): what of u_s is in m_t, A^(t - s) B, and 0 for s > t."""
    _, B = discretised(memory_dim, theta)
    impulse = torch.cat([B.unsqueeze(0), powers(memory_dim, theta, count)[: count - 1] @ B])
    lag = torch.arange(count)[:, None] - torch.arange(count)[None, :]
    return torch.where((lag >= 0).unsqueeze(-1), impulse[lag.clamp_min(0)], torch.zeros((), dtype=torch.float64))
