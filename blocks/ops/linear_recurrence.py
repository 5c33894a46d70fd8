"""A decayed sum of outer products: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, a matrix of state per head.

With no decay it is linear attention, with one per head RetNet and Mamba-2, with one per channel of the keys GLA, HGRN2
and RWKV-6. Papers: arXiv:2006.16236, arXiv:2307.08621, arXiv:2405.21060, arXiv:2312.06635.
H is here the number of heads, G of groups of heads that share queries or keys, K and V the widths of a key and a value.

Each gradient of such a sum is again one, in the other direction of time or with keys and values exchanged. So there is
one op, `zoo::linear_recurrence`, in several orders (blocks.ops.chunks), two directions and with decays along keys or along
values, and its backward pass consists of calls of itself: it costs three times the forward pass and keeps nothing of
size L K V. The gradient of the decays follows from those of what is read and written, as in arXiv:2312.06635.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.ops import recurrence_native, recurrence_triton
from blocks.ops.chunks import (
    BACKWARD,
    EXCLUSIVE,
    INCLUSIVE,
    carried,
    chunk_size,
    damped_scores,
    damped_values,
    in_chunks,
    in_sequence,
    order_of,
    pair_decays,
)
from blocks.ops.dispatch import implementation, implements, kernel
from blocks.ops.flops import flop_formula
from blocks.ops.selective_scan.steps import common_dtype, fast_dtype
from blocks.ops.shapes import check_heads, check_shapes, check_states, each_sequence, shared_by

OP = "linear_recurrence"


def linear_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    bonus: Tensor | None = None,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = scale S_t^T q_t with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T.

    q, k (B, L, G, K), v (B, L, H, V), log_decay none, (B, L, H) or (B, L, H, K), at most 0, -inf included ->
    o (B, L, H, V) in the dtype of v and, if asked for, the state after the last step (B, H, K, V). With `bonus` (H, K),
    as in RWKV-6, o_t = scale (S_{t-1} + diag(bonus) k_t v_t^T)^T q_t. `cu_seqlens` (N + 1,) are the borders of N
    sequences packed into one row, each with a state of its own (N, H, K, V). Computed in float32 at least; `reference`
    in the dtype of its arguments. Any size may be 0. Raises ValueError when shapes or borders do not fit.
    """
    check_heads(q, k, v, log_decay)
    borders = check_states(initial_state, k, v, cu_seqlens)
    check_shapes({"bonus": (bonus, (v.shape[2], k.shape[3]))}, "v", v)
    core = implementation(OP, q, k, v, log_decay, initial_state)
    judge = common_dtype if core is reference else fast_dtype
    dtype = judge(q, k, v, log_decay, initial_state)

    def sequence(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | None) -> tuple[Tensor, Tensor]:
        decay, state = rest if len(rest) == 2 else (None, *rest)
        return core(q, k, v, decay, state, INCLUSIVE if bonus is None else EXCLUSIVE, False, False)  # type: ignore[no-any-return]

    wide = [x.to(dtype) for x in (q, k, v, log_decay) if x is not None]
    state = None if initial_state is None else initial_state.to(dtype)
    o, last = each_sequence(sequence, borders, state, *wide)
    if bonus is not None:
        weights = shared_by(wide[0] * wide[1], v.shape[2]) * bonus.to(dtype)
        o = torch.addcmul(o, weights.sum(-1, keepdim=True), wide[2])
    o = (o if scale == 1.0 else o * scale).to(v.dtype)
    return (o, last) if return_final_state else o


