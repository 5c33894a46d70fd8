"""Dynamical low rank: a map of three factors that is trained along the surface of the matrices of its rank.

Papers: arXiv:2205.13571 (DLRT). Names of the state are those of COMPiLELab/DLRT-Net.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.primitives.orthogonal import orthogonal_, orthonormal, widest
from blocks.registry import block
from blocks.structured.structured import EVERYWHERE


@block("dynamic_low_rank", kind="linear", abilities=EVERYWHERE, paper="arXiv:2205.13571", covers=("dlrt",))
class DynamicLowRank(nn.Module):
    """y = U S V^T x + b, U (out, r) and V (in, r) with orthonormal columns, S (r, r).

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. A step of training (`step`) moves K = U S and L = V S^T,
    takes new bases from both by QR, with [K | U] and [L | V] where the rank may grow, and then moves S in them; singular values whose
    tail is at most `tau` |S| are cut. Differs from upstream, which cuts by the wrong columns and leaves the last singular value out of
    the tail. Raises ValueError for a rank that exceeds either width.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        rank: Annotated[int, Meta(ge=1)] = 16,
        bias: bool = True,
    ):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim or dim
        most = min(dim, self.out_dim)
        if rank > most:
            raise ValueError(
                f"rank {rank} exceeds a map from {dim} to {self.out_dim} channels, whose rank is at most {most}"
            )
        self.U = nn.Parameter(torch.empty(self.out_dim, rank))
        self.S_hat = nn.Parameter(torch.empty(rank, rank))
        self.V = nn.Parameter(torch.empty(dim, rank))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_dim)) if bias else None)
        self.bias: nn.Parameter | None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        orthogonal_(self.U)
        orthogonal_(self.V)
        nn.init.normal_(self.S_hat, std=(max(self.dim, self.out_dim) / (self.dim * self.S_hat.shape[0])) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Every number of the factors is met once by every position."""
        weights = self.U.numel() + self.S_hat.numel() + self.V.numel()
        return {"matmul": math.prod(shape) // self.dim * weights}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        y = F.linear(F.linear(F.linear(rows, self.V.T), self.S_hat), self.U, self.bias)
        return y.permute(0, 3, 1, 2) if x.ndim == 4 else y

    @torch.no_grad()
    def rebase(self, K: Tensor, L: Tensor, grow: bool = False) -> None:
        """New bases from K (out, r) and L (in, r), and the S that says in them what U S V^T was."""
        U = orthonormal(torch.cat([K, self.U], 1) if grow else K)
        V = orthonormal(torch.cat([L, self.V], 1) if grow else L)
        S = (U.T @ self.U) @ self.S_hat @ (V.T @ self.V).T
        self.U, self.S_hat, self.V = nn.Parameter(U), nn.Parameter(S), nn.Parameter(V)

    @torch.no_grad()
    def cut(self, tau: float) -> None:
        """Leaves the smallest rank whose tail of singular values is at most tau |S|, one at least."""
        P, values, Qh = torch.linalg.svd(self.S_hat.to(widest(self.S_hat.dtype)))
        tails = values.square().flip(0).cumsum(0).flip(0).sqrt()
        rank = max(1, int((tails > tau * values.norm()).sum()))
        P, Qh = P.to(self.U), Qh.to(self.V)
        self.U, self.V = nn.Parameter(self.U @ P[:, :rank]), nn.Parameter(self.V @ Qh[:rank].T)
        self.S_hat = nn.Parameter(torch.diag(values[:rank].to(self.U)))

    def step(self, loss: Callable[[], Tensor], lr: float, tau: float | None = None) -> None:
        """One step of gradient descent on `loss()`, of the factors alone: K and L, then S; the rank is chosen anew with `tau`."""
        one = torch.eye(len(self.S_hat), dtype=self.S_hat.dtype, device=self.S_hat.device)
        K, L = (self.U @ self.S_hat).detach(), (self.V @ self.S_hat.T).detach()
        grad_K = self._gradient("U", loss, U=K, S_hat=one)
        grad_L = self._gradient("V", loss, V=L, S_hat=one)
        self.rebase(K - lr * grad_K, L - lr * grad_L, tau is not None)
        grad_S = self._gradient("S_hat", loss)
        with torch.no_grad():
            self.S_hat.sub_(lr * grad_S)
        if tau is not None:
            self.cut(tau)

    def _gradient(self, name: str, loss: Callable[[], Tensor], **values: Tensor) -> Tensor:
        """That of one factor where some have other values: with U = K and S = 1 the map is K V^T, and the gradient of U that of K."""
        before = {factor: getattr(self, factor).data for factor in values}
        for factor, value in values.items():
            getattr(self, factor).data = value
        (gradient,) = torch.autograd.grad(loss(), getattr(self, name))
        for factor, value in before.items():
            getattr(self, factor).data = value
        return gradient

    @torch.no_grad()
    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        self.U = nn.Parameter(self.U * scale[:, None], requires_grad=False)
        self.bias = nn.Parameter(shift if self.bias is None else self.bias * scale + shift, requires_grad=False)
        return True

    @torch.no_grad()
    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        moved = self.U @ (self.S_hat @ (self.V.T @ shift.to(self.V)))
        self.bias = nn.Parameter(moved if self.bias is None else self.bias + moved, requires_grad=False)
        self.V = nn.Parameter(self.V * scale[:, None], requires_grad=False)
        return True
