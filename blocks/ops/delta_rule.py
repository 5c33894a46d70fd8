"""The delta rule: a state that is read before it is written, and written what the reading missed.

    w_t = gain_t v_t + beta_t S^T r_t,   S_t = diag(a_t) S_{t-1} + k_t w_t^T,   o_t = S_t^T q_t

With S = diag(a_t) S_{t-1}, r = k, gain = -beta this is (gated) DeltaNet and Kimi's: of what is held for a key, the part beta is
replaced. RWKV-7 reads S = S_{t-1}, before the decay, and writes with another key; it takes two steps for each of its own.
Papers: arXiv:2406.06484, arXiv:2412.06464, arXiv:2503.14456.
H is here the number of heads, G of groups of heads that share queries or keys, K and V the widths of a key and a value.

`zoo::delta_rule` gives the w_t, too. With them known the state is a decayed sum of outer products, and so is, with what a
second delta rule back through time gives, its gradient: the backward pass is that and four calls of linear_recurrence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blocks.ops import recurrence_native, recurrence_triton
from blocks.ops.chunks import (
    BACKWARD,
    EXCLUSIVE,
    INCLUSIVE,
    READ_FIRST,
    Decays,
    chunk_size,
    damped_scores,
    in_chunks,
    in_sequence,
    pair_decays,
)
from blocks.ops.dispatch import implementation, implements, kernel
from blocks.ops.flops import flop_formula
from blocks.ops.linear_recurrence import decay_gradient, over_group, recurrence_op
from blocks.ops.selective_scan.steps import common_dtype, fast_dtype
from blocks.ops.sequences import lengths_of
from blocks.ops.shapes import check_heads, check_shapes, check_states, each_sequence, shared_by

OP = "delta_rule"


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = scale S_t^T q_t with S' = diag(exp(log_decay_t)) S_{t-1} and S_t = S' + beta_t k_t (v_t - S'^T k_t)^T.

    q, k (B, L, G, K), v (B, L, H, V), beta (B, L, H), log_decay none, (B, L, H) or (B, L, H, K), at most 0 ->
    o (B, L, H, V) in the dtype of v and, if asked for, the state after the last step (B, H, K, V). Keys should have
    length 1. `cu_seqlens` (N + 1,) are the borders of N sequences packed into one row, each with a state of its own
    (N, H, K, V). Computed in float32 at least; `reference` in the dtype of its arguments. Any size may be 0. Raises
    ValueError when shapes or borders do not fit.
    """
    check_heads(q, k, v, log_decay)
    borders = check_states(initial_state, k, v, cu_seqlens)
    check_shapes({"beta": (beta, tuple(v.shape[:3]))}, "v", v)
    core, (q, k, wide, beta, decay, state) = _chosen(q, k, v, beta, log_decay, initial_state)
    o, last = _run(core, q, k, k, wide, beta, -beta, decay, state, READ_FIRST, borders)
    o = (o if scale == 1.0 else o * scale).to(v.dtype)
    return (o, last) if return_final_state else o


def diagonal_plus_low_rank(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = scale S_t^T q_t with S_t = (diag(exp(log_decay_t)) + b_t a_t^T) S_{t-1} + k_t v_t^T, as in RWKV-7.

    q, k, a, b (B, L, H, K), v (B, L, H, V); else as `delta_rule`. A step is two of the delta rule: one that decays, reads
    with `a` and writes with `b`, and one that writes `v` with `k` and is read with `q`.
    """
    check_heads(q, k, v, log_decay)
    borders = check_states(initial_state, k, v, cu_seqlens)
    check_shapes({"a": (a, tuple(k.shape)), "b": (b, tuple(k.shape))}, "k", k)
    core, (q, k, wide, a, b, decay, state) = _chosen(q, k, v, a, b, log_decay, initial_state)
    twice = None
    if borders is not None:
        lengths_of(v, borders)  # refused as they were given
        twice = 2 * borders
    none, beta = torch.zeros_like(q), wide.new_ones(wide.shape[:3])
    decay = None if decay is None else _alternate(decay, torch.zeros_like(decay))
    o, last = _run(
        core,
        _alternate(none, q),
        _alternate(a, none),
        _alternate(b, k),
        _alternate(torch.zeros_like(wide), wide),
        _alternate(beta, beta),
        _alternate(beta, torch.zeros_like(beta)),
        decay,
        state,
        EXCLUSIVE,
        twice,
    )
    o = o[:, 1::2]
    o = (o if scale == 1.0 else o * scale).to(v.dtype)
    return (o, last) if return_final_state else o


def _alternate(first: Tensor, second: Tensor) -> Tensor:
    """(B, L, …) twice -> (B, 2 L, …), in turns."""
    return torch.stack([first, second], 2).flatten(1, 2)


def _chosen(*tensors: Tensor | None) -> tuple[Callable[..., Any], list[Any]]:
    """What runs for these tensors, and the tensors in float32 at least or, for the reference, in the dtype that holds them."""
    core = implementation(OP, *tensors)
    dtype = (common_dtype if core is reference else fast_dtype)(*tensors)
    return core, [None if x is None else x.to(dtype) for x in tensors]


def _run(
    core: Callable[..., Any],
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    state: Tensor | None,
    order: str,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    def sequence(*arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        *tensors, state = arguments
        o, _, last = core(*tensors, *([] if len(tensors) == 7 else [None]), state, order, False)
        return o, last

    tensors = (q, r, k, v, gain, beta) if decay is None else (q, r, k, v, gain, beta, decay)
    return each_sequence(sequence, cu_seqlens, state, *tensors)


@implements(OP, "reference")
def reference(
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(o, w, the last state), step by step. `unbind`, since the gradient of an index is a full-size tensor at every step."""
    q, r, k = (shared_by(x, v.shape[2]) for x in (q, r, k))
    S = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]) if state is None else state
    if not v.shape[1]:
        return v, v, S
    a = torch.exp(torch.zeros_like(beta) if log_decay is None else log_decay)
    a = a.unsqueeze(-1) if a.ndim == 3 else a
    v, beta = gain.unsqueeze(-1) * v, beta.unsqueeze(-1)
    outputs, writes = [], []
    for q_t, r_t, k_t, v_t, beta_t, a_t in zip(*(x.unbind(1) for x in (q, r, k, v, beta, a)), strict=True):
        decayed = a_t.unsqueeze(-1) * S
        w_t = v_t + beta_t * (r_t.unsqueeze(-2) @ (decayed if order == READ_FIRST else S)).squeeze(-2)
        S = decayed + k_t.unsqueeze(-1) * w_t.unsqueeze(-2)
        outputs.append((q_t.unsqueeze(-2) @ S).squeeze(-2))
        writes.append(w_t)
    return torch.stack(outputs, 1), torch.stack(writes, 1), S


