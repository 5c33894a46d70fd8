"""Mixtures of experts against one dense gated MLP of equal FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blocks.mlp.mlp import GatedMlp
from blocks.moe.moe import Moe
from tests.benchmarks.harness import Comparison, compare

DIM = 512
SHAPES = [
    # tokens, experts, k, hidden width of an expert, dtype
    (4096, 8, 2, 1024, torch.float32),
    (4096, 8, 2, 1024, torch.bfloat16),
    (4096, 64, 6, 256, torch.float32),
    (4096, 64, 6, 256, torch.bfloat16),
    (64, 64, 6, 256, torch.float32),
]


def run(rounds: int = 15) -> dict[str, Comparison]:
    """One row for each shape; the dense MLP of hidden width k * I is the first candidate."""
    rows = {}
    for T, E, k, hidden_dim, dtype in SHAPES:
        name = f"experts, T={T} D={DIM} E={E} k={k} I={hidden_dim} {str(dtype).removeprefix('torch.')}"
        rows[name] = compare(_candidates(T, E, k, hidden_dim, dtype), rounds)
    return rows


def _candidates(T: int, E: int, k: int, hidden_dim: int, dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(1, T, DIM).to(dtype)
    router = {"block": "topk_router", "num_experts": E, "k": k}
    ways: dict[str, nn.Module] = {"dense MLP": GatedMlp(DIM, hidden_dim=k * hidden_dim)}
    for block in ("gated_mlp", "packed_gated_mlp"):
        ways[block] = Moe(DIM, router=router, expert={"block": block, "hidden_dim": hidden_dim})
    return {name: _forward(layer.to(dtype).eval(), x) for name, layer in ways.items()}


def _forward(layer: nn.Module, x: Tensor) -> Any:
    @torch.inference_mode()
    def work() -> Tensor:
        y: Tensor = layer(x)
        return y

    return work
