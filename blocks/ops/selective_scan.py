"""S6, the selective scan of Mamba: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = C_t h_t, a state per channel.

Paper: arXiv:2312.00752. Upstream (state-spaces/mamba, Apache-2.0) is followed in signature and layout.
D is here the number of channels, N the size of a channel's state, G the number of groups of channels that share B and
C, K = D / G, c the number of steps in a block. A is exact (zero-order hold), B is the Euler step, as upstream.

Both backends cost O(B L D N). `eager` is one torch op, `zoo::selective_scan`, so that FLOP counters, meta tensors and
export see 9 B L D N operations and shapes, never its loop. Cumulative sums of log-decays would vectorise over time and
lose all digits where A is large (relative error 3e-2 within 64 steps); blocks of steps in cache are faster, too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from blocks.ops.dispatch import implementation, implements

OP = "selective_scan"
BLOCK_NUMBERS = 2**18
"""Numbers in one block of states: with its decays, what a level-2 cache holds."""
FEWEST_STEPS, MOST_STEPS = 8, 64
"""Steps in a block. Samples are taken in slices rather than blocks made shorter: each block costs one kept state."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = (scan(u, delta, A, B, C) + D u) silu(z), with delta = softplus(delta + delta_bias) where so asked.

    u, delta, z (B, D, L); A (D, N), negative for a state that decays; B, C (B, N, L) or (B, G, N, L); D and delta_bias
    (D,); initial_state (B, D, N) -> y (B, D, L) in the dtype of u and, if asked for, the state after the last step
    (B, D, N). `eager` computes in float32 at least and keeps the state so; `reference` in the dtype of its arguments.
    Raises ValueError when shapes do not fit.
    """
    B, C = (matrix.unsqueeze(1) if matrix.ndim == 3 else matrix for matrix in (B, C))
    _check_shapes(u, delta, A, B, C, initial_state)
    core = implementation(OP)
    dtype = _promoted(u, delta, A, B, C, initial_state)
    if core is not reference:
        dtype = torch.promote_types(dtype, torch.float32)
    x, step = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    state = None if initial_state is None else initial_state.to(dtype)
    y, final_state = core(x, step, A.to(dtype), B.to(dtype), C.to(dtype), state)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype)[:, None])
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, final_state) if return_final_state else y


def _promoted(*arguments: Tensor | None) -> torch.dtype:
    dtypes = [tensor.dtype for tensor in arguments if tensor is not None]
    wide = dtypes[0]
    for dtype in dtypes[1:]:
        wide = torch.promote_types(wide, dtype)
    return wide


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> None:
    batch, channels, length = u.shape
    groups, size = B.shape[1], A.shape[-1]
    expected = {
        "delta": (delta, (batch, channels, length)),
        "A": (A, (channels, size)),
        "B": (B, (batch, groups, size, length)),
        "C": (C, (batch, groups, size, length)),
        "initial_state": (state, (batch, channels, size)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}; for u of shape {tuple(u.shape)} it should be {shape}"
            )
    if channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")


@implements(OP, "reference")
def reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence, step by step. `unbind`, since the gradient of an index is a full-size tensor at every step."""
    per_group = u.shape[1] // B.shape[1]
    B, C = (matrix.repeat_interleave(per_group, 1) for matrix in (B, C))
    h = u.new_zeros(u.shape[0], *A.shape) if state is None else state
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(u.unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        h = torch.exp(delta_t[..., None] * A) * h + (delta_t * u_t)[..., None] * B_t
        outputs.append((h * C_t).sum(-1))
    return torch.stack(outputs, -1), h


@implements(OP, "eager")
def eager(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence in blocks of steps; for a gradient the state before each block is kept and the block run again."""
    arguments = (u, delta, A, B, C, state)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in arguments)
    y, final_state, _ = scan_op(u, delta, A, B, C, state, keep)
    return y, final_state


@torch.library.custom_op("zoo::selective_scan", mutates_args=())
def scan_op(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (B, D, L), final state (B, D, N), with `keep` the states before each block (blocks, B, G, N, K))."""
    groups = B.shape[1]
    u, delta = _by_time(u, groups), _by_time(delta, groups)
    y = torch.empty_like(u)
    A, B, C = _by_group(A, groups), B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2)
    last = _by_sample(u, A, state)
    samples, blocks = _cut(u.shape, A.shape[1])
    starts = last.new_empty(len(blocks) if keep else 0, *last.shape)
    for rows in samples:
        h = last[rows]
        for index, steps in enumerate(blocks):
            if keep:
                starts[index, rows] = h
            here = rows, steps
            _, states = _run_block(u[here], delta[here], A, B[here], h)
            y[here] = (C[here].unsqueeze(-2) @ states).squeeze(-2)
            h = states[:, -1]
        last[rows] = h
    return _by_channel(y), last.transpose(-1, -2).flatten(1, 2).contiguous(), starts


@scan_op.register_fake
def _(u, delta, A, B, C, state, keep):  # type: ignore[no-untyped-def]
    batch, channels, length = u.shape
    groups, size = B.shape[1], A.shape[1]
    count = len(_cut((batch, length, groups, channels // groups), size)[1]) if keep else 0
    y = u.new_empty(batch, length, channels).transpose(1, 2)
    return y, u.new_empty(batch, channels, size), u.new_empty(count, batch, groups, size, channels // groups)


@torch.library.custom_op("zoo::selective_scan_backward", mutates_args=())
def scan_backward_op(
    grad_y: Tensor, grad_state: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C and the initial state.

    With g_t the gradient of h_t, g_t = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}, from the last block to the first.
    """
    groups = B.shape[1]
    u, delta, grad_y = (_by_time(tensor, groups) for tensor in (u, delta, grad_y))
    A, B, C = _by_group(A, groups), B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2)
    grad_u, grad_delta, grad_A = torch.empty_like(u), torch.empty_like(u), torch.zeros_like(A)
    grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
    grad_first = _by_sample(u, A, grad_state)
    samples, blocks = _cut(u.shape, A.shape[1])
    for rows in samples:
        carry = grad_first[rows]
        for index, steps in reversed(list(enumerate(blocks))):
            here, h = (rows, steps), starts[index, rows]
            u_s, delta_s, B_s, grad_s = u[here], delta[here], B[here], grad_y[here]
            decay, states = _run_block(u_s, delta_s, A, B_s, h)
            grad_C[here] = _over_channels(grad_s, states)
            g, carry = _run_back(C[here], grad_s, decay, carry)
            grad_B[here] = _over_channels(delta_s * u_s, g)
            input_grad = (B_s.unsqueeze(-2) @ g).squeeze(-2)
            grad_u[here] = input_grad * delta_s
            exponent_grad = g.mul_(decay)  # times h_{t-1}: the gradient of delta_t A
            exponent_grad[:, 0] *= h
            exponent_grad[:, 1:] *= states[:, :-1]
            grad_A += (exponent_grad * delta_s.unsqueeze(-2)).sum((0, 1))
            grad_delta[here] = exponent_grad.mul_(A).sum(-2).addcmul_(input_grad, u_s)
        grad_first[rows] = carry
    return (
        _by_channel(grad_u),
        _by_channel(grad_delta),
        grad_A.transpose(-1, -2).flatten(0, 1).contiguous(),
        grad_B.permute(0, 2, 3, 1).contiguous(),
        grad_C.permute(0, 2, 3, 1).contiguous(),
        grad_first.transpose(-1, -2).flatten(1, 2).contiguous(),
    )


@scan_backward_op.register_fake
def _(grad_y, grad_state, u, delta, A, B, C, starts):  # type: ignore[no-untyped-def]
    along_time = [u.new_empty(u.shape[0], u.shape[2], u.shape[1]).transpose(1, 2) for _ in range(2)]
    return (*along_time, *(tensor.new_empty(tensor.shape) for tensor in (A, B, C)), u.new_empty(u.shape[0], *A.shape))


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, state, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.continued = state is not None
    ctx.mark_non_differentiable(output[2])


def _backward(ctx, grad_y, grad_state, _):  # type: ignore[no-untyped-def]
    *grads, grad_first = scan_backward_op(grad_y, grad_state, *ctx.saved_tensors)
    return *grads, grad_first if ctx.continued else None, None


scan_op.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.zoo.selective_scan)
def scan_flops(u, delta, A, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """9 B L D N: the count that is accepted for S6 (state-spaces/mamba issue 110)."""
    batch, channels, length = u
    return 9 * batch * length * channels * A[1]


@register_flop_formula(torch.ops.zoo.selective_scan_backward)
def scan_backward_flops(grad_y, grad_state, u, delta, A, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Twice the forward pass, as for a matmul; running blocks again is not counted."""
    return 2 * scan_flops(u, delta, A)


def _by_time(x: Tensor, groups: int) -> Tensor:
    """(B, D, L) -> (B, L, G, K) with neighbouring channels side by side; free for what a linear layer gave."""
    return x.transpose(1, 2).contiguous().unflatten(-1, (groups, -1))


def _by_channel(x: Tensor) -> Tensor:
    """(B, L, G, K) -> (B, D, L), a view."""
    return x.flatten(-2).transpose(1, 2)


def _by_group(A: Tensor, groups: int) -> Tensor:
    """(D, N) -> (G, N, K)."""
    return A.unflatten(0, (groups, -1)).transpose(-1, -2).contiguous()


def _by_sample(u: Tensor, A: Tensor, state: Tensor | None) -> Tensor:
    """A state (B, D, N), or zeros -> a copy as (B, G, N, K)."""
    h = u.new_zeros(u.shape[0], *A.shape)
    return h if state is None else h.copy_(state.unflatten(1, (A.shape[0], -1)).transpose(-1, -2))


def _cut(shape: tuple[int, ...], state_dim: int) -> tuple[list[slice], list[slice]]:
    """(samples, steps) of (B, L, G, K) inputs, cut so that a block of states fits the cache."""
    batch, length, groups, channels = shape
    per_step = groups * channels * state_dim
    samples = min(batch, max(1, BLOCK_NUMBERS // (per_step * 2 * FEWEST_STEPS)))
    steps = min(MOST_STEPS, max(FEWEST_STEPS, BLOCK_NUMBERS // (per_step * samples)))
    return _slices(batch, samples), _slices(length, steps)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _over_channels(x: Tensor, states: Tensor) -> Tensor:
    """sum_k x_k states_nk: (B, c, G, K) and (B, c, G, N, K) -> (B, c, G, N)."""
    return (x.unsqueeze(-2) @ states.transpose(-1, -2)).squeeze(-2)


def _run_block(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """(decays exp(delta A), states) of c steps after state `h`, both (B, c, G, N, K)."""
    decay = (delta.unsqueeze(-2) * A).exp_()
    states = (delta * u).unsqueeze(-2) * B.unsqueeze(-1)
    for decay_t, state_t in zip(decay.unbind(1), states.unbind(1), strict=True):
        h = state_t.addcmul_(decay_t, h)
    return decay, states


def _run_back(C: Tensor, grad_y: Tensor, decay: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """(gradients of the states of a block, gradient of the state before it); `carry` is that of the state after it."""
    g = C.unsqueeze(-1) * grad_y.unsqueeze(-2)
    for g_t, decay_t in zip(reversed(g.unbind(1)), reversed(decay.unbind(1)), strict=True):
        carry = g_t.add_(carry).mul(decay_t)
    return g, carry
