"""Attention among the voxels of a window, told by where they are and what they look like (Swin3D). Paper: arXiv:2304.06906.

The authors' kernels for CUDA visit the pairs of a window alone; here all pairs are scored, and those of two windows hidden.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


class Signal(Struct, frozen=True, forbid_unknown_fields=True):
    """Three axes of what a voxel is told by: differences below `reach` are told apart in `steps` for each unit."""

    name: str
    reach: Annotated[int, Meta(ge=1, le=4096)]
    steps: Annotated[int, Meta(ge=1, le=4096)]

    @property
    def rows(self) -> int:
        """L = 2 reach steps: of a table for differences from -reach to reach."""
        return 2 * self.reach * self.steps


@block("voxel_attention", kind="merge", paper="arXiv:2304.06906", covers=("crse", "swin3d_attention"))
class VoxelAttention(nn.Module):
    """y_i = W sum_j softmax_j(q_i k_j + q_i Q_ij + k_j K_ij) (v_j + V_ij) for each head, over the voxels j of the window of i.

    Q_ij, K_ij and V_ij are sums over the axes a of table rows floor(steps (s_ia - s_ja)) + L / 2, kept inside the table, where s are the
    signals of a voxel: its place in the window in voxels, its colour from -1 to 1. q is scaled by head_dim^-1/2 before all.
    Voxels (N, C), their windows (N,), signals (N, 3 S) -> (N, C). Raises ValueError when heads do not divide, and for another number of signals.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        signals: Annotated[tuple[Signal, ...], Meta(min_length=1, max_length=16)],
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if len(dims) != 3 or dims[2] != 3 * len(signals):
            raise ValueError(f"voxels, windows and {3 * len(signals)} signals are needed; there are widths {dims}")
        self.signals, self.out_dim = signals, dims[0]
        self.num_heads, self.head_dim = split_heads(dims[0], num_heads, head_dim)
        self.qkv = linear(dims[0], 3 * self.num_heads * self.head_dim, bias=True)
        self.proj = linear(self.num_heads * self.head_dim, dims[0], bias=True)
        self.query, self.key, self.value = (nn.ParameterDict(self._tables()) for _ in range(3))
        self.reset_parameters()

    def _tables(self) -> dict[str, nn.Parameter]:
        form = (self.num_heads, self.head_dim)
        return {signal.name: nn.Parameter(torch.empty(3, signal.rows, *form)) for signal in self.signals}

    def reset_parameters(self) -> None:
        for tables in (self.query, self.key, self.value):
            for table in tables.values():
                nn.init.trunc_normal_(table, std=0.02)

    def macs(self, shape: tuple[int, ...], *others: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums of N^2 pairs, and N voxels against three tables: (2 N^2 + 9 N sum L) C."""
        rows = sum(signal.rows for signal in self.signals)
        return {"matmul": (2 * shape[0] + 9 * rows) * shape[0] * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, windows: Tensor, signals: Tensor, *, ctx: Context | None = None) -> Tensor:
        q, k, v = run(self.qkv, x, ctx).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(1, 2, 0, 3)
        q = q * self.head_dim**-0.5
        differences = self._rows(signals)
        scores = q @ k.mT
        for name, axis, rows in differences:  # a voxel against a table, of which each pair takes its row
            scores = scores + (q @ self.query[name][axis].permute(1, 2, 0)).gather(2, rows.expand_as(scores))
            scores = scores + (k @ self.key[name][axis].permute(1, 2, 0)).gather(2, rows.mT.expand_as(scores)).mT
        shares = scores.masked_fill(windows[:, None] != windows, -torch.inf).softmax(-1)
        y = shares @ v
        for name, axis, rows in differences:  # the shares of pairs with the same row, then the row
            table = self.value[name][axis].transpose(0, 1)
            of_rows = shares.new_zeros(*shares.shape[:2], table.shape[1]).scatter_add(2, rows.expand_as(shares), shares)
            y = y + of_rows @ table
        return run(self.proj, y.transpose(0, 1).flatten(1), ctx)

    def _rows(self, signals: Tensor) -> list[tuple[str, int, Tensor]]:
        """(name of the table, axis, (N, N) row of each pair)."""
        found = []
        for place, signal in enumerate(self.signals):
            for axis in range(3):
                s = signals[:, 3 * place + axis] * signal.steps
                rows = (s[:, None] - s).floor().long() + signal.rows // 2
                found.append((signal.name, axis, rows.clamp(0, signal.rows - 1)))
        return found
