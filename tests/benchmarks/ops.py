"""The ops of sequence blocks: each backend against the public way to compute the same on a CPU, written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.ops import native
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.long_conv import long_conv
from blocks.ops.selective_scan import selective_scan
from tests.benchmarks.harness import Comparison, compare

B, L, D, N = 1, 2048, 768, 16
"""Samples, steps, channels, size of a channel's state: 25 million state updates."""


def run(rounds: int = 15) -> dict[str, Comparison]:
    """The first candidate of each row is the baseline."""
    rows = {
        f"selective scan, L={L} D={D} N={N}": _scan_forward(),
        f"selective scan with its gradients, L={L}": _scan_training(),
        f"causal convolution of 4 taps and silu, L={L} D={D}": _short_conv(),
        f"long convolution, L={L} D={D}": _long_conv(),
    }
    return {name: compare(candidates, rounds) for name, candidates in rows.items() if len(candidates) > 1}


def per_step(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The public reference: all decays and inputs at once, (B, D, L, N) each, then a step at a time."""
    decay, values = _decays_and_values(u, delta, A, B)
    h, outputs = torch.zeros_like(decay[:, :, 0]), []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + values[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
    return torch.stack(outputs, 2)


def per_step_unbound(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The same with `unbind`, without which its backward pass takes time with the square of the length."""
    decay, values = (tensor.unbind(2) for tensor in _decays_and_values(u, delta, A, B))
    h, outputs = torch.zeros_like(decay[0]), []
    for decay_t, values_t, C_t in zip(decay, values, C.unbind(2), strict=True):
        h = decay_t * h + values_t
        outputs.append(torch.einsum("bdn,bn->bd", h, C_t))
    return torch.stack(outputs, 2)


def _decays_and_values(u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """exp(delta A) and delta u B as (B, D, L, N)."""
    return torch.exp(torch.einsum("bdl,dn->bdln", delta, A)), torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)


def _inputs(length: int = L) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(B, length, D, generator=draw).transpose(1, 2) for _ in range(2))
    matrices = [torch.randn(B, length, N, generator=draw).transpose(1, 2) for _ in range(2)]
    return u, F.softplus(delta - 4), -torch.arange(1.0, N + 1).repeat(D, 1), *matrices


def _backends(native_of: str) -> list[str]:
    return ["eager", "native"] if native.library(native_of) else ["eager"]


def _scan_forward() -> dict[str, Any]:
    inputs = _inputs()
    ways = {name: _on(name, _quietly(lambda: selective_scan(*inputs))) for name in _backends("selective_scan")}
    return {"per step": _quietly(lambda: per_step(*inputs))} | ways | {"limit: its exponentials": _exponentials()}


def _exponentials(at_once: int = 2**17) -> Callable[[], object]:
    """As many as the scan has states, in pieces that stay in cache: what torch could not beat."""
    x = torch.randn(at_once)
    y = torch.empty_like(x)
    return lambda: [torch.exp(x, out=y) for _ in range(B * L * D * N // at_once)]


def as_matmul(work: Callable[[], object], width: int = 1024) -> Callable[[], object]:
    """The FLOPs of `work`, as torch's counter sees them, in square matmuls: the least time that they take here."""
    with blocks.ops.backend("trace"), FlopCounterMode(display=False) as counter:
        work()
    x = torch.randn(width, width)
    y = torch.empty_like(x)
    times, rest = divmod(counter.get_total_flops(), 2 * width**3)
    thin = x[: max(1, width * rest // (2 * width**3))]

    def multiplied() -> None:
        for _ in range(times):
            torch.mm(x, x, out=y)
        torch.mm(thin, x, out=y[: len(thin)])

    return multiplied


def _scan_training() -> dict[str, Any]:
    ways = {name: _on(name, _training(selective_scan, _inputs())) for name in _backends("selective_scan")}
    return {"per step, unbound": _training(per_step_unbound, _inputs())} | ways


def _short_conv() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(B, L, 2 * D, generator=draw)[..., :D].transpose(1, 2)
    weight, bias = torch.randn(D, 1, 4, generator=draw), torch.randn(D, generator=draw)
    return {
        "F.conv1d, silu" if name == "eager" else name: _on(name, lambda: causal_conv1d(x, weight, bias, act="silu"))
        for name in _backends("causal_conv1d")
    }


def _long_conv() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    x, kernel = torch.randn(B, D, L, generator=draw), torch.randn(D, L, generator=draw)

    def twice_the_length() -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, 2 * L) * torch.fft.rfft(kernel, 2 * L), 2 * L)[..., :L]

    return {"rfft of 2 L": _quietly(twice_the_length), "long_conv": _quietly(lambda: long_conv(x, kernel))}


def _training(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """One forward and one backward pass."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    grad = torch.ones_like(inputs[0])  # channels side by side, as a linear layer gives it back
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def _on(backend: str, work: Callable[[], object]) -> Callable[[], object]:
    def forced() -> object:
        with blocks.ops.backend(backend):
            return work()

    return forced


def _quietly(work: Callable[[], object]) -> Callable[[], object]:
    def alone() -> object:
        with torch.inference_mode():
            return work()

    return alone
