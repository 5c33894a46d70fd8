"""Language models against logits, states and greedy tokens of transformers, in every way of reading a sequence."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import zoo
from blocks.context import Context
from tests.models.parity import GOLDEN, KEYED
from zoo.catalog.listing import list_models

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "model_mamba": ("mamba_nano", {"dims": [32], "depths": [2], "**.<mamba>.state_dim": 8}),
    "model_mamba2": (
        "mamba2_nano",
        {"dims": [32], "depths": [2], "**.<mamba2>": {"state_dim": 8, "head_dim": 8, "groups": 2}},
    ),
    "model_llama": (
        "llama_nano",
        {"dims": [32], "depths": [2], "define.mlp.hidden_dim": 88, "define.norm.eps": 1e-6, "head.tie": "none"},
    ),
    "model_mixtral": ("mixtral_nano", {"dims": [32], "depths": [2], "define.attention.rope.theta": 1e6, "define.moe.expert.hidden_dim": 48}),
    "model_olmoe": (
        "olmoe_nano",
        {"dims": [32], "depths": [2], "define.moe.expert.hidden_dim": 16, "define.attention.num_kv_heads": 2},
    ),
    "model_deepseek_v2": (
        "deepseek_nano",
        {
            "dims": [32], "define.dense.hidden_dim": 48, "define.moe.expert.hidden_dim": 16,
            "define.moe.shared.hidden_dim": 32, "define.attention.v_dim": 12,
        },
    ),
    "model_jamba": ("jamba_nano", {"dims": [32], "define.mlp.hidden_dim": 48, "define.mamba.dt_rank": 4}),
    "model_falcon_h1": (
        "falcon_h1_nano",
        {
            "dims": [32], "depths": [2], "stem.scale": 1.5, "head.scale": 0.8,
            "define.attention.head_dim": 8, "define.attention.key_scale": 0.8,
            "define.attention_in.factor": 0.9, "define.attention_out.factor": 1.1, "define.ssm_in.factor": 1.2, "define.ssm_out.factor": 0.9,
            "define.mamba2.head_dim": 8, "define.mamba2.state_dim": 8, "define.mamba2.normed": True,
            "define.mamba2.gate_last": True, "define.mamba2.multipliers": [0.7, 0.8, 0.9, 1.1, 1.2],
            "define.mlp.hidden_dim": 48, "define.mlp.gate_scale": 0.8, "define.mlp_out.factor": 1.1,
        },
    ),
    "model_deepseek_v3": (
        "deepseek_v3_nano",
        {
            "dims": [32], "define.dense.hidden_dim": 56, "define.moe.expert.hidden_dim": 12, "define.moe.shared.hidden_dim": 24,
            "define.attention": {"q_rank": 16, "kv_rank": 12, "nope_dim": 8, "rope_dim": 4, "v_dim": 8},
        },
    ),
    "model_plm": (
        "plm_nano",
        {"dims": [32], "depths": [2], "define.mlp.hidden_dim": 80, "define.attention": {"kv_rank": 12, "v_dim": 12}},
    ),
    "model_qwen3": (
        "qwen3_nano",
        {"dims": [32], "depths": [2], "define.mlp.hidden_dim": 48, "define.attention.head_dim": 12, "head.tie": "none"},
    ),
    "model_qwen3_moe": (
        "qwen3_moe_nano",
        {
            "dims": [32], "depths": [2], "define.attention.head_dim": 12, "define.moe.router.num_experts": 6,
            "define.moe.expert.hidden_dim": 16,
        },
    ),
    "model_qwen3_next": (
        "qwen3_next_nano",
        {
            "dims": [32], "define.mixer.cycle": ["@delta", "@delta", "@attention", "@delta"], "define.delta.head_dim": 8,
            "define.attention.rope.theta": 10000.0, "define.moe.expert.hidden_dim": 16, "define.moe.shared.hidden_dim": 24,
        },
    ),
    "model_gemma": (
        "gemma_nano",
        {
            "dims": [32], "depths": [2], "stem.scale": 32**0.5, "define.mlp.hidden_dim": 48, "define.attention.head_dim": 12,
        },
    ),
    "model_gemma2": (
        "gemma2_nano",
        {
            "dims": [32], "stem.scale": 32**0.5, "define.mlp.hidden_dim": 48, "define.attention.cycle.0.window": 6, "head.softcap": 2.0,
            "define.full": {"head_dim": 12, "softcap": 3.0, "key_scale": (12 / 9) ** 0.5},
        },
    ),
    "model_gemma3": (
        "gemma3_nano",
        {
            "dims": [32], "depths": [7], "stem.scale": 32**0.5, "define.mlp.hidden_dim": 40, "define.local.window": 5,
            "define.full.head_dim": 8,
        },
    ),
    "model_olmo2": ("olmo2_nano", {"dims": [32], "depths": [2], "define.mlp.hidden_dim": 48}),
    "model_smollm3": ("smollm3_nano", {"dims": [32], "depths": [5], "define.mlp.hidden_dim": 48, "define.turned.rope.theta": 2e6}),
    "model_granite_hybrid": (
        "granite_hybrid_nano",
        {
            "dims": [32], "stem.scale": 3.0, "head.scale": 0.4, "define.branch.factor": 0.4, "define.mlp.hidden_dim": 40,
            "define.mamba2": {"head_dim": 8, "state_dim": 8}, "define.attention.key_scale": 0.2 * 8**0.5,
        },
    ),
    "model_granite_hybrid_moe": (
        "granite_hybrid_moe_nano",
        {
            "dims": [32], "depths": [3], "stem.scale": 3.0, "head.scale": 0.4, "define.branch.factor": 0.4,
            "define.mamba2": {"head_dim": 8, "state_dim": 8}, "define.attention.key_scale": 0.2 * 8**0.5,
            "define.moe": {"router.num_experts": 5, "expert.hidden_dim": 16, "shared.hidden_dim": 24},
        },
    ),
    "model_recurrent_gemma": (
        "recurrent_gemma_nano",
        {
            "dims": [32], "depths": [4], "stem.scale": 5.65625, "head.softcap": 2.0, "define.mlp.hidden_dim": 48,
            "define.attention": {"head_dim": 8, "window": 6, "rope_dim": 4},
        },
    ),
    "model_bamba": (
        "bamba_nano",
        {
            "dims": [32], "**.<gated_mlp>.hidden_dim": 48, "define.mamba2": {"head_dim": 8, "state_dim": 8},
            "define.attention.rope_dim": 4,
        },
    ),
    "model_lfm2": ("lfm2_nano", {"dims": [32], "define.mlp.hidden_dim": 48, "define.attention.rope.theta": 1e6}),
    "model_rwkv4": ("rwkv4_nano", {"dims": [32], "**.<rwkv4_channel_mix>.hidden_dim": 80}),
    "model_zamba2": (
        "zamba2_nano",
        {
            "dims": [32], "define.up.out_dim": 96, "define.down.out_dim": 32, "define.mamba2": {"head_dim": 8, "state_dim": 8},
        },
    ),
    "model_zamba2_two": (
        "zamba2_2_7b",
        {
            "dims": [32], "depths": [6], "define.layer.runs": [["@mamba", 1], ["@hybrid", 1], ["@other", 1], ["@mamba", 1], ["@hybrid", 1], ["@other", 1]],
            "define.up": {"out_dim": 96, "rank": 4, "turns": [0, 2]}, "define.up_other.turns": [1, 3], "define.down.out_dim": 32,
            "define.attention.num_heads": 4, "define.mamba2": {"head_dim": 8, "state_dim": 8, "groups": 2},
        },
    ),
    "model_tokenformer": (
        "tokenformer_nano",
        {
            "dims": [32], "depths": [2], "layer.1.residual.1.tokens": 96,
            "define.attention": {"linear.tokens": 48, "out_linear": {"block": "pattention", "tokens": 40}, "rope_dim": 2},
        },
    ),
    "model_ladder_llama": ("ladder_nano", {"dims": [32], "define.mlp.hidden_dim": 72, "head.tie": "none"}),
}  # fmt: skip
"""Golden -> the family's variant nearest to it, and what the golden's configuration says otherwise."""


class Case:
    """One golden, and our model with its weights in float64, where meaning is judged."""

    def __init__(self, stem: str):
        self.about = json.loads((GOLDEN / "sequence" / f"{stem}.json").read_text())
        self.data = load_file(GOLDEN / "sequence" / f"{stem}.safetensors")
        self.weights = KEYED["keyed_state_dict"](self.about)
        self.weights |= {key[6:]: value for key, value in self.data.items() if key.startswith("param.")}
        self.weights = {
            re.sub(r"^5\.norm", "15.norm", key): value for key, value in self.weights.items()
        }  # of two layers
        name, changes = CASES[stem]
        changes = {"input.vocab_size": self.about["config"]["vocab_size"], **changes}
        self.source = "official" if stem == "model_tokenformer" else "transformers"
        self.net: Any = zoo.create(name, changes, weights=self.weights, source=self.source)
        self.model: Any = zoo.create(name, changes, weights=self.weights, source=self.source).double()
        self.ids, self.logits = self.data["in.input_ids"], self.data["logits.f64"]

        self.atol = max(self.about["tolerance"]["logits"]["fp64_atol"], 1e-9)

    def agrees(self, found: Tensor) -> None:
        torch.testing.assert_close(found, self.logits, rtol=0, atol=self.atol)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def in_pieces(first: list[int], *others: list[int]) -> list[Any]:
    """Lengths of pieces as parameters: the first, which has long ones and single tokens, always; blocks are held to all (`test_states`)."""
    return [first, *(pytest.param(pieces, marks=pytest.mark.slow) for pieces in others)]


@torch.no_grad()
def test_logits_are_those_of_transformers(case: Case) -> None:
    case.agrees(case.model(case.ids).logits)
    single = max(1e-4, case.about["tolerance"]["logits"]["fp32_atol"])
    torch.testing.assert_close(case.net(case.ids).logits, case.data["logits"], rtol=0, atol=single)


@torch.no_grad()
@pytest.mark.parametrize("pieces", in_pieces([7, 1, 1, 15], [24], [1] * 24, [5, 19], [23, 1]), ids=str)
def test_a_sequence_in_pieces_gives_the_same(case: Case, pieces: list[int]) -> None:
    state: dict[str, Any] = {}
    found = []
    for part in case.ids.split(pieces, 1):
        logits, state = case.model(part, state=state)
        found.append(logits)
    case.agrees(torch.cat(found, 1))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(case: Case, side: str) -> None:
    lengths = (24, 17)
    ids, mask = torch.full((2, 30), 3), torch.zeros(2, 30, dtype=torch.bool)
    for row, length in enumerate(lengths):
        real = slice(30 - length, 30) if side == "left" else slice(0, length)
        ids[row, real], mask[row, real] = case.ids[row, :length], True
    logits, state = case.model(ids, state={}, mask=mask)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(logits[row, mask[row]], case.logits[row, :length], rtol=0, atol=case.atol)
    after = case.model(case.ids[:, 17:18], state=state).logits  # row 1 goes on where its text ended
    torch.testing.assert_close(after[1], case.logits[1, 17:18], rtol=0, atol=case.atol)


@torch.no_grad()
def test_greedy_tokens_are_those_of_transformers(case: Case) -> None:
    expected = case.data["greedy_tokens"]
    assert torch.equal(case.net.generate(case.data["greedy_prompt"], expected.shape[1]), expected)


def test_the_rules_lead_back_to_the_checkpoint(case: Case) -> None:
    from zoo.weights.convert import KeyRules

    rules = KeyRules.from_data(case.net.spec.keys[case.source], case.source)
    exported = rules.to_source(case.net.state_dict())
    written = {key for key in exported if key != "lm_head.weight" or key in case.weights}
    assert written == set(case.weights)
    assert all(torch.equal(exported[key], case.weights[key]) for key in written)


def reference(stem: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What a golden says of itself, its tensors, and the weights under upstream's names."""
    about = json.loads((GOLDEN / "sequence" / f"{stem}.json").read_text())
    data = load_file(GOLDEN / "sequence" / f"{stem}.safetensors")
    stored = {key[6:]: value for key, value in data.items() if key.startswith("param.")}
    return about, data, KEYED["keyed_state_dict"](about) | stored


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[9], [4, 5], [1] * 9], ids=str)
def test_a_net_of_ternary_maps_gives_the_logits_of_its_authors(pieces: list[int]) -> None:
    _, data, weights = reference("model_matmulfree")
    changes = {"input.vocab_size": 48, "stem.1.layers": 2, "dims": [16], "depths": [2], "define.mlp.hidden_dim": 24}
    model: Any = zoo.create("matmulfree_nano", changes, weights=weights, source="official").double()
    state: dict[str, Any] = {}
    found = []
    for part in data["in.input_ids"].split(pieces, 1):
        logits, state = model(part, state=state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), data["logits.f64"], rtol=0, atol=1e-9)