@implements(OP, "eager")
def eager(
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(o, w, the last state) in chunks. What the steps of a chunk read of each other's writes is a triangular system:

    (I - diag(beta) F) w = gain v + diag(beta) R S, with F the scores of r and k, R the decayed r, S the state before the chunk.
    """
    S = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]) if state is None else state
    if not (v.numel() and S.numel()):  # an op may not give its own inputs
        return torch.zeros_like(v), gain.unsqueeze(-1) * v, S.clone()
    (batch, length, heads, _), size = v.shape, chunk_size(v.shape[1])
    same = r is k
    q, k = in_chunks(shared_by(q, heads), size), in_chunks(shared_by(k, heads), size)
    r = k if same else in_chunks(shared_by(r, heads), size)
    v, gain, beta = in_chunks(v, size), in_chunks(gain, size).unsqueeze(-1), in_chunks(beta, size).unsqueeze(-1)
    a = None if log_decay is None else in_chunks(torch.exp(log_decay), size, 1.0)
    scores, read, after, before = _scores(q, r, k, a, order)
    identity = torch.eye(
        size, dtype=v.dtype, device=v.device
    )  # a unit triangle is solved by what lies below its diagonal
    answers = torch.linalg.solve_triangular(read.mul_(-beta), identity, upper=False, unitriangular=True)
    writes, of_state = answers @ (v * gain), answers @ (r * (beta if before is None else beta * before.start))
    total = None
    if after is not None:
        q, k, total = q * after.start, k * after.end, after.total.transpose(-1, -2).flatten(1, 2)
    keys, of_state, shown = k.transpose(-1, -2).flatten(1, 2), of_state.flatten(1, 2), q.flatten(1, 2)
    w, S = writes.flatten(1, 2), S.flatten(0, 1).clone()
    outputs = torch.empty_like(w)
    for index in range(len(w)):
        w[index].baddbmm_(of_state[index], S)
        torch.bmm(shown[index], S, out=outputs[index])
        S = (S if total is None else S * total[index]).baddbmm_(keys[index], w[index])
    outputs.flatten(0, 1).baddbmm_(scores.flatten(0, 2), w.flatten(0, 1))
    outputs = outputs.unflatten(1, (batch, heads))
    return in_sequence(outputs, length), in_sequence(writes, length), S.unflatten(0, (batch, heads))


def _scores(
    q: Tensor, r: Tensor, k: Tensor, a: Tensor | None, order: str
) -> tuple[Tensor, Tensor, Decays | None, Decays | None]:
    """Within chunks: scores of q with k, and of r with k below the diagonal; decays for what is shown, and for what is read."""
    if a is None:
        keys = k.transpose(-1, -2)
        return (q @ keys).tril_(), r @ keys, None, None
    if a.ndim == 5:
        scores, after = damped_scores(q, k, a, INCLUSIVE)
        read, before = damped_scores(r, k, a, order)
        return scores, read, after, before
    keys = k.transpose(-1, -2)
    pairs, after = pair_decays(a, INCLUSIVE)
    between, before = (pairs, after) if order == READ_FIRST else pair_decays(a, order)  # the same below the diagonal
    return (q @ keys).mul_(pairs), (r @ keys).mul_(between), after, before


@torch.library.custom_op("zoo::delta_rule", mutates_args=())
def delta_op(
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(o (B, L, H, V), w (B, L, H, V), the last state (B, H, K, V))."""
    tensors = q, r, k, v, gain, beta, log_decay, state
    o, w, last = kernel(OP, backend, *tensors)(*tensors, order, True)
    return o.contiguous(), w.contiguous(), last.contiguous()


@implements(OP, "trace")
def traced(*arguments: Any, backend: str = "") -> tuple[Tensor, Tensor, Tensor]:
    *tensors_and_order, _ = arguments
    return delta_op(*tensors_and_order, backend)  # type: ignore[no-any-return]


@delta_op.register_fake
def _(q, r, k, v, gain, beta, log_decay, state, order, backend):  # type: ignore[no-untyped-def]
    return v.new_empty(v.shape), v.new_empty(v.shape), v.new_empty(v.shape[0], v.shape[2], k.shape[3], v.shape[3])


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.order, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx, grad_o, grad_w, grad_last):  # type: ignore[no-untyped-def]
    q, r, k, v, gain, beta, decay, state, w, last = ctx.saved_tensors
    groups, heads = (q.shape[2], r.shape[2], k.shape[2]), v.shape[2]
    q, r, k = (shared_by(x, heads) for x in (q, r, k))
    asked = r * beta.unsqueeze(-1)
    answer, grad_state = _back_through_time(q, asked, k, decay, grad_o, grad_w, grad_last, ctx.order, ctx.backend)

    def of_keys(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, order: str, reverse: bool = False) -> Tensor:
        across = None if state is None else state.transpose(-1, -2)
        return recurrence_op(q, k, v, decay, across, order, reverse, True, ctx.backend)[0]

    grad_q, grad_asked = of_keys(grad_o, w, k, state, INCLUSIVE), of_keys(answer, w, k, state, ctx.order)
    grad_k = of_keys(w, grad_o, q, grad_last, BACKWARD[INCLUSIVE], True)
    grad_k = grad_k + of_keys(w, answer, asked, None, BACKWARD[ctx.order], True)
    grad_decay = None
    if decay is not None:
        reads = asked * grad_asked
        if ctx.order != READ_FIRST:  # read before the step's decay
            reads = torch.cat([reads[:, 1:], torch.zeros_like(reads[:, :1])], 1)
        last_share = (last * grad_last).sum(-1)
        grad_decay = decay_gradient(decay, reads.addcmul_(q, grad_q), k * grad_k, last_share, INCLUSIVE)
    shared = grad_q, grad_asked * beta.unsqueeze(-1), grad_k
    return (
        *(over_group(grad, count) for grad, count in zip(shared, groups, strict=True)),
        answer * gain.unsqueeze(-1),
        (answer * v).sum(-1),
        (r * grad_asked).sum(-1),
        grad_decay,
        None if state is None else grad_state,
        None,
        None,
    )


