"""Padding counts nowhere in a mixture: not in outputs, losses, reports, room or balancing; nor does a batch of no tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from blocks.context import Context
from blocks.moe.adaptation import adapt_routers
from blocks.moe.moe import Moe
from tests.blocks.test_routers import DIM, OVER_THE_BATCH, ROUTERS, every_router

REAL, PADDED = 9, 16
WHERE = {
    "behind": torch.arange(PADDED) < REAL,
    "before": torch.arange(PADDED) >= PADDED - REAL,
    "between": torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool),
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in ROUTERS] + [
    ("base_router", {"balance": "sinkhorn"}),
    ("priority_router", {"by": "choice", "capacity": 0.6}),
    ("switch_router", {"capacity": 0.6, "k": 2}),
    ("expert_choice_router", {"k": 1.3}),
    ("topk_router", {"score": "sigmoid", "bias": "balanced", "groups": 2, "group_k": 1}),
    ("zero_expert_router", {"zero_experts": 3, "balance_weight": 0.01}),
]

ROOMS = ("expert_choice_router", "priority_router", "smear_router", "soft_router", "switch_router")


def layer(name: str, **params: Any) -> Moe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moe = Moe(DIM, router={**ROUTERS[name], **params}, expert={"block": "gated_mlp", "hidden_dim": 24})
    return moe.double().train()


def tokens(batch: int = 2, length: int = REAL) -> Tensor:
    return torch.randn(batch, length, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def figures(ctx: Context) -> dict[str, Tensor]:
    """Losses and reports by name."""
    kinds = {"loss": ctx.losses, "report": ctx.reports}
    return {
        f"{kind} {name}": value
        for kind, by_path in kinds.items()
        for table in by_path.values()
        for name, value in table.items()
    }


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_padding_changes_nothing(name: str, params: dict[str, Any]) -> None:
    moe, x = layer(name, **params), tokens()
    plain = Context()
    y = moe(x, plain)
    for where in WHERE.values():
        padded = torch.full((2, PADDED, DIM), 5.0, dtype=torch.float64)
        padded[:, where] = x
        ctx = Context(mask=where.expand(2, -1))
        torch.testing.assert_close(moe(padded, ctx)[:, where], y, rtol=0, atol=1e-12)
        for what, expected in figures(plain).items():
            torch.testing.assert_close(
                figures(ctx)[what], expected, rtol=0, atol=1e-12, msg=lambda m, w=what: f"{w}: {m}"
            )


@pytest.mark.parametrize(("name", "params"), [one for one in VARIANTS if one[0] not in OVER_THE_BATCH])
def test_sequences_of_different_lengths_are_each_treated_as_alone(name: str, params: dict[str, Any]) -> None:
    """Room belongs to a sequence; BASE layers alone assign over the batch, in training."""
    moe, x, lengths = layer(name, **params).eval(), tokens(3, PADDED), (16, 7, 1)
    mask = torch.arange(PADDED) < torch.tensor(lengths)[:, None]
    y = moe(x, Context(mask=mask))
    for b, length in enumerate(lengths):
        torch.testing.assert_close(y[b : b + 1, :length], moe(x[b : b + 1, :length]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), VARIANTS)
@pytest.mark.parametrize("empty", ["no samples", "no positions", "padding alone"])
def test_no_tokens_lose_nothing_and_move_nothing(name: str, params: dict[str, Any], empty: str) -> None:
    moe = layer(name, **params)
    x = tokens(0 if empty == "no samples" else 2, 0 if empty == "no positions" else REAL).requires_grad_()
    ctx = Context(mask=torch.zeros(2, REAL, dtype=torch.bool)) if empty == "padding alone" else Context()
    y = moe(x, ctx)
    total = torch.as_tensor(ctx.total_loss())
    assert y.shape == x.shape
    assert total == 0
    (y[:0].sum() + total).backward()
    assert x.grad is not None and not x.grad.any()
    assert all(torch.isfinite(p.grad).all() for p in moe.parameters() if p.grad is not None)
    assert all(torch.isfinite(value).all() for value in figures(ctx).values())
    before = copy.deepcopy(dict(moe.named_buffers()))
    adapt_routers(moe, ctx)
    assert all(torch.equal(value, before[name]) for name, value in moe.named_buffers())


@every_router
def test_a_mask_of_other_tokens_is_refused(name: str) -> None:
    ctx = Context(mask=torch.ones(2, REAL + 1, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"ctx\.mask has shape \(2, 10\); the (router meets 18 tokens|tokens here are)"
    ):
        layer(name)(tokens(), ctx)


@pytest.mark.parametrize("name", ROOMS)
def test_routers_that_look_at_a_whole_sequence_refuse_packed_ones(name: str, refused: Any) -> None:
    with refused("packed sequences (ctx.cu_seqlens) are not supported here; pad them and give ctx.mask"):
        layer(name)(tokens(1), Context(cu_seqlens=torch.tensor([0, 4, REAL])))


def test_experts_that_are_mixtures_meet_no_mask() -> None:
    """Their rows are sorted by expert; the mask of the sequence says nothing of them."""
    inner = {"block": "moe", "router": ROUTERS["topk_router"], "expert": {"block": "gated_mlp", "hidden_dim": 8}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moe = Moe(DIM, router=ROUTERS["topk_router"], expert=inner).double().eval()
    x = tokens(2, PADDED)
    y = moe(x, Context(mask=WHERE["behind"].expand(2, -1)))
    torch.testing.assert_close(y[:, :REAL], moe(x[:, :REAL]), rtol=0, atol=1e-12)