@torch.no_grad()
def test_features_of_a_picture_enter_at_several_layers_as_in_transformers() -> None:
    _, data, weights = reference("model_deepstack")
    changes = {
        "input.vocab_size": 32, "dims": [24], "depths": [3], "define.mlp.hidden_dim": 40, "define.attention.head_dim": 8,
        "define.levels.runs": [[{"block": "visual_features", "level": n + 1}, 1] for n in range(2)] + [["none", "rest"]],
    }  # fmt: skip
    model: Any = zoo.create("deepstack_nano", changes, weights=weights, source="transformers").double()
    names = {
        "visual_mask": "in.visual_mask",
        "visual.0": "in.first",
        "visual.1": "in.visual.0",
        "visual.2": "in.visual.1",
    }
    ctx = Context(slots={slot: {"": data[key].double()} for slot, key in names.items()})
    features = model.forward_features(data["in.input_ids"], ctx)
    found = model.forward_head(features, pre_logits=True, ctx=ctx)
    torch.testing.assert_close(found, data["output.f64"], rtol=0, atol=1e-9)


NANO = list_models("*_nano", task="language-modeling")


@pytest.fixture(scope="module", params=NANO)
def nano(request: pytest.FixtureRequest) -> Any:
    """A small language model in float64, its weights moved at random so that nothing that starts at zero hides a fault."""
    torch.manual_seed(0)
    model = zoo.create(request.param).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def refuse_room(nano: Any) -> None:
    if nano.spec.name == "switch_nano":
        pytest.skip("the room of its experts follows from the length of a sequence: pieces are not the whole")


