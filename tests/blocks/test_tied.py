"""Parts that stand at several places of a model with one set of weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import zoo
from blocks.context import Context
from blocks.moe.adaptation import adapt_routers
from blocks.structured.turn_lora import TurnLora
from blocks.wiring.tied import Tied

SPEC = {
    "schema": "zoo.spec/1",
    "spec": {
        "input": {"kind": "tokens", "vocab_size": 20},
        "stem": "token_embedding",
        "dims": [8],
        "depths": [3],
        "layer": {"residual": [{"block": "tied", "parts": ["rms_norm", {"block": "attention", "head_dim": 4, "causal": True, "linear": "@map"}]}]},
        "define": {"map": {"block": "turn_lora", "rank": 2, "turns": [0, 2]}},
        "head": {"block": "lm_head", "norm": "rms_norm"},
    },
}  # fmt: skip


def model_of(changes: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    return zoo.create(SPEC, changes).double().eval()


def test_weights_are_those_of_the_first_place():
    model = model_of()
    names = [name for name in model.state_dict() if name.startswith("stages")]
    assert names and all(name.startswith("stages.0.layers.0.") for name in names)
    first, *others = (module for module in model.modules() if isinstance(module, Tied))
    assert [place.turn for place in (first, *others)] == [0, 1, 2]
    assert all(place.lender == (first,) and not list(place.parameters()) for place in others)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[9], [4, 5], [1] * 9], ids=str)
def test_each_place_keeps_a_state_of_its_own(pieces):
    model, ids = model_of(), torch.arange(18).view(2, 9)
    state: dict[str, Any] = {}
    found = []
    for part in ids.split(pieces, 1):
        logits, state = model(part, state=state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), model(ids).logits, rtol=0, atol=1e-12)
    assert sorted(state) == [f"stages.0.layers.{i}.0.0.1" for i in range(3)]


@torch.no_grad()
def test_a_copy_shares_its_own_weights():
    model, ids = model_of(), torch.arange(9).view(1, 9)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.mul_(0.5)
    again = model_of()
    again.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin(ids).logits, again(ids).logits, rtol=0, atol=0)


def test_gradients_of_all_places_add_up():
    model, ids = model_of(), torch.arange(9).view(1, 9)
    model(ids).logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@torch.no_grad()
def test_a_map_has_an_update_for_its_turns_alone():
    torch.manual_seed(0)
    linear, x = TurnLora(6, 4, rank=2, turns=[1, 3]), torch.randn(2, 5, 6)
    plain = torch.nn.functional.linear(x, linear.weight, linear.bias)
    torch.testing.assert_close(linear(x), plain)
    torch.testing.assert_close(linear(x, Context(turn=3)), plain + linear.turns["3"](x))


def test_two_of_a_group_lead_to_one_width():
    layers = [
        {"residual": [{"block": "tied", "parts": ["dense"]}]},
        {
            "residual": [
                {"block": "dense", "out_dim": 6},
                {"block": "tied", "parts": [{"block": "dense", "out_dim": 8}]},
            ]
        },
    ]
    kept = {key: value for key, value in SPEC["spec"].items() if key not in ("layer", "define", "depths")}
    spec = {**SPEC, "spec": kept | {"stages": {"0": {"layers": layers}}}}
    with pytest.raises(
        zoo.SpecError,
        match="this leads from 6 to 8 channels, and the first of its group `shared` from 8 to 8; next: another `group`",
    ):
        zoo.create(spec)


def routed_of() -> Any:
    mixture = {"block": "moe", "router": {"block": "topk_router", "num_experts": 4, "k": 1, "bias": "balanced"}}
    tied = {"block": "tied", "parts": ["rms_norm", mixture]}
    kept = {key: value for key, value in SPEC["spec"].items() if key != "define"}
    torch.manual_seed(0)
    return zoo.create({**SPEC, "spec": kept | {"layer": {"residual": [tied]}}}).double().train()


def test_losses_of_a_tied_router_add_up_over_its_places():
    model, ids, ctx = routed_of(), torch.arange(18).view(2, 9), Context()
    model(ids, ctx)
    router = next(name for name, module in model.named_modules() if hasattr(module, "adapt"))
    places = [router.replace("layers.0", f"layers.{i}") for i in range(3)]
    assert sorted(ctx.losses) == sorted(ctx.reports) == places
    terms = [sum(loss.item() for loss in ctx.losses[place].values()) for place in places]
    assert len(set(terms)) == 3 and ctx.total_loss().item() == pytest.approx(sum(terms))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_load_of_a_tied_router_is_that_of_all_its_places(checkpointing):
    model, ids, ctx = routed_of(), torch.arange(18).view(2, 9), Context()
    model.set_grad_checkpointing(checkpointing)
    (model(ids, ctx).logits.square().mean() + ctx.total_loss()).backward()
    router = next(module for module in model.modules() if hasattr(module, "adapt"))
    load = torch.stack([report["load"] for report in ctx.reports.values()]).mean(0)
    adapt_routers(model, ctx)
    torch.testing.assert_close(router.balance_bias.double(), 0.001 * (0.25 - load).sign().double())
