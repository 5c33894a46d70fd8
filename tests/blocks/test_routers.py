"""Every router within a mixture: awkward inputs, gradients, counts, export; and what single routers promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blocks
import zoo
from blocks.context import Context
from blocks.mlp.mlp import GatedMlp
from blocks.moe.adaptation import adapt_routers
from blocks.moe.balanced_assignment import balanced_assignment, sinkhorn
from blocks.moe.base_router import BaseRouter
from blocks.moe.bilevel_router import BilevelRouter
from blocks.moe.capacity import capacity_of
from blocks.moe.expert_choice_router import ExpertChoiceRouter
from blocks.moe.grouped_router import GroupedRouter
from blocks.moe.modality_router import ModalityRouter
from blocks.moe.moe import Moe
from blocks.moe.packed_gated_mlp import PackedGatedMlp
from blocks.moe.pre_attention_router import PreAttentionRouter, Remember
from blocks.moe.relu_router import ReluRouter
from blocks.moe.switch_router import SwitchRouter
from blocks.moe.task_router import TaskRouter
from blocks.moe.topk_router import BIAS_STEP, TopkRouter
from zoo.measure.profile import profile
from zoo.weights.convert import KeyRules

DIM, E = 16, 4
ROUTERS: dict[str, dict[str, Any]] = {
    name: {"block": name, "num_experts": E} for name in blocks.list_blocks(kind="router") if "/" not in name
}
ROUTERS["modality_router"] = {"block": "modality_router", "sizes": [2, 2]}
ROUTERS["pre_attention_router"] = {"block": "pre_attention_router", "router": ROUTERS["topk_router"]}
KEYS = {"task_router": "task", "modality_router": "modality"}
SEES_ALL = {"soft_router", "smear_router"}
"""Routers whose every output sees every token of its sequence."""
OVER_THE_BATCH = {"union_router"}
"""Routers whose scores are divided by those of the other samples, as in the authors' code."""

every_router = pytest.mark.parametrize("name", ROUTERS)
every_router_of_sequences = pytest.mark.parametrize("name", sorted({*ROUTERS} - OVER_THE_BATCH))
both_experts = pytest.mark.parametrize("expert", ["gated_mlp", "packed_gated_mlp"])


def moe(name: str, expert: str = "gated_mlp", **params: Any) -> Moe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Moe(DIM, router={**ROUTERS[name], **params}, expert={"block": expert, "hidden_dim": 24}).eval()


def x(B: int = 3, L: int = 19, seed: int = 2) -> Tensor:
    return torch.randn(B, L, DIM, generator=torch.Generator().manual_seed(seed))


def twins(name: str) -> tuple[Moe, Moe]:
    """Repeated and packed experts with the same values."""
    repeated, packed = moe(name).train(), moe(name, "packed_gated_mlp").train()
    packed.router.load_state_dict(repeated.router.state_dict())
    with torch.no_grad():
        for part in ("gate", "up", "down"):
            stacked = torch.stack([getattr(expert, part).weight for expert in repeated.experts])  # type: ignore[union-attr, arg-type]
            getattr(packed.experts, part).copy_(stacked)
    return repeated, packed


@every_router
def test_packed_experts_equal_repeated_ones(name: str) -> None:
    repeated, packed = twins(name)
    ways = []
    for layer in (repeated, packed):
        y = layer(x())
        y.square().sum().backward()
        ways.append([y, *(parameter.grad for parameter in layer.router.parameters())])
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-4, atol=1e-5)
    for part in ("gate", "up", "down"):
        unmet = torch.zeros_like(getattr(packed.experts, part)[0])
        weights: list[Tensor] = [getattr(expert, part).weight for expert in repeated.experts]  # type: ignore[union-attr]
        grads = torch.stack([unmet if weight.grad is None else weight.grad for weight in weights])
        torch.testing.assert_close(getattr(packed.experts, part).grad, grads, rtol=1e-4, atol=1e-5)


def test_packed_experts_alone_are_one_wide_mlp() -> None:
    experts, wide = PackedGatedMlp(DIM, num_experts=3, hidden_dim=8), GatedMlp(DIM, hidden_dim=24)
    state = {f"{part}.weight": getattr(experts, part).flatten(0, 1) for part in ("gate", "up")}
    wide.load_state_dict({**state, "down.weight": experts.down.transpose(0, 1).flatten(1)})
    torch.testing.assert_close(experts(x()), wide(x()))