def tokens(length: int = 21) -> Tensor:
    return torch.randint(0, 256, (2, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("pieces", in_pieces([5, 1, 15], [1] * 21, [5, 16], [20, 1]), ids=str)
def test_every_family_reads_pieces_like_the_whole(nano: Any, pieces: list[int]) -> None:
    refuse_room(nano)
    state: dict[str, Any] = {}
    found = []
    for part in tokens().split(pieces, 1):
        logits, state = nano(part, state=state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), nano(tokens()).logits, rtol=0, atol=1e-9)
    assert sum(part.numel() for block in state.values() for part in block) == 2 * nano.state_size(21)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_family_sees_padding(nano: Any, side: str) -> None:
    ids, mask = torch.full((2, 30), 3), torch.zeros(2, 30, dtype=torch.bool)
    for row, length in enumerate((21, 14)):
        real = slice(30 - length, 30) if side == "left" else slice(0, length)
        ids[row, real], mask[row, real] = tokens()[row, :length], True
    logits, _ = nano(ids, state={}, mask=mask)
    last, _ = nano.next_logits(ids, {}, mask)
    for row, length in enumerate((21, 14)):
        alone = nano(tokens()[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(logits[row, mask[row]], alone, rtol=0, atol=1e-9)
        torch.testing.assert_close(last[row], alone[-1], rtol=0, atol=1e-9)


@torch.no_grad()
def test_no_family_sees_the_future(nano: Any) -> None:
    before, after = tokens(), tokens()
    after[:, 12:] = 7
    torch.testing.assert_close(nano(after).logits[:, :12], nano(before).logits[:, :12], rtol=0, atol=1e-9)


def is_idle(name: str, ctx: Context) -> bool:
    """Whether a parameter is that of an expert to which no token went."""
    layer, _, rest = name.partition(".experts.")
    return bool(rest) and float(ctx.reports[f"{layer}.router"]["load"][int(rest.partition(".")[0])]) == 0


def test_every_family_learns(nano: Any) -> None:
    ctx = Context()
    model = copy.deepcopy(nano).train()
    logits = model(tokens(512), ctx).logits  # enough for every expert to have some
    (logits.flatten(0, 1).logsumexp(-1).mean() - logits.mean() + ctx.total_loss()).backward()
    learning = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    without = [name for name, gradient in learning.items() if gradient is None or not gradient.isfinite().all()]
    assert [name for name in without if not is_idle(name, ctx)] == []


@torch.no_grad()
def test_the_deploy_form_of_every_family_agrees(nano: Any) -> None:
    single = copy.deepcopy(nano).float()
    expected, found = single(tokens()).logits, zoo.deploy(single)(tokens()).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_keys_of_every_family_lead_there_and_back(nano: Any) -> None:
    from zoo.weights.convert import KeyRules
    from zoo.weights.load import expected_header

    for source, data in nano.spec.keys.items():
        rules = KeyRules.from_data(data, source)
        state = nano.state_dict()
        back = rules.to_zoo(rules.to_source(state), expected_header(nano), source)
        assert state.keys() == back.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@torch.no_grad()
def test_every_family_keeps_packed_sequences_apart(nano: Any) -> None:
    refuse_room(nano)
    parts = tokens().flatten().split([5, 1, 20, 16])
    borders = torch.tensor([0, 5, 6, 26, 42])
    packed = nano(torch.cat(parts).unsqueeze(0), Context(cu_seqlens=borders)).logits[0]
    alone = torch.cat([nano(part.unsqueeze(0)).logits[0] for part in parts])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-9)


def test_every_family_learns_the_same_without_keeping_activations(nano: Any) -> None:
    gradients = []
    for enable in (False, True):
        model = copy.deepcopy(nano).train()
        model.set_grad_checkpointing(enable)
        model(tokens()).logits.square().mean().backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


STEPS = ("matmulfree_nano", "deepseek_v3_nano", "qwen3_moe_nano", "qwen3_next_nano")
"""Nets that answer some small differences by large ones: an input over a half is rounded by a step, a token near a border meets other
experts, whose weights are not small."""


@torch.no_grad()
def test_every_family_works_in_half_the_bits(nano: Any) -> None:
    ids = tokens()
    single, half = copy.deepcopy(nano).float(), copy.deepcopy(nano).bfloat16()
    found = half(ids).logits
    assert found.dtype == torch.bfloat16
    limit = 0.25 if nano.spec.name in STEPS else 0.15
    assert float((found.float() - single(ids).logits).norm() / found.float().norm()) < limit


def test_the_authors_names_of_rwkv7_lead_into_the_model() -> None:
    about = json.loads((GOLDEN / "sequence" / "layer_rwkv7_time_mix.json").read_text())
    shapes = {f"blocks.{i}.att.{key}": shape for i in range(2) for key, shape in about["keys"].items()}
    shapes |= {f"blocks.{i}.ffn.x_k": [1, 1, 32] for i in range(2)}
    shapes |= {f"blocks.{i}.ffn.key.weight": [64, 32] for i in range(2)}
    shapes |= {f"blocks.{i}.ffn.value.weight": [32, 64] for i in range(2)}
    norms = ["blocks.0.ln0", "ln_out", *(f"blocks.{i}.ln{n}" for i in range(2) for n in (1, 2))]
    shapes |= {f"{norm}.{leaf}": [32] for norm in norms for leaf in ("weight", "bias")}
    shapes |= {"emb.weight": [64, 32], "head.weight": [64, 32]}
    weights = KEYED["keyed_state_dict"]({"keys": shapes, "gain": 1.0, "ls": [0.3, 0.9]})
    ranks = {"decay_rank": 4, "a_rank": 4, "v_rank": 4, "gate_rank": 8, "head_dim": 8}
    changes = {"input.vocab_size": 64, "dims": [32], "depths": [2], "define.time": ranks}
    model: Any = zoo.create("rwkv7_nano", changes, weights=weights, source="official")
    state = model.state_dict()
    assert torch.equal(state["stages.0.layers.1.0.1.w_lora.lora.0.weight"], weights["blocks.1.att.w1"].T)
    assert torch.equal(state["stages.0.layers.1.0.1.v_lora.lora.2.bias"], weights["blocks.1.att.v0"].flatten())