def channel_recurrence(
    x: Tensor, log_decay: Tensor, initial_state: Tensor | None = None, heads: int = 1
) -> tuple[Tensor, Tensor]:
    """h_t = exp(log_decay_t) h_{t-1} + x_t, each channel by itself, as in HGRN and the RG-LRU.

    x and log_decay (B, L, C), at most 0, initial_state (B, C) -> h (B, L, C) in the dtype of x, and the last (B, C). It is the
    recurrence above with keys of one channel that are 1, and decays along the values. Native kernels share out `heads` parts of C.
    """
    batch, length, width = x.shape
    expected = {"log_decay": (log_decay, (batch, length, width)), "initial_state": (initial_state, (batch, width))}
    check_shapes(expected, "x", x)
    one = x.new_ones(batch, length, 1, 1)
    core = implementation(OP, one, one, x, log_decay, initial_state)
    dtype = (common_dtype if core is reference else fast_dtype)(x, log_decay, initial_state)
    one = one.to(dtype)
    v, decay = (part.to(dtype).unflatten(-1, (heads, width // heads)) for part in (x, log_decay))
    state = None if initial_state is None else initial_state.to(dtype).view(batch, heads, 1, width // heads)
    h, last = core(one, one, v, decay, state, INCLUSIVE, False, True)
    return h.flatten(2).to(x.dtype), last.flatten(1)


@implements(OP, "reference")
def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    reverse: bool,
    on_values: bool,
) -> tuple[Tensor, Tensor]:
    """(o, the last state), step by step. `unbind`, since the gradient of an index is a full-size tensor at every step."""
    q, k = shared_by(q, v.shape[2]), shared_by(k, v.shape[2])
    S = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]) if state is None else state
    if not v.shape[1]:
        return v, S
    a = torch.exp(v.new_zeros(v.shape[:3]) if log_decay is None else log_decay)
    a = a[..., None, None] if a.ndim == 3 else a.unsqueeze(-2 if on_values else -1)
    steps = list(zip(q.unbind(1), k.unbind(1), v.unbind(1), a.unbind(1), strict=True))
    outputs = []
    for q_t, k_t, v_t, a_t in reversed(steps) if reverse else steps:
        for what in order.split(", "):
            if what == "decay":
                S = a_t * S
            elif what == "write":
                S = S + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
            else:
                outputs.append((q_t.unsqueeze(-2) @ S).squeeze(-2))
    return torch.stack(outputs[::-1] if reverse else outputs, 1), S


@implements(OP, "eager")
def eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    reverse: bool,
    on_values: bool,
) -> tuple[Tensor, Tensor]:
    """The recurrence in chunks: matrices of scores within a chunk, the state carried from one to the next."""
    first = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]) if state is None else state
    if not (v.numel() and first.numel()):  # an op may not give its own inputs
        return torch.zeros_like(v), first.clone()
    a = None if log_decay is None else torch.exp(log_decay)
    if reverse:
        q, k, v = q.flip(1), k.flip(1), v.flip(1)
        a = None if a is None else a.flip(1)
    length, heads, size = v.shape[1], v.shape[2], chunk_size(v.shape[1])
    qs, ks, vs = in_chunks(q, size), in_chunks(k, size), in_chunks(v, size)
    if a is None or a.ndim == 3:
        o, last = _one_decay(qs, ks, vs, None if a is None else in_chunks(a, size, 1.0), first, order)
    else:
        chunks = shared_by(qs, heads), shared_by(ks, heads), vs, in_chunks(a, size, 1.0), first, order
        o, last = _decayed_values(*chunks) if on_values else _decayed_keys(*chunks)
    o = in_sequence(o, length)
    return o.flip(1) if reverse else o, last


