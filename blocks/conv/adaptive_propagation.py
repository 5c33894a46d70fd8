"""Features of the nodes of a graph, smoothed by as many hops as suit each node. Paper: arXiv:2108.00955 (DGMLP). Upstream: PKU-DAIR/DGMLP."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block

TINY = 1e-10
"""What is added to the length of a vector before something is divided by it."""


@block(
    "adaptive_propagation",
    kind="merge",
    layout="BLC",
    abilities=("noncausal", "1d"),
    covers=("dgmlp", "node_adaptive_propagation"),
)
class AdaptivePropagation(nn.Module):
    """y_i = sum_k w_ik x^k_i, x^k = P^k x and w_i = softmax_k(cos(x_i, x^k_i) (1 - cos(s_i, x^k_i))), k = 0 ... hops.

    x (B, N, C), and edges M (B, N, E), 1 at the nodes that an edge joins and 0 elsewhere -> (B, N, C). P = D^-1/2 (A + I) D^-1/2, A = M M^T
    without its diagonal, D the degrees of A + I; s_i is where endless propagation leads: the mean of x over the part of the graph that
    i is in, weighed by degrees. A node takes hops that still tell of itself and not yet what all tell. Negative numbers count as 0.
    Nothing here is learned. Raises ValueError for edges of other nodes.
    """

    def __init__(self, dims: tuple[int, ...], *, hops: Annotated[int, Meta(ge=1, le=1024)] = 20):
        super().__init__()
        if len(dims) != 2:
            raise ValueError(f"features and edges are needed; there are {len(dims)} tensors")
        self.out_dim, self.hops = dims[0], hops

    def macs(self, shape: tuple[int, ...], edges: tuple[int, ...]) -> dict[str, int]:
        """N^2 E for the adjacency, N^2 C for each hop and for the limit, N^3 for each doubling of the walks that find the parts of the graph."""
        B, N, C = shape
        return {"matmul": B * N * N * (edges[-1] + C * (self.hops + 1) + N * _doublings(N))}

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        if edges.shape[:2] != x.shape[:2]:
            raise ValueError(f"edges of {x.shape[1]} nodes are needed; they are {tuple(edges.shape)}")
        joins = edges.clamp_min(0)
        places = torch.arange(x.shape[1], device=x.device)
        own = (places == places.unsqueeze(-1)).to(x.dtype)
        loops = (joins @ joins.mT) * (1 - own) + own
        degrees = loops.sum(-1, keepdim=True)
        root = degrees.rsqrt()
        step = root * loops * root.mT
        limit = limits(loops, degrees) @ x
        near, weights = [x], []
        for _ in range(self.hops):
            near.append(step @ near[-1])
        for hop in near:
            weights.append(_cosine(x, hop) * (1 - _cosine(limit, hop)))
        shares = torch.stack(weights, -1).softmax(-1)
        return (torch.stack(near, -1) * shares.unsqueeze(2)).sum(-1)


def limits(loops: Tensor, degrees: Tensor) -> Tensor:
    """(B, N, N) rows: the shares of the degrees among the nodes that a node is connected with, 0 for all others."""
    reach = (loops != 0).to(loops.dtype)
    for _ in range(_doublings(int(loops.shape[-1]))):
        reach = ((reach @ reach) != 0).to(loops.dtype)
    weighed = reach * degrees.mT
    return weighed / weighed.sum(-1, keepdim=True)


def _doublings(count: int) -> int:
    """How often walks are doubled until they reach all of a part of the graph."""
    return max(1, (count - 1).bit_length())


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    lengths = (torch.linalg.vector_norm(each, dim=-1) + TINY for each in (x, y))
    first, second = lengths
    return (x * y).sum(-1) / first / second