delta_op.register_autograd(_backward, setup_context=_setup_context)


def _back_through_time(
    q: Tensor,
    asked: Tensor,
    k: Tensor,
    decay: Tensor | None,
    grad_o: Tensor,
    grad_w: Tensor,
    grad_last: Tensor,
    order: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(the gradients y_t of the w_t; the gradient of the first state), with `asked` = beta r.

    With G_t the gradient of S_t, y_t = G_t^T k_t + grad_w_t and, in the order READ_FIRST, G_{t-1} = q_{t-1} grad_o_{t-1}^T +
    diag(a_t) (G_t + asked_t y_t^T): a delta rule of two steps each, one that writes grad_o, one that reads with k.
    """
    q, asked, k, grad_o, grad_w = (x.flip(1) for x in (q, asked, k, grad_o, grad_w))
    none, one = torch.zeros_like(q), q.new_ones(q.shape[:3])
    gain, beta = _alternate(one, one), _alternate(torch.zeros_like(one), one)
    steps = _alternate(none, k), _alternate(q, asked), _alternate(grad_o, grad_w), gain, beta
    decays, rest = None, None
    if decay is not None:
        decays, rest = decay.flip(1), torch.zeros_like(decay)
        if order == READ_FIRST:  # the step's decay comes last: at the next step, and behind them all
            behind = torch.cat([rest[:, :1], decays[:, :-1]], 1)
            decays, rest = _alternate(behind, rest), torch.exp(decays[:, -1:].sum(1))  # of no steps 1
        else:
            decays, rest = _alternate(rest, decays), None
    _, y, grad_first = delta_op(torch.zeros_like(steps[0]), *steps, decays, grad_last, EXCLUSIVE, backend)
    if rest is not None:
        grad_first = grad_first * (rest.unsqueeze(-1) if rest.ndim == 3 else rest[..., None, None])
    return y[:, 1::2].flip(1), grad_first


@flop_formula(torch.ops.zoo.delta_rule, "scan")
def delta_flops(q, r, k, v, gain, beta, log_decay, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """6 B L H K V for reading, writing and reading the state, and B L H K V for its decay."""
    batch, length, heads, values = v
    return (6 if log_decay is None else 7) * batch * length * heads * k[-1] * values


implements(OP, "native", unless=recurrence_native.refusal)(recurrence_native.delta_rule)
implements(OP, "triton", unless=recurrence_triton.refusal)(recurrence_triton.delta_rule)
