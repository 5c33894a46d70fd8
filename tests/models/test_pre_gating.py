"""Read-ME: experts that are cut from a dense model, and one router ahead of all layers, against its authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blocks.context import Context
from blocks.mlp.mlp import GatedMlp
from blocks.moe.pre_gating import GivenRouter, cut_experts
from tests.models.reference import Reference

CHANGES = {
    "input.vocab_size": 48, "dims": [24], "depths": [2], "stem": {"num_experts": 4, "gate_dim": 16},
    "define.router_mlp.hidden_dim": 16, "define.router_attention": {"num_heads": 2, "key_scale": 8**0.5},
    "define.attention.num_heads": 4, "define.moe": {"router.num_experts": 4, "expert.hidden_dim": 20},
}  # fmt: skip


def cut(reference: Reference) -> dict[str, torch.Tensor]:
    """The checkpoint of the dense model with its MLPs cut into experts, under the authors' names."""
    weights = dict(reference.weights)
    for layer, masks in enumerate(reference.data["in.masks"]):
        dense = GatedMlp(24, hidden_dim=40)
        for part in ("gate", "up", "down"):
            getattr(dense, part).weight.data = weights.pop(f"model.layers.{layer}.mlp.{part}_proj.weight")
        for e, expert in enumerate(cut_experts(dense, masks)):
            for name, tensor in expert.items():
                weights[f"model.layers.{layer}.moe.{name.split('.')[0]}_proj_{e}.weight"] = tensor
    return weights


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[17], [5, 1, 11], [1] * 17], ids=str)
def test_experts_of_a_dense_model_give_the_logits_of_its_authors(pieces: list[int]) -> None:
    case = Reference("model_readme", "read_me_nano", CHANGES, weigh=cut)
    state: dict[str, Any] = {}
    parts, scores = [], []
    for ids in case.data["in.input_ids"].split(pieces, 1):
        ctx = Context(state=state)
        parts.append(case.model(ids, ctx).logits)
        scores.append(ctx.read("experts")["stem"])
    case.check(torch.cat(parts, 1), "logits")
    case.check(torch.cat(scores, 1), "router_logits")
    assert torch.equal(torch.cat(scores, 1).argmax(-1), case.data["experts"])
    case.leads_back()


def test_masks_that_cut_no_experts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"all experts equally wide$"):
        cut_experts(
            GatedMlp(8, hidden_dim=6), torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]])
        )


def test_a_given_router_wants_the_scores_of_its_tokens() -> None:
    router, x = GivenRouter(8, num_experts=4, reads="experts"), torch.randn(2, 3, 8)
    with pytest.raises(ValueError, match=r"found nothing: put a pre_gating_embedding into the stem$"):
        router(x, Context())
    with pytest.raises(ValueError, match=r"found \(2, 3, 5\)$"):
        router(x, Context(slots={"experts": {"stem": torch.zeros(2, 3, 5)}}))
