"""Mixtures of experts against one dense gated MLP of equal FLOPs.

What bounds the row of 64 experts in bfloat16, at one thread of a machine with AMX, as parts of its time of 2.5 dense MLPs:
products of 384 rows with 256 hidden channels, for each of which the library rearranges 256 KiB of weights anew, run at 1/2
to 2/3 of the rate of the dense one (1 to 1.3 of the 2.5, where the dense MLP has 0.7 of its 1); 25 MB of rows gathered,
written over and added up for their tokens, and 50 MB of weights that no cache holds (together 0.5, of which the bytes alone
would be 0.3 at the 14 GB/s of a copy); choosing 6 of 64 and sorting (0.2). Few big experts have none of this.
"""

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
