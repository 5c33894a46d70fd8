"""Routers and mixtures of experts: choices, dispatch, losses, reports, counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from blocks.context import Context
from blocks.moe.moe import Moe
from blocks.moe.topk_router import TopkRouter
from blocks.registry import block
from blocks.registry.slots import Place, Slot


def x(dim: int = 16) -> torch.Tensor:
    return torch.randn(2, 19, dim, generator=torch.Generator().manual_seed(2))


def moe(dim: int = 16, num_experts: int = 5, k: int = 2, **params) -> Moe:
    router = {"block": "topk_router", "num_experts": num_experts, "k": k}
    return Moe(dim, router=router, **{"expert": {"block": "gated_mlp", "hidden_dim": 24}, **params})


def token_by_token(layer: Moe, tokens: torch.Tensor) -> torch.Tensor:
    """Every token through its own experts, one after the other."""
    rows = []
    for token in tokens.flatten(0, 1):
        weights, chosen, *_ = layer.router(token[None, None])
        rows.append(
            sum(w * layer.experts[e](token[None, None])[0, 0] for w, e in zip(weights[0], chosen[0], strict=True))
        )
    return torch.stack(rows).view(tokens.shape)


@pytest.mark.parametrize("num_experts, k", [(5, 2), (3, 3), (1, 1), (64, 1)])
def test_dispatch_equals_the_loop_over_tokens(num_experts, k):
    layer = moe(num_experts=num_experts, k=k)
    torch.testing.assert_close(layer(x()), token_by_token(layer, x()), rtol=1e-4, atol=1e-5)


def test_gradient_of_dispatch_equals_that_of_the_loop():
    layer = moe()
    parameters = list(layer.parameters())
    found = torch.autograd.grad(layer(x()).square().sum(), parameters, materialize_grads=True)
    expected = torch.autograd.grad(token_by_token(layer, x()).square().sum(), parameters, materialize_grads=True)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_layer_equals_mixtral(golden):
    case = golden("layer_moe_mixtral")
    layer = moe(32, 8, 2, expert={"block": "gated_mlp", "hidden_dim": 48}).to(case.dtype)
    names = {"w1": "gate", "w2": "down", "w3": "up"}
    state = {key: value for key, value in case.state.items() if key == "gate.weight"}
    renamed = {f"router.{key}": value for key, value in state.items()}
    for key, value in case.state.items():
        if key.startswith("experts."):
            *path, name, leaf = key.split(".")
            renamed[".".join([*path, names[name], leaf])] = value
    layer.load_state_dict(renamed)
    ctx = Context()
    case.check(layer.train()(case.inputs["hidden_states"], ctx))
    case.check(
        ctx.losses["router"]["balance"] / layer.router.balance_weight * 2, "aux_loss"
    )  # upstream's load sums to k


def test_shared_expert_sees_every_token():
    layer = moe(shared={"block": "mlp", "ratio": 2})
    torch.testing.assert_close(layer(x()), token_by_token(layer, x()) + layer.shared(x()), rtol=1e-4, atol=1e-5)


def test_weights_sum_to_one_only_where_renormalised():
    for renormalise in (True, False):
        router = TopkRouter(16, num_experts=5, k=2, renormalise=renormalise)
        scores = F.linear(x().flatten(0, 1), router.gate.weight).softmax(-1).sort(-1, descending=True)
        expected = scores.values[:, :2] / (scores.values[:, :2].sum(-1, keepdim=True) if renormalise else 1)
        torch.testing.assert_close(router(x()).weights, expected)
        assert torch.equal(router(x()).indices, scores.indices[:, :2])


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_load_and_importance_sum_to_one(score):
    ctx, router = Context(), TopkRouter(16, num_experts=5, score=score).eval()
    router(x(), ctx)
    for figure in ctx.reports[""].values():
        assert figure.shape == (5,)
        torch.testing.assert_close(figure.sum(), torch.tensor(1.0))


def test_load_counts_the_choices():
    ctx, router = Context(), TopkRouter(16, num_experts=5, k=2)
    indices = router(x(), ctx).indices
    torch.testing.assert_close(ctx.reports[""]["load"], indices.flatten().bincount(minlength=5) / indices.numel())


def test_balance_is_its_weight_when_all_experts_are_chosen_alike():
    ctx, router = Context(), TopkRouter(16, num_experts=4, k=4, balance_weight=0.5).train()
    nn.init.zeros_(router.gate.weight)
    router(x(), ctx)
    torch.testing.assert_close(ctx.losses[""]["balance"], torch.tensor(0.5))
    torch.testing.assert_close(ctx.losses[""]["z"], torch.tensor(0.001) * torch.tensor(4.0).log() ** 2)


def test_auxiliary_losses_reach_the_gate():
    for kept in ({"z_weight": 0.0}, {"balance_weight": 0.0}):
        ctx, router = Context(), TopkRouter(16, num_experts=5, **kept).train()
        router(x(), ctx)
        assert len(ctx.losses[""]) == 1
        assert torch.autograd.grad(ctx.total_loss(), router.gate.weight)[0].abs().sum() > 0


def test_no_loss_outside_of_training():
    ctx = Context()
    moe().eval()(x(), ctx)
    assert not ctx.losses and list(ctx.reports) == ["router"]


def test_two_layers_report_under_their_own_paths():
    ctx, layers = Context(), []
    for place in ("a", "b"):
        call = {"block": "moe", "router": {"block": "topk_router", "num_experts": 3}}
        layers.append(Slot(call, Place(place))(16))
    for layer in layers:
        layer.train()(x(), ctx)
    assert list(ctx.losses) == list(ctx.reports) == ["a.router", "b.router"]


def test_meta_counts_one_expert_for_all_routed_rows():
    flops = []
    for device in ("cpu", "meta"):
        layer = moe().to(device)
        with FlopCounterMode(display=False) as counter:
            assert layer(x().to(device)).shape == (2, 19, 16)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] == 2 * 38 * 16 * 5 + 2 * (38 * 2) * 3 * 16 * 24


def test_active_parameters_leave_out_the_experts_not_met():
    layer = moe(shared="mlp")
    expert, shared = 3 * 16 * 24, sum(parameter.numel() for parameter in layer.shared.parameters())
    assert layer.active_params() == 2 * expert + shared + 5 * 16
    assert sum(parameter.numel() for parameter in layer.parameters()) == 5 * expert + shared + 5 * 16


def test_experts_that_name_num_experts_are_built_once_and_see_sorted_rows():
    @block("local/packed_scale", kind="channel_mixer")
    class PackedScale(nn.Module):
        """y = weight_e x for the rows of expert e."""

        def __init__(self, dim: int, *, num_experts: int):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(float(num_experts)))

        def forward(self, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
            return rows * self.weight.repeat_interleave(torch.tensor(counts)).unsqueeze(-1)

    layer = moe(expert="local/packed_scale")
    weights, indices, *_ = layer.router(x())
    expected = (weights * indices).sum(-1).view(2, 19, 1) * x()
    torch.testing.assert_close(layer(x()), expected, rtol=1e-5, atol=1e-6)
    assert list(layer.state_dict()) == ["router.gate.weight", "experts.weight"]


def test_more_choices_than_experts_are_refused(refused):
    with refused("k = 4 experts cannot be chosen among 3; the nearest that can is 3"):
        TopkRouter(16, num_experts=3, k=4)


def test_an_empty_batch_stays_empty():
    assert moe()(torch.zeros(0, 19, 16)).shape == (0, 19, 16)
