"""Linear recurrences and delta rules: each backend against the public chunked forms, written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.delta_rule import delta_rule
from blocks.ops.linear_recurrence import linear_recurrence
from tests.benchmarks.harness import Comparison, compare
from tests.benchmarks.ops import _backends, _on, _quietly, as_matmul

L, CHUNK = 2048, 64


def run(rounds: int = 15) -> dict[str, Comparison]:
    """The first candidate of each row is the baseline."""
    rows = {
        f"SSD (Mamba-2 130m), L={L} H=24 P=64 N=128": _ssd(),
        f"gated delta rule, L={L} H=12 K=V=64": _gated_delta(),
        f"gated linear attention, L={L} H=12 K=V=64": _gated_linear(),
        f"causal linear attention against softmax, L={L} H=12 D=64": _linear_attention(),
    }
    return {name: compare(candidates, rounds) for name, candidates in rows.items() if len(candidates) > 1}


def sums_between(x: Tensor) -> Tensor:
    """(…, T) -> (…, T, T): for i >= j the sum of x over j < t <= i, elsewhere -inf."""
    size = x.shape[-1]
    below = torch.ones(size, size, dtype=torch.bool).tril(-1)
    summed = x.unsqueeze(-1).expand(*x.shape, size).masked_fill(~below, 0).cumsum(-2)
    return summed.masked_fill(~torch.ones(size, size, dtype=torch.bool).tril(), -torch.inf)


def minimal_ssd(C: Tensor, B: Tensor, X: Tensor, A: Tensor) -> Tensor:
    """The four steps of the Mamba-2 paper's minimal form: within chunks, into states, between states, out of states."""
    C, B, X, A = (x.unflatten(1, (-1, CHUNK)) for x in (C, B, X, A))
    A = A.permute(0, 3, 1, 2)
    passed = A.cumsum(-1)
    within = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, torch.exp(sums_between(A)), X)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, torch.exp(passed[..., -1:] - passed), X)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    between = torch.exp(sums_between(F.pad(passed[..., -1], (1, 0))))
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    return (within + torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, torch.exp(passed))).flatten(1, 2)


def naive_gated_delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Tensor:
    """The public form in plain torch: chunks whose triangular inverse is made row by row, one chunk after the other."""
    q, k, v, beta, g = (
        x.transpose(1, 2).unflatten(2, (-1, CHUNK)) for x in (q, k, v, beta.unsqueeze(-1), log_decay.unsqueeze(-1))
    )
    g = g.squeeze(-1).cumsum(-1)
    between = (g.unsqueeze(-1) - g.unsqueeze(-2)).tril().exp().tril()
    inverse = -((k * beta) @ k.mT * between).tril(-1)
    for i in range(1, CHUNK):
        inverse[..., i, :i] += (inverse[..., i, :i, None] * inverse[..., :i, :i]).sum(-2)
    inverse = inverse + torch.eye(CHUNK)
    values, keys = inverse @ (v * beta), inverse @ (k * beta * g.exp().unsqueeze(-1))
    S, outputs = v.new_zeros(*v.shape[:2], k.shape[-1], v.shape[-1]), []
    for i in range(v.shape[2]):
        new = values[:, :, i] - keys[:, :, i] @ S
        scores = q[:, :, i] @ k[:, :, i].mT * between[:, :, i]
        outputs.append((q[:, :, i] * g[:, :, i].exp().unsqueeze(-1)) @ S + scores @ new)
        rest = (g[:, :, i, -1:] - g[:, :, i]).exp().unsqueeze(-1)
        S = S * g[:, :, i, -1, None, None].exp() + (k[:, :, i] * rest).mT @ new
    return torch.stack(outputs, 2).flatten(2, 3).transpose(1, 2)


def per_step_gla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """The public form in plain torch, step by step."""
    S, outputs = v.new_zeros(len(v), v.shape[2], k.shape[-1], v.shape[-1]), []
    decay = log_decay.exp()
    for t in range(v.shape[1]):
        S = S * decay[:, t, :, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((q[:, t, :, :, None] * S).sum(-2))
    return torch.stack(outputs, 1)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def _decayed() -> tuple[Tensor, ...]:
    return _normal(1, L, 12, 64), _normal(1, L, 12, 64) / 8, _normal(1, L, 12, 64), -_normal(1, L, 12).abs() / 8


def _delta() -> tuple[Tensor, ...]:
    q, k, v, log_decay = _decayed()
    return q, F.normalize(k, dim=-1), v, _normal(1, L, 12).sigmoid(), log_decay


def _ways(work: Callable[[], object]) -> dict[str, Any]:
    """The times of each backend, and the time below which no way can be that needs its multiplications."""
    return {name: _on(name, work) for name in _backends("recurrence")} | {"limit: its FLOPs as matmul": as_matmul(work)}


def _ssd() -> dict[str, Any]:
    C, B, X, A = _normal(1, L, 1, 128), _normal(1, L, 1, 128) / 8, _normal(1, L, 24, 64), -_normal(1, L, 24).abs() / 8
    for_all = C.expand(-1, -1, 24, -1), B.expand(-1, -1, 24, -1), X, A
    ways = _ways(lambda: linear_recurrence(C, B, X, A))
    return {"minimal, chunks of 64": _quietly(lambda: minimal_ssd(*for_all))} | ways


def _gated_delta() -> dict[str, Any]:
    inputs = _delta()
    ways = _ways(lambda: delta_rule(*inputs))
    return {"naive chunks of 64": _quietly(lambda: naive_gated_delta(*inputs))} | ways


def _gated_linear() -> dict[str, Any]:
    q, k, v, _ = _decayed()
    inputs = q, k, v, -_normal(1, L, 12, 64).abs() / 8
    ways = _ways(lambda: linear_recurrence(*inputs))
    return {"per step": _quietly(lambda: per_step_gla(*inputs))} | ways


def _linear_attention() -> dict[str, Any]:
    q, k, v, _ = _decayed()
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    ways = _ways(lambda: linear_recurrence(q, k, v))
    return {"softmax": _quietly(lambda: F.scaled_dot_product_attention(*heads, is_causal=True))} | ways
