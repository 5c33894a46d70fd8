"""The selective scan as it is called, and as the one op that torch sees of it."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.ops.dispatch import implementation, implements, kernel, wants_gradient
from blocks.ops.flops import flop_formula
from blocks.ops.selective_scan.eager import backward, forward  # noqa: F401  (an op is known once it has an eager form)
from blocks.ops.selective_scan.reference import reference  # noqa: F401
from blocks.ops.selective_scan.steps import BACKWARD, OP, Scan, fast_dtype, kept_blocks
from blocks.ops.sequences import checked_borders


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
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = (scan(u, delta, A, B, C) + D u) silu(z), with delta = softplus(delta + delta_bias) where so asked.

    u, delta, z (B, D, L); A (D, N), negative for a state that decays; B, C (B, N, L) or (B, G, N, L); D and delta_bias
    (D,); initial_state (S, D, N) -> y (B, D, L) in the dtype of u and, if asked for, the state after the last step
    (S, D, N), S = B. `cu_seqlens` (S+1,), integers that rise from 0 to L, packs S sequences into one sample: each starts
    from its own state, or from zeros. Channels side by side in memory, (B, L, D) transposed, save a copy.
    All backends but `reference` compute in float32 at least and keep the state so. Any size may be 0. Raises ValueError
    when shapes or borders do not fit.
    """
    B, C = (matrix.unsqueeze(1) if matrix.ndim == 3 else matrix for matrix in (B, C))
    borders = checked_borders(cu_seqlens, u, u.shape[0], u.shape[2], "u")
    _check_shapes(Scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, borders))
    run = implementation(OP, u, delta, A, B, C, D, z, delta_bias, initial_state)
    along = u.transpose(1, 2), delta.transpose(1, 2), A, B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2)
    gate = None if z is None else z.transpose(1, 2)
    y, last = run(Scan(*along, D, gate, delta_bias, delta_softplus, initial_state, borders))[:2]
    return (y.transpose(1, 2), last) if return_final_state else y.transpose(1, 2)


def _check_shapes(scan: Scan) -> None:
    """Checks tensors as a caller gives them, with time last. Raises ValueError."""
    u, delta, A, B, C, D, z, bias, _, state, borders = scan
    batch, channels, length = u.shape
    groups, size = B.shape[1], A.shape[-1]
    sequences = batch if borders is None else borders.shape[0] - 1
    expected = {
        "delta": (delta, (batch, channels, length)),
        "A": (A, (channels, size)),
        "B": (B, (batch, groups, size, length)),
        "C": (C, (batch, groups, size, length)),
        "D": (D, (channels,)),
        "z": (z, (batch, channels, length)),
        "delta_bias": (bias, (channels,)),
        "initial_state": (state, (sequences, channels, size)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}; for u of shape {tuple(u.shape)} it should be {shape}"
            )
    if not groups or channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")


@implements(OP, "trace")
def trace(scan: Scan, backend: str = ""):  # type: ignore[no-untyped-def]
    """(y, last) of the op that torch sees; `backend` computes in it, "" the fastest that can."""
    return scan_op(*scan, wants_gradient(*(value for value in scan if isinstance(value, Tensor))), backend)


@torch.library.custom_op("zoo::selective_scan", mutates_args=())
def scan_op(
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
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y (B, L, D), last state (S, D, N), with `keep` the states before each block (blocks, G, N, K))."""
    run = kernel(OP, backend, u, delta, A, B, C, D, z, bias, state)
    y, last, starts = run(Scan(u, delta, A, B, C, D, z, bias, softplus, state, borders), keep)
    return y, last, starts


@scan_op.register_fake
def _(u, delta, A, B, C, D, z, bias, softplus, state, borders, keep, backend):  # type: ignore[no-untyped-def]
    samples, length, channels = u.shape
    groups, size = B.shape[2], A.shape[1]
    dtype = fast_dtype(u, delta, A, B, C, state)
    sequences = samples if borders is None else borders.shape[0] - 1
    count = kept_blocks(samples, length, borders) if keep else 0
    last = u.new_empty(sequences, channels, size, dtype=dtype)
    starts = u.new_empty(count, groups, size, channels // groups, dtype=dtype)
    return u.new_empty(samples, length, channels), last, starts


@torch.library.custom_op("zoo::selective_scan_backward", mutates_args=())
def scan_backward_op(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, bias (empty where there is none) and the initial state."""
    run = kernel(BACKWARD, backend, u, delta, A, B, C, D, z, bias, starts)
    grads = run(grad_y, grad_last, Scan(u, delta, A, B, C, D, z, bias, softplus, None, borders), starts)
    like = (u, delta, A, B, C, D, z, bias, starts)
    return tuple(
        u.new_empty(0) if grad is None else grad.to(tensor.dtype) for grad, tensor in zip(grads, like, strict=True)
    )  # type: ignore[return-value]


@scan_backward_op.register_fake
def _(grad_y, grad_last, u, delta, A, B, C, D, z, bias, softplus, borders, starts, backend):  # type: ignore[no-untyped-def]
    like = (u, delta, A, B, C, D, z, bias)
    grads = [u.new_empty(0) if t is None else t.new_empty(t.shape) for t in like]
    return *grads, grad_last.new_empty(grad_last.shape, dtype=starts.dtype)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.softplus, state, borders, _, ctx.backend = inputs
    ctx.save_for_backward(*tensors, borders, output[2])
    ctx.given = [tensor is not None for tensor in (*tensors, state)]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)  # or zeros would be written for the kept states


def _backward(ctx, grad_y, grad_last, _):  # type: ignore[no-untyped-def]
    *tensors, borders, starts = ctx.saved_tensors
    u, A = tensors[0], tensors[2]
    if grad_y is None:
        grad_y = torch.zeros_like(u)
    if grad_last is None:
        grad_last = starts.new_zeros(u.shape[0] if borders is None else borders.shape[0] - 1, *A.shape)
    grads = scan_backward_op(grad_y, grad_last, *tensors, ctx.softplus, borders, starts, ctx.backend)
    *of_tensors, of_state = [grad if given else None for grad, given in zip(grads, ctx.given, strict=True)]
    return *of_tensors, None, of_state, None, None, None


scan_op.register_autograd(_backward, setup_context=_setup_context)


@flop_formula(torch.ops.zoo.selective_scan, "scan")
def scan_flops(u, delta, A, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """9 B L D N: the count that is accepted for S6 (state-spaces/mamba issue 110)."""
    samples, length, channels = u
    return 9 * samples * length * channels * A[1]


@flop_formula(torch.ops.zoo.selective_scan_backward, "scan")
def scan_backward_flops(grad_y, grad_last, u, delta, A, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Twice the forward pass, as for a matmul; running blocks again is not counted."""
    return 2 * scan_flops(u, delta, A)