def test_packed_experts_equal_repeated_ones_in_autocast() -> None:
    repeated, packed = twins("topk_router")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(packed(x()), repeated(x()))


@every_router
@both_experts
def test_with_and_without_gradient_give_the_same(name: str, expert: str) -> None:
    layer, held = moe(name, expert), x()
    expected = layer(held)
    with torch.no_grad():
        torch.testing.assert_close(layer(held), expected, rtol=0, atol=1e-6)
    assert torch.equal(held, x())


@every_router
def test_gradient_reaches_every_parameter(name: str) -> None:
    layer, ctx = moe(name).train(), Context()
    if name in KEYS:
        ctx.write(KEYS[name], "", torch.arange(19).expand(3, -1) % 2)
    if name == "task_router":
        layer = moe(name, num_tasks=2, k=E).train()
    if name == "given_router":
        layer = moe(name, reads="scores").train()
        ctx.write("scores", "", torch.randn(3, 19, E, generator=torch.Generator().manual_seed(1)))
    (layer(x(), ctx).square().sum() + ctx.total_loss()).backward()
    unmet = [name for name, p in layer.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert unmet == []


@every_router
@pytest.mark.parametrize("shape", [(0, 19), (1, 1), (5, 1), (1, 2)])
def test_routers_take_few_tokens_or_none(name: str, shape: tuple[int, int]) -> None:
    for layer in (moe(name), moe(name).train()):
        y = layer(x(*shape), Context())
        assert y.shape == (*shape, DIM) and y.isfinite().all()


@every_router
def test_ties_do_not_lose_tokens(name: str) -> None:
    layer = moe(name)
    y = layer(torch.ones(2, 8, DIM))
    assert y.isfinite().all()
    torch.testing.assert_close(layer(torch.ones(2, 8, DIM)), y, rtol=0, atol=0)


@every_router_of_sequences
def test_a_nan_stays_within_its_token_or_its_sequence(name: str) -> None:
    spoilt = x()
    spoilt[1, 3] = torch.nan
    for layer in (moe(name), moe(name).train()):
        found = layer(spoilt, Context()).isnan().any(-1)
        expected = torch.zeros(3, 19, dtype=torch.bool)
        expected[1, slice(None) if name in SEES_ALL else 3] = True
        assert torch.equal(found, expected)


@every_router_of_sequences
def test_a_sequence_does_not_depend_on_its_neighbours(name: str) -> None:
    layer = moe(name)
    torch.testing.assert_close(layer(x())[1:2], layer(x()[1:2]), rtol=1e-5, atol=1e-6)


@every_router
@both_experts
def test_the_exported_mixture_equals_the_routed_one(name: str, expert: str) -> None:
    layer = moe(name, expert)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(layer, (x(2),), dynamic_shapes=({0: batch},)).module()
        for size in (1, 3):
            torch.testing.assert_close(program(x(size)), layer(x(size)), rtol=1e-4, atol=1e-5)


@every_router
def test_bfloat16_stays_bfloat16(name: str) -> None:
    layer, ctx = moe(name).to(torch.bfloat16).train(), Context()
    y = layer(x().bfloat16(), ctx)
    (y.float().sum() + ctx.total_loss()).backward()
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


@every_router
def test_the_report_sums_to_one_without_a_gradient(name: str) -> None:
    layer, ctx = moe(name), Context()
    layer(x(), ctx)
    (report,) = ctx.reports.values()
    for figure in ("load", "importance"):
        torch.testing.assert_close(report[figure].sum(), torch.tensor(1.0))
    assert not any(figure.requires_grad for figure in report.values())


@every_router
@both_experts
def test_formulas_and_operations_count_the_same_macs(name: str, expert: str) -> None:
    found = profile(moe(name, expert), (3, 19, DIM))
    assert found.complete
    assert found.analytic["matmul"] == found.by_class["matmul"]


@pytest.mark.parametrize(
    "name, k", [("topk_router", 2.0), ("switch_router", 1.0), ("relu_router", 2.0), ("expert_choice_router", 2.0)]
)
def test_expected_work_is_that_of_k_experts(name: str, k: float) -> None:
    expert = 3 * DIM * 24
    rows = (profile(moe(name), (1, 20, DIM)).macs - 20 * DIM * E) / expert / 20
    assert rows == k
    assert moe(name).active_params() == k * expert + E * DIM


def test_zero_experts_cost_nothing_and_keep_the_token() -> None:
    layer = moe("zero_expert_router", zero_experts=4, k=1, scale=3.0)
    with torch.no_grad():
        layer.router.gate.weight.zero_()  # type: ignore[union-attr, operator]
        layer.router.balance_bias[E:] = 1  # type: ignore[index]
    torch.testing.assert_close(layer(x()), x() * 3 / 8)
    assert profile(layer, (1, 20, DIM)).macs == 20 * DIM * 8 + 10 * 3 * DIM * 24


def test_a_full_expert_drops_and_counts_the_last_comers() -> None:
    router, ctx = SwitchRouter(DIM, num_experts=2, capacity=0.5), Context()
    nn.init.zeros_(router.gate.weight)
    routing = router(x(2, 8), ctx)
    assert routing.indices.view(2, 8).tolist() == [[0, 0, -1, -1, -1, -1, -1, -1]] * 2
    assert ctx.reports[""]["dropped"] == 12
    assert ctx.reports[""]["load"].tolist() == [1, 0]


def test_dropped_tokens_give_zero() -> None:
    layer = moe("switch_router", capacity=0.3)
    routing = layer.router(x())
    dropped = (routing.indices < 0).view(3, 19)
    assert dropped.any() and not dropped.all()
    y = layer(x())
    assert not y[dropped].any() and y[~dropped].any(-1).all()


def test_padding_takes_no_room() -> None:
    real, ctx = x(2, 8), Context(mask=torch.arange(12).expand(2, -1) >= 4)
    padded = torch.cat([torch.zeros(2, 4, DIM), real], 1)
    for name in ("switch_router", "expert_choice_router", "smear_router", "soft_router"):
        params = {"capacity": 100.0} if name == "switch_router" else {"k": E} if name == "expert_choice_router" else {}
        layer = moe(name, **params)
        torch.testing.assert_close(layer(padded, ctx)[:, 4:], layer(real), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "length, k, experts, factor, room", [(24, 2, 6, 0.75, 6), (1, 1, 64, 1.25, 1), (7, 2, 4, 1.0, 4), (8, 2, 4, 9.0, 8)]
)
def test_capacity_is_rounded_up_within_one_and_the_length(
    length: int, k: int, experts: int, factor: float, room: int
) -> None:
    assert capacity_of(length, k, experts, factor) == room


def test_expert_choice_gives_every_expert_the_same_and_counts_who_is_missed() -> None:
    router, ctx = ExpertChoiceRouter(DIM, num_experts=E, k=1.0), Context()
    routing = router(x(), ctx)
    assert routing.indices.shape == (3, E, 5)
    assert ctx.reports[""]["load"].tolist() == [0.25] * E
    assert ctx.reports[""]["missed"] == 3 * 19 - len(routing.tokens.unique())


@pytest.mark.parametrize("T", [1, 5, 24, 63])
def test_assignment_is_balanced_and_near_the_optimum(T: int) -> None:
    scores = torch.randn(T, 6, generator=torch.Generator().manual_seed(T))
    experts = balanced_assignment(scores, precision=1e-3)
    assert torch.bincount(experts, minlength=6).max() <= -(-T // 6)
    found, best = (scores.gather(1, e.unsqueeze(-1)).sum() for e in (experts, scores.argmax(-1)))
    assert found <= best and found > 0.7 * best


@pytest.mark.parametrize("scores", [torch.zeros(24, 6), torch.full((24, 6), torch.nan), torch.zeros(24, 1)])
def test_assignment_of_tokens_without_a_preference_is_balanced(scores: Tensor) -> None:
    load = torch.bincount(balanced_assignment(scores), minlength=scores.shape[1])
    assert load.tolist() == [24 // scores.shape[1]] * scores.shape[1]


def test_sinkhorn_bears_large_scores() -> None:
    found = sinkhorn(1000 * torch.randn(24, 6, generator=torch.Generator().manual_seed(0)))
    assert found.isfinite().all()


@pytest.mark.parametrize("balance", ["auction", "sinkhorn"])
def test_base_balances_in_training_and_chooses_the_best_otherwise(balance: str) -> None:
    router = BaseRouter(DIM, num_experts=E, balance=balance)
    with torch.no_grad():
        router.gate.weight[0] *= 20  # one expert that half of the tokens want
    train, test = router.train()(x(4, 16)).indices, router.eval()(x(4, 16)).indices
    assert torch.bincount(train.flatten(), minlength=E).max() <= (16 if balance == "auction" else 24)
    assert torch.equal(test[:, 0], router.logits(x(4, 16)).argmax(-1))


def test_balancing_bias_evens_out_the_load() -> None:
    router = TopkRouter(DIM, num_experts=E, k=1, bias="balanced", balance_weight=0.0).train()
    with torch.no_grad():
        router.gate.weight[0] += 1.0
        router.balance_bias[1] = 0.4
    ctx, bias = Context(), router.balance_bias.clone()
    spread = router(x(), ctx).indices.flatten().bincount(minlength=E).float()
    adapt_routers(router, ctx)
    torch.testing.assert_close(router.balance_bias - bias, BIAS_STEP * (spread.mean() - spread).sign())
    for _ in range(600):
        adapt_routers(router, _passed(router))
    later = router(x()).indices.flatten().bincount(minlength=E).float()
    assert later.std() < 0.5 * spread.std()


def _passed(router: nn.Module) -> Context:
    ctx = Context()
    router(x(), ctx)
    return ctx


def test_balancing_bias_leaves_the_weights_alone() -> None:
    router = TopkRouter(DIM, num_experts=E, k=E, bias="balanced", score="sigmoid", renormalise=False)
    before = router(x()).weights.sort(-1).values
    router.balance_bias[2] += 5
    torch.testing.assert_close(router(x()).weights.sort(-1).values, before)


def test_only_experts_of_the_best_groups_are_chosen() -> None:
    router = TopkRouter(DIM, num_experts=8, k=4, groups=4, group_k=2)
    assert all(len({index // 2 for index in row}) == 2 for row in router(x()).indices.tolist())


def test_relu_routing_is_driven_to_k_experts() -> None:
    router, ctx = ReluRouter(DIM, num_experts=E, k=1).train(), Context()
    router(x(), ctx)
    sparse = ctx.reports[""]["sparsity"] > 1 - 1 / E
    before = router.l1_weight.clone()
    adapt_routers(router, ctx)
    torch.testing.assert_close(router.l1_weight / before, torch.tensor(1 / 1.2 if sparse else 1.2))


def test_groups_of_experts_carry_the_same_load() -> None:
    indices = GroupedRouter(DIM, num_experts=8, groups=4, k=4)(x()).indices
    assert torch.equal(indices // 2, torch.arange(4).expand_as(indices))


def test_two_levels_choose_the_group_and_then_the_expert() -> None:
    router, ctx = BilevelRouter(DIM, num_experts=6, groups=3, k=2).train(), Context()
    routing = router(x(), ctx)
    group = (x().flatten(0, 1) @ router.group_gate.weight.T).argmax(-1)
    assert torch.equal(routing.indices // 2, group.unsqueeze(-1).expand(-1, 2))
    p = (x().flatten(0, 1) @ router.group_gate.weight.T).softmax(-1).amax(-1)
    torch.testing.assert_close(routing.weights.sum(-1), p)  # the scores within a group of two sum to 1
    assert set(ctx.losses[""]) == {"groups", "balance"}


def test_even_levels_have_the_weights_of_their_losses() -> None:
    router, ctx = BilevelRouter(DIM, num_experts=6, groups=3, k=2).train(), Context()
    router(torch.zeros(1, 19, DIM), ctx)  # ties: the first group takes all
    torch.testing.assert_close(ctx.losses[""]["groups"], torch.tensor(0.005))
    torch.testing.assert_close(ctx.losses[""]["balance"], torch.tensor(0.005))


def test_modality_decides_which_experts_may_be_chosen() -> None:
    router = ModalityRouter(DIM, sizes=[1, 3], k=1)
    ids = torch.arange(19).expand(3, -1) % 2
    indices = router(x(), Context(slots={"modality": {"": ids}})).indices.view(3, 19)
    assert (indices[ids == 0] == 0).all() and (indices[ids == 1] > 0).all()


def test_all_tokens_of_a_task_go_the_same_way() -> None:
    router = TaskRouter(DIM, num_experts=E, num_tasks=3, k=1)
    indices = router(x(), Context(slots={"task": {"": torch.tensor([2, 0, 2])}})).indices.view(3, 19)
    assert torch.equal(indices, router.scores.argmax(-1)[torch.tensor([2, 0, 2])].unsqueeze(-1).expand(3, 19))


def test_keys_of_another_shape_are_refused(refused: Any) -> None:
    message = "`task` in ctx has shape (2,); it should number the examples, (3,), or the tokens, (3, 19), from 0 to 0"
    with refused(message):
        TaskRouter(DIM, num_experts=E)(x(), Context(slots={"task": {"": torch.zeros(2)}}))


def test_a_router_before_attention_sees_what_was_remembered_in_its_layer() -> None:
    router = PreAttentionRouter(DIM, router=ROUTERS["topk_router"], reads="input")
    router.path, ctx = "stages.0.layers.1.1.moe.router", Context()
    for layer in (1, 10, 0):
        part = Remember(DIM, writes="input")
        part.path = f"stages.0.layers.{layer}.0.0"
        assert part(x(seed=layer), ctx) is not None
    torch.testing.assert_close(router(x(), ctx), router.router(x(seed=1)))


def test_a_slot_that_nobody_wrote_is_refused(refused: Any) -> None:
    router = PreAttentionRouter(DIM, router=ROUTERS["topk_router"], reads="input")
    with refused(
        "nothing was written to the slot `input` before this router; put a `remember` with "
        'writes = "input" before the attention, and pass a ctx'
    ):
        router(x())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TopkRouter(DIM, num_experts=6, groups=4), "groups = 4 do not divide 6 experts; the nearest that do are 3"),
        (
            lambda: TopkRouter(DIM, num_experts=8, k=3, groups=4, group_k=1),
            "k = 3 experts cannot be chosen among 1 of 4 groups of 2",
        ),
        (
            lambda: GroupedRouter(DIM, num_experts=8, groups=4, k=6),
            "k = 6 experts cannot be spread evenly over 4 groups; the nearest that can is 4",
        ),
        (
            lambda: BilevelRouter(DIM, num_experts=6, groups=3, k=3),
            "k = 3 experts cannot be chosen in a group of 2; the nearest that can is 2",
        ),
        (
            lambda: ModalityRouter(DIM, sizes=[1, 3], k=2),
            "k = 2 experts cannot be chosen where a modality has 1; the nearest that can is 1",
        ),
        (
            lambda: Moe(DIM, router=ROUTERS["topk_router"], expert={"block": "packed_gated_mlp", "num_experts": 5}),
            "the experts are to be 5, and the router chooses among 4: state it there alone",
        ),
        (
            lambda: Moe(DIM, router=ROUTERS["topk_router"], shared_gate=True),
            "shared_gate weighs the shared expert, and there is none: state `shared` too",
        ),
    ],
)  # fmt: skip
def test_impossible_routers_are_refused(make: Any, message: str, refused: Any) -> None:
    with refused(message):
        make()


PER_EXPERT = [
    [f"experts.{{e}}.{theirs}.weight", f"experts.{ours}"]
    for theirs, ours in (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))
]
STACKED = [
    {"from": "experts.gate_up_proj", "split": {"dim": 1, "to": ["experts.gate", "experts.up"]}},
    ["experts.down_proj", "experts.down"],
]


@pytest.mark.parametrize("layout", ["per expert", "stacked"])
def test_key_rules_lead_from_public_layouts_to_packed_experts_and_back(layout: str) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"experts.gate": (E, 24, DIM), "experts.up": (E, 24, DIM), "experts.down": (E, DIM, 24)}
    if layout == "stacked":  # transformers 5, in memory
        rules: list[Any] = STACKED
        source = {"experts.gate_up_proj": (E, 48, DIM), "experts.down_proj": (E, DIM, 24)}
    else:  # published checkpoints
        rules = [{"from": one, "to": other, "stack": {"dim": 0, "index": "e"}} for one, other in PER_EXPERT]
        source = {one.format(e=e): shapes[other][1:] for one, other in PER_EXPERT for e in range(E)}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in source.items()}
    key_rules = KeyRules.from_data(rules, "here")
    packed = key_rules.to_zoo(tensors, {name: (shape, None) for name, shape in shapes.items()}, "moe")
    moe("topk_router", "packed_gated_mlp").load_state_dict(packed, strict=False)
    back = key_rules.to_source(packed)
    assert sorted(back) == sorted(tensors) and all(torch.equal(back[name], tensors[name]) for name in back)


@pytest.mark.parametrize(
    "name", ["soft_router", "expert_choice_router", "smear_router", "switch_router", "relu_router"]
)
def test_a_published_model_takes_another_router(name: str) -> None:
    expert = {"block": "packed_gated_mlp", "ratio": 1}
    model: Any = zoo.create("moe_vit_nano", {"define.moe.router": ROUTERS[name], "define.moe.expert": expert})
    ctx = Context()
    y = model.train()(torch.randn(2, 1, 32, 32), ctx)
    (y.square().sum() + ctx.total_loss()).backward()
    assert y.shape == (2, 10) and len(ctx.reports) == 3
    assert all(path.endswith("router") for path in ctx.reports)
