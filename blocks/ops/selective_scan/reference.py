"""The recurrence as it is written, step by step, in the dtype of its arguments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import implements
from blocks.ops.selective_scan.steps import OP, Scan, common_dtype
from blocks.ops.sequences import lengths_of


@implements(OP, "reference")
def reference(scan: Scan) -> tuple[Tensor, Tensor]:
    """What `forward` of eager computes. `unbind`, since the gradient of an index is a full-size tensor at every step."""
    u, delta, A, B, C, D, z, bias, softplus, state, borders = scan
    dtype = common_dtype(u, delta, A, B, C, state)
    x, step = u.to(dtype), delta.to(dtype)
    if bias is not None:
        step = step + bias.to(dtype)
    if softplus:
        step = F.softplus(step)
    per_group = u.shape[-1] // B.shape[2]
    B, C = (matrix.to(dtype).repeat_interleave(per_group, 2) for matrix in (B, C))
    lengths = lengths_of(u, borders)
    if state is None:
        state = x.new_zeros(len(lengths), *A.shape)
    if borders is None or not lengths:
        y, last = _scan(x, step, A.to(dtype), B, C, state.to(dtype))
    else:
        along = zip(*(tensor.split(lengths, 1) for tensor in (x, step, B, C)), state.to(dtype).split(1), strict=True)
        ends = [_scan(x_s, step_s, A.to(dtype), B_s, C_s, h) for x_s, step_s, B_s, C_s, h in along]
        y, last = torch.cat([y for y, _ in ends], 1), torch.cat([h for _, h in ends])
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), last


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """u, delta (B, L, D), A (D, N), B, C (B, L, D, N), h (B, D, N)."""
    outputs = [u[:, :0]]
    for u_t, delta_t, B_t, C_t in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(delta_t[..., None] * A) * h + (delta_t * u_t)[..., None] * B_t
        outputs.append((h * C_t).sum(-1).unsqueeze(1))
    return torch.cat(outputs, 1), h
