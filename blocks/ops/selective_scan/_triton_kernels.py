"""The scan on a GPU, in Triton. Imported only where Triton is installed, hence the underscore: the index leaves it out.

One program follows one tile of channels of one sequence through time, a block of T steps at once: the steps of a block
are composed by an associative scan, and the state goes on in registers. Tiles are (T, W, P): steps, channels, states
filled up to a power of two. What lies beyond a sequence has a step size of 0, which changes nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def compose(decay, value, next_decay, next_value):
    """h -> decay h + value, then h -> next_decay h + next_value, as one."""
    return decay * next_decay, next_decay * value + next_value


@triton.jit
def softplus(x):
    """log(1 + e^x) to the last digits where x is far below 0, too."""
    small = tl.exp(-tl.abs(x))
    one_more = 1 + small
    return tl.maximum(x, 0) + tl.where(one_more == 1, small, tl.log(one_more) * small / (one_more - 1))


@triton.jit
def step_sizes(delta, bias, rows, stride, d, inside, SOFTPLUS: tl.constexpr):
    """(raw steps, steps) as (T, W), 0 where not `inside`."""
    raw = tl.load(delta + rows[:, None] * stride + d[None, :], mask=inside, other=0).to(tl.float32)
    if bias is not None:
        raw += tl.load(bias + d[None, :], mask=inside, other=0).to(tl.float32)
    size = softplus(raw) if SOFTPLUS else raw
    return raw, tl.where(inside, size, 0.0)


@triton.jit
def row_tile(x, rows, stride, columns, inside):
    """(T, ...) numbers of rows of x in float32."""
    return tl.load(x + rows[:, None] * stride + columns[None, :], mask=inside, other=0).to(tl.float32)


@triton.jit
def forward_kernel(
    u, delta, z, A, B, C, D, bias, state, borders, blocks, y, last, starts,
    u_row, delta_row, z_row, B_row, B_group, C_row, C_group, groups, channels, size,
    SOFTPLUS: tl.constexpr, T: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """y, the state after the last step and, where `starts` is given, the states before each block."""
    segment, group = tl.program_id(0), tl.program_id(1)
    k, n, t = tl.program_id(2) * W + tl.arange(0, W), tl.arange(0, P), tl.arange(0, T)
    d = group * channels + k
    real = (k < channels)[:, None] & (n < size)[None, :]
    rate = tl.load(A + d[:, None] * size + n[None, :], mask=real, other=0).to(tl.float32)
    of_state = (segment * groups * channels + d)[:, None] * size + n[None, :]
    h = tl.zeros((W, P), tl.float32)
    if state is not None:
        h += tl.load(state + of_state, mask=real, other=0).to(tl.float32)
    begin, end = tl.load(borders + segment), tl.load(borders + segment + 1)
    block = tl.load(blocks + segment)
    for first in range(begin, end, T):
        rows = first + t
        there = (rows < end)[:, None]
        inside, inside_n = there & (k < channels)[None, :], there & (n < size)[None, :]
        if starts is not None:
            kept = ((block * groups + group) * size + n[None, :]) * channels + k[:, None]
            tl.store(starts + kept, h, mask=real)
            block += 1
        x = row_tile(u, rows, u_row, d, inside)
        _, step = step_sizes(delta, bias, rows, delta_row, d, inside, SOFTPLUS)
        B_t = row_tile(B + group * B_group, rows, B_row, n, inside_n)
        C_t = row_tile(C + group * C_group, rows, C_row, n, inside_n)
        decay = tl.exp(step[:, :, None] * rate[None, :, :])
        decays, values = tl.associative_scan((decay, (step * x)[:, :, None] * B_t[:, None, :]), 0, compose)
        states = decays * h[None, :, :] + values
        out = tl.sum(states * C_t[:, None, :], axis=2)
        if D is not None:
            out += tl.load(D + d, mask=k < channels, other=0).to(tl.float32)[None, :] * x
        if z is not None:
            gate = row_tile(z, rows, z_row, d, inside)
            out *= gate * tl.sigmoid(gate)
        tl.store(y + rows[:, None] * (groups * channels) + d[None, :], out, mask=inside)
        h = tl.sum(tl.where(t[:, None, None] == T - 1, states, 0.0), axis=0)
    tl.store(last + of_state, h, mask=real)


@triton.jit
def backward_kernel(
    u, delta, z, A, B, C, D, bias, borders, blocks, starts, grad_y, grad_last,
    grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_state,
    u_row, delta_row, z_row, B_row, B_group, C_row, C_group, grad_y_row, groups, channels, size,
    SOFTPLUS: tl.constexpr, T: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """All gradients, from the last block to the first. Those of B and C are added up over programs, in any order."""
    segment, group = tl.program_id(0), tl.program_id(1)
    k, n, t = tl.program_id(2) * W + tl.arange(0, W), tl.arange(0, P), tl.arange(0, T)
    d = group * channels + k
    real = (k < channels)[:, None] & (n < size)[None, :]
    rate = tl.load(A + d[:, None] * size + n[None, :], mask=real, other=0).to(tl.float32)
    own = segment * groups * channels + d
    carry = tl.load(grad_last + own[:, None] * size + n[None, :], mask=real, other=0).to(tl.float32)
    sum_A, sum_D, sum_bias = tl.zeros((W, P), tl.float32), tl.zeros((W,), tl.float32), tl.zeros((W,), tl.float32)
    skip = tl.zeros((W,), tl.float32)
    if D is not None:
        skip += tl.load(D + d, mask=k < channels, other=0).to(tl.float32)
    begin, end = tl.load(borders + segment), tl.load(borders + segment + 1)
    count = (end - begin + T - 1) // T
    for back in range(0, count):
        index = count - 1 - back
        rows = begin + index * T + t
        there = (rows < end)[:, None]
        inside, inside_n = there & (k < channels)[None, :], there & (n < size)[None, :]
        kept = (((tl.load(blocks + segment) + index) * groups + group) * size + n[None, :]) * channels + k[:, None]
        h = tl.load(starts + kept, mask=real, other=0)
        x = row_tile(u, rows, u_row, d, inside)
        raw, step = step_sizes(delta, bias, rows, delta_row, d, inside, SOFTPLUS)
        B_t = row_tile(B + group * B_group, rows, B_row, n, inside_n)
        C_t = row_tile(C + group * C_group, rows, C_row, n, inside_n)
        grad_out = row_tile(grad_y, rows, grad_y_row, d, inside)

        # h_{t-1}: the same block, a step earlier; its first is the kept state itself
        not_first = (t > 0)[:, None]
        x_before = row_tile(u, rows - 1, u_row, d, inside & not_first)
        _, step_before = step_sizes(delta, bias, rows - 1, delta_row, d, inside & not_first, SOFTPLUS)
        B_before = row_tile(B + group * B_group, rows - 1, B_row, n, inside_n & not_first)
        decay_before = tl.exp(step_before[:, :, None] * rate[None, :, :])
        value_before = (step_before * x_before)[:, :, None] * B_before[:, None, :]
        decays, values = tl.associative_scan((decay_before, value_before), 0, compose)
        before = decays * h[None, :, :] + values
        decay = tl.exp(step[:, :, None] * rate[None, :, :])
        states = decay * before + (step * x)[:, :, None] * B_t[:, None, :]

        grad_inner = grad_out
        if z is not None:
            gate = row_tile(z, rows, z_row, d, inside)
            opened = tl.sigmoid(gate)
            grad_inner = grad_out * gate * opened
            inner = tl.sum(states * C_t[:, None, :], axis=2) + skip[None, :] * x
            to_z = grad_out * inner * opened * (1 + gate * (1 - opened))
            tl.store(grad_z + rows[:, None] * (groups * channels) + d[None, :], to_z, mask=inside)

        # g_t = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}
        with_next = there & (rows + 1 < end)[:, None] & (t < T - 1)[:, None] & (k < channels)[None, :]
        _, step_after = step_sizes(delta, bias, rows + 1, delta_row, d, with_next, SOFTPLUS)
        decay_after = tl.exp(step_after[:, :, None] * rate[None, :, :])
        given = grad_inner[:, :, None] * C_t[:, None, :]
        decays, values = tl.associative_scan((decay_after, given), 0, compose, reverse=True)
        g = decays * carry[None, :, :] + values

        to_input = tl.sum(g * B_t[:, None, :], axis=2)
        to_exponent = g * decay * before
        to_step = tl.sum(to_exponent * rate[None, :, :], axis=2) + to_input * x
        if SOFTPLUS:
            to_step *= tl.sigmoid(raw)
        to_u = to_input * step + grad_inner * skip[None, :]
        tl.store(grad_u + rows[:, None] * (groups * channels) + d[None, :], to_u, mask=inside)
        tl.store(grad_delta + rows[:, None] * (groups * channels) + d[None, :], to_step, mask=inside)
        of_matrix = (rows[:, None] * groups + group) * size + n[None, :]
        tl.atomic_add(grad_B + of_matrix, tl.sum(g * (step * x)[:, :, None], axis=1), mask=inside_n)
        tl.atomic_add(grad_C + of_matrix, tl.sum(states * grad_inner[:, :, None], axis=1), mask=inside_n)
        sum_A += tl.sum(to_exponent * step[:, :, None], axis=0)
        sum_D += tl.sum(grad_inner * x, axis=0)
        sum_bias += tl.sum(tl.where(inside, to_step, 0.0), axis=0)
        carry = tl.sum(tl.where(t[:, None, None] == 0, decay * g, 0.0), axis=0)
    tl.store(grad_A + own[:, None] * size + n[None, :], sum_A, mask=real)
    tl.store(grad_state + own[:, None] * size + n[None, :], carry, mask=real)
    if D is not None:
        tl.store(grad_D + own, sum_D, mask=k < channels)
    if bias is not None:
        tl.store(grad_bias + own, sum_bias, mask=k < channels)