def _one_decay(q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, state: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """A factor per head and step, or none. Heads of a group are side by side: one product serves them all."""
    groups = max(q.shape[2], k.shape[2])
    q, k = shared_by(q, groups), shared_by(k, groups)
    scores = q @ k.transpose(-1, -2)
    written = v
    if a is None:
        scores = scores.tril(0 if order_of(order).sees_itself else -1)
        scores = shared_by(scores, v.shape[2])
        total = None
    else:
        pairs, decays = pair_decays(a, order)
        scores = pairs.unflatten(2, (groups, -1)).mul_(scores.unsqueeze(3)).flatten(2, 3)
        written, total = v * decays.end, decays.total
    values = v.shape[-1]
    written = k.transpose(-1, -2) @ _side_by_side(written, groups)
    before, last = carried(_apart(written, values), total, state)
    o = _apart(q @ _side_by_side(before, groups), values)
    o = o if a is None else o.mul_(decays.start)
    return o.add_(scores @ v), last


def _decayed_keys(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """A factor per channel of the keys."""
    scores, decays = damped_scores(q, k, a, order)
    written = (k * decays.end).transpose(-1, -2) @ v
    before, last = carried(written, decays.total.transpose(-1, -2), state)
    return ((q * decays.start) @ before).add_(scores @ v), last


def _decayed_values(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """A factor per channel of the values: the transposed recurrence, as some gradients are."""
    o, decays = damped_values(q @ k.transpose(-1, -2), v, a, order)
    before, last = carried(k.transpose(-1, -2) @ (v * decays.end), decays.total, state)
    return o.addcmul_(q @ before, decays.start), last


def _side_by_side(x: Tensor, groups: int) -> Tensor:
    """(n, B, H, R, V) -> (n, B, G, R, H / G * V)."""
    return x.unflatten(2, (groups, -1)).transpose(3, 4).flatten(-2)


def _apart(x: Tensor, values: int) -> Tensor:
    """(n, B, G, R, H / G * V) -> (n, B, H, R, V)."""
    return x.unflatten(-1, (-1, values)).transpose(3, 4).flatten(2, 3)


@torch.library.custom_op("zoo::linear_recurrence", mutates_args=())
def recurrence_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    reverse: bool,
    on_values: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(o (B, L, H, V), the last state (B, H, K, V)), on `backend` or, with "", on what the dispatcher chooses."""
    o, last = kernel(OP, backend, q, k, v, log_decay, state)(q, k, v, log_decay, state, order, reverse, on_values)
    return o.contiguous(), last.contiguous()


@implements(OP, "trace")
def traced(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    reverse: bool,
    on_values: bool,
    backend: str = "",
) -> tuple[Tensor, Tensor]:
    return recurrence_op(q, k, v, log_decay, state, order, reverse, on_values, backend)


@recurrence_op.register_fake
def _(q, k, v, log_decay, state, order, reverse, on_values, backend):  # type: ignore[no-untyped-def]
    return v.new_empty(v.shape), v.new_empty(v.shape[0], v.shape[2], k.shape[3], v.shape[3])


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.order, ctx.reverse, ctx.on_values, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, grad_o, grad_last):  # type: ignore[no-untyped-def]
    q, k, v, log_decay, state, o, last = ctx.saved_tensors
    tail = BACKWARD[ctx.order], not ctx.reverse, ctx.on_values, ctx.backend
    across = not ctx.on_values, ctx.backend
    wide_k, flipped = shared_by(k, v.shape[2]), grad_last.transpose(-1, -2)
    grad_q, _ = recurrence_op(grad_o, v, wide_k, log_decay, _transposed(state), ctx.order, ctx.reverse, *across)
    grad_k, _ = recurrence_op(v, grad_o, shared_by(q, v.shape[2]), log_decay, flipped, *tail[:2], *across)
    grad_v, grad_state = recurrence_op(k, q, grad_o, log_decay, grad_last, *tail)
    grad_decay = None
    if log_decay is not None:
        by_key = log_decay.ndim == 4 and not ctx.on_values
        reads, writes = (shared_by(q, v.shape[2]) * grad_q, wide_k * grad_k) if by_key else (o * grad_o, v * grad_v)
        last_share = (last * grad_last).sum(-1 if by_key else -2)
        grad_decay = decay_gradient(log_decay, reads, writes, last_share, ctx.order, ctx.reverse)
    return (
        over_group(grad_q, q.shape[2]),
        over_group(grad_k, k.shape[2]),
        grad_v,
        grad_decay,
        None if state is None else grad_state,
        *[None] * 4,
    )


recurrence_op.register_autograd(_backward, setup_context=_setup_context)


def decay_gradient(
    log_decay: Tensor, reads: Tensor, writes: Tensor, kept: Tensor, order: str, reverse: bool = False
) -> Tensor:
    """The gradient of log_decay: all that is read after a step, of what was written before it.

    `reads` and `writes` (B, L, H, D) are what each step's reads and writes contribute to the loss, `kept` (B, H, D) what
    the last state does. Summed in float64, since most of what is read later was written later, and cancels.
    """
    if log_decay.ndim == 3:
        reads, writes, kept = (x.sum(-1, keepdim=True) for x in (reads, writes, kept))
    own = order_of(order)
    later = _from_here(reads, reverse, own.before_read) - _from_here(writes, reverse, not own.behind_write)
    return (later + kept.unsqueeze(1)).to(log_decay.dtype).view(log_decay.shape)


def _from_here(x: Tensor, reverse: bool, inclusive: bool) -> Tensor:
    """Sums over the steps that come after, `inclusive` or not of the step itself, in float64."""
    x = x.double()
    passed = x.cumsum(1) if reverse else x.flip(1).cumsum(1).flip(1)
    return passed if inclusive else passed - x


def over_group(gradient: Tensor, groups: int) -> Tensor:
    """(B, L, H, K) -> (B, L, G, K): of what heads share, the sum of their gradients."""
    if gradient.shape[2] == groups:
        return gradient
    return gradient.unflatten(2, (groups, -1)).sum(3)


def _transposed(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.transpose(-1, -2)


@flop_formula(torch.ops.zoo.linear_recurrence, "scan")
def recurrence_flops(q, k, v, log_decay, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """4 B L H K V for writing and reading the state, and B L H K V for its decay."""
    batch, length, heads, values = v
    return (4 if log_decay is None else 5) * batch * length * heads * k[-1] * values


implements(OP, "native", unless=recurrence_native.refusal)(recurrence_native.linear_recurrence)
implements(OP, "triton", unless=recurrence_triton.refusal)(recurrence_triton.linear_recurrence)
