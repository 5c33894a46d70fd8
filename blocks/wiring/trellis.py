"""Paths side by side, of which each sample takes one: a router that is trained by information gain.

Paper: Bicici, Meral and Akarun, Conditional Information Gain Trellis. Upstream: ufukcbicici/cigt. K is here the number of paths.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.folding import fold_neighbours
from blocks.moe.dispatch import for_any_input
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Norm, slot
from blocks.wiring.parts import Parts, add_parts

Count = Annotated[int, Meta(ge=1)]


class Path(nn.Module):
    """The parts of one path, one behind the other."""

    takes_ctx = True

    def __init__(self, dim: int, out_dim: int | None, parts: Parts):
        super().__init__()
        self.out_dim = add_parts(self, parts, dim, out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        for part in self._modules.values():
            x = run(part, x, ctx)  # type: ignore[arg-type]
        return x

    def fuse(self) -> nn.Module:
        fold_neighbours(self, list(self._modules))
        return self


@block("trellis", kind="wiring", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"), covers=("cigt",))
class Trellis(nn.Module):
    """y = f_r(x), r the path with the largest p = softmax(W_2 norm(drop(relu(W_1 pool x))) / temperature) of each sample; f_1 ... f_K run the same
    parts with weights of their own.

    (B, C, H, W) -> what the parts lead to. pool gives `grid` x `grid` means. Only the path that a sample takes is run; the router has the
    gradient of p_r / p_r, which is 1. In training, where the slot `key` of ctx holds the classes c of the samples, (B,) numbers, `ctx.losses`
    gets -weight (balance H(n) + H(c) - H(c, n)), entropies in nats of the joint distribution of class and path over the batch: paths
    that tell classes apart, and are all taken. `ctx.reports` gets load (K,). On meta all samples take path 0; while a graph is
    recorded every sample goes through every path. Raises ValueError for a mask and packed sequences.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        paths: Annotated[int, Meta(ge=2)] = 2,
        grid: Count = 1,
        hidden_dim: Count = 128,
        act: bool = True,
        norm: Norm = slot("batch_norm"),
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
        temperature: Annotated[float, Meta(gt=0)] = 1.0,
        weight: Annotated[float, Meta(ge=0)] = 1.0,
        balance: Annotated[float, Meta(ge=0)] = 1.0,
        key: str = "classes",
    ):
        super().__init__()
        self.grid, self.act, self.drop, self.temperature = grid, act, drop, temperature
        self.weight, self.balance, self.key = weight, balance, key
        self.fc1 = Dense(dim * grid**2, hidden_dim)
        self.norm = norm(hidden_dim)
        self.fc2 = Dense(hidden_dim, paths)
        self.paths = nn.ModuleList(Path(dim, out_dim, parts) for _ in range(paths))
        self.out_dim: int = self.paths[0].out_dim  # type: ignore[assignment]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None and (ctx.mask is not None or ctx.cu_seqlens is not None):
            raise ValueError("samples are routed as wholes here, for which padding and packed sequences do not hold")
        p = (self.scores(x) / self.temperature).softmax(-1)
        best = p.argmax(-1)
        if ctx is not None:
            self._tell(ctx, p, best)
        y = self._routed(x, best, ctx)
        if not self.training:
            return y
        taken = p.gather(-1, best.unsqueeze(-1))
        return y * (1 + taken - taken.detach())[..., None, None]

    def scores(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K), before the softmax."""
        z = self.fc1(F.adaptive_avg_pool2d(x, self.grid).flatten(1))
        z = F.dropout(z.relu(), self.drop, self.training) if self.act else z
        return self.fc2(run(self.norm, z))

    def _routed(self, x: Tensor, best: Tensor, ctx: Context | None) -> Tensor:
        if x.is_meta:
            return run(self.paths[0], x, ctx)
        if for_any_input():
            each = torch.stack([run(path, x, ctx) for path in self.paths], 1)
            return (each * F.one_hot(best, len(self.paths)).to(x.dtype)[..., None, None, None]).sum(1)
        order = best.argsort(stable=True)
        counts = torch.bincount(best, minlength=len(self.paths)).tolist()
        groups = x[order].split(counts)
        outputs = [run(path, group, ctx) for path, group in zip(self.paths, groups, strict=True) if len(group)]
        return torch.cat(outputs)[order.argsort()] if outputs else run(self.paths[0], x, ctx)

    def _tell(self, ctx: Context, p: Tensor, best: Tensor) -> None:
        load = F.one_hot(best, len(self.paths)).to(p.dtype).mean(0)
        ctx.reports[self.path] = {"load": load, "importance": p.mean(0).detach()}
        written = list(ctx.read(self.key).values())
        if self.training and written and self.weight:
            gain = information_gain(p, written[-1], self.balance)
            ctx.losses[self.path] = {"information_gain": -self.weight * gain}


def information_gain(p: Tensor, classes: Tensor, balance: float = 1.0) -> Tensor:
    """balance H(n) + H(c) - H(c, n) of p(n | x) (B, K) and classes (B,) of samples that are equally likely; 0 log 0 is 0."""
    given = F.one_hot(classes).to(p.dtype)
    joint = given.T @ p / p.shape[0]
    path, kind, both = (-torch.special.xlogy(q, q).sum() for q in (joint.sum(0), joint.sum(1), joint))
    return balance * path + kind - both
