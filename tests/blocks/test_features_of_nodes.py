"""Positions that are no places: nodes of a graph, and features of an item; each block against its equations, one position at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blocks.attention.heterogeneous_attention import HeterogeneousAttention, HeterogeneousMlp
from blocks.conv.adaptive_propagation import AdaptivePropagation


def naive_propagation(x: Tensor, adjacency: Tensor, hops: int) -> Tensor:
    """Upstream's steps for one graph, node by node, its parts found by walking."""
    count = len(x)
    loops = adjacency + torch.eye(count, dtype=x.dtype)
    degrees = loops.sum(1)
    step = loops / (degrees[:, None] * degrees).sqrt()
    near = [x]
    for _ in range(hops):
        near.append(step @ near[-1])
    rows = []
    for i in range(count):
        part, waiting = {i}, [i]
        while waiting:
            node = waiting.pop()
            found = {j for j in range(count) if loops[node, j] != 0} - part
            part, waiting = part | found, waiting + sorted(found)
        limit = sum(degrees[j] * x[j] for j in part) / sum(degrees[j] for j in part)
        cosine = torch.nn.functional.cosine_similarity
        scores = [cosine(x[i], hop[i], 0) * (1 - cosine(limit, hop[i], 0)) for hop in near]
        shares = torch.stack(scores).softmax(0)
        rows.append(sum(share * hop[i] for share, hop in zip(shares, near, strict=True)))
    return torch.stack(rows)


@torch.no_grad()
def test_nodes_take_the_hops_that_suit_them():
    torch.manual_seed(0)
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    ends = torch.randint(0, 9, (3, 5, 2))
    edges = torch.zeros(3, 9, 5, dtype=torch.float64).scatter(1, ends.mT, 1)
    adjacency = torch.zeros(3, 9, 9, dtype=torch.float64)
    for matrix, pairs in zip(adjacency, ends.tolist(), strict=True):
        for first, second in (pair for pair in pairs if pair[0] != pair[1]):
            matrix[first, second] += 1
            matrix[second, first] += 1
    merge = AdaptivePropagation((5, 5), hops=6)
    expected = torch.stack([naive_propagation(x[b], adjacency[b], 6) for b in range(3)])
    torch.testing.assert_close(merge(x, edges), expected, rtol=0, atol=1e-9)


def test_edges_of_other_nodes_are_refused(refused):
    merge = AdaptivePropagation((5, 9))
    with refused("edges of 9 nodes are needed; they are (3, 8, 7)"):
        merge(torch.zeros(3, 9, 5), torch.zeros(3, 8, 7))


def naive_attention(mixer: HeterogeneousAttention, x: Tensor) -> Tensor:
    """One sample (N, C): queries by feature, keys and values by feature or of all features together."""
    count, width = len(x), mixer.num_heads * mixer.head_dim
    q = [x[i] @ mixer.q.weight[i] + mixer.q.bias[i] for i in range(count)]
    if mixer.composite:
        k, v = (part(x.flatten()).view(count, width) for part in (mixer.k, mixer.v))
    else:
        k, v = (
            torch.stack([x[i] @ part.weight[i] + part.bias[i] for i in range(count)]) for part in (mixer.k, mixer.v)
        )
    rows = []
    for i in range(count):
        heads = []
        for h in range(mixer.num_heads):
            at = slice(h * mixer.head_dim, (h + 1) * mixer.head_dim)
            weights = (k[:, at] @ q[i][at] / math.sqrt(mixer.head_dim)).softmax(0)
            heads.append(weights @ v[:, at])
        rows.append(torch.cat(heads) @ mixer.proj.weight[i] + mixer.proj.bias[i])
    return torch.stack(rows)


@pytest.mark.parametrize(("composite", "rank"), [(False, None), (True, None), (True, 3)])
@torch.no_grad()
def test_each_feature_has_maps_of_its_own(composite, rank):
    torch.manual_seed(0)
    mixer = HeterogeneousAttention(8, num_heads=2, composite=composite, rank=rank, input_size=(5,)).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), torch.stack([naive_attention(mixer, sample) for sample in x]))
    mlp = HeterogeneousMlp(8, ratio=2, input_size=(5,)).double()
    swapped = x[:, [1, 0, 2, 3, 4]]
    assert not mlp(swapped)[:, [1, 0, 2, 3, 4]].allclose(mlp(x))
    alone = [
        torch.nn.functional.gelu(x[:, i] @ mlp.fc1.weight[i] + mlp.fc1.bias[i]) @ mlp.fc2.weight[i] + mlp.fc2.bias[i]
        for i in range(5)
    ]
    torch.testing.assert_close(mlp(x), torch.stack(alone, 1))
