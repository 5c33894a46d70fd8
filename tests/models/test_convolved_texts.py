"""M2-BERT and H3 against their authors' code: logits, pieces, padding, packed sequences, and the names of both kinds of checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from blocks.context import Context
from tests.models.reference import Reference
from zoo.weights.convert import KeyRules

M2_BERT = {
    "input.vocab_size": 64, "stem.1.max_positions": 20, "depths": [2], "define.mlp.ratio": 2,
    "define.mixer": {"max_length": 20, "filter_dim": 12},
}  # fmt: skip
H3 = {"input.vocab_size": 56, "dims": [16], "define.mlp.ratio": 4}
CASES = {
    "model_m2_bert": ("m2_bert_nano", M2_BERT | {"dims": [32], "define.before": {"block": "layer_norm", "eps": 1e-5}}),
    "model_m2_bert_plain": ("m2_bert_nano", M2_BERT | {"dims": [24]}),
    "model_h3": ("h3_nano", H3 | {"define.h3": {"state_dim": 8, "head_dim": 1}}),
    "model_h3_heads": ("h3_nano", H3 | {"define.h3": {"state_dim": 8, "head_dim": 4}}),
}
TIED = ("freq", "decoder.weight", "lm_head.weight")
"""Second names of tensors, which a golden leaves out."""


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param, *CASES[request.param])


@pytest.fixture(scope="module", params=["model_h3", "model_h3_heads"])
def h3(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param, *CASES[request.param])


@torch.no_grad()
def test_logits_are_those_of_the_authors(case: Reference) -> None:
    found = case.model(case.data["in.input_ids"])
    case.check(getattr(found, "logits", found), "logits")


def test_the_rules_lead_back_to_the_checkpoint(case: Reference) -> None:
    back = case.rules.to_source({key: tensor.float() for key, tensor in case.model.state_dict().items()})
    assert {key for key in set(back) - set(case.weights) if not key.endswith(TIED)} == set()
    assert all(torch.equal(back[key], value) for key, value in case.weights.items())


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[21], [1] * 21, [5, 16], [7, 1, 1, 12]], ids=str)
def test_h3_in_pieces_is_the_whole(h3: Reference, pieces: list[int]) -> None:
    state: dict[str, Any] = {}
    found = []
    for part in h3.data["in.input_ids"].split(pieces, 1):
        logits, state = h3.model(part, state=state)
        found.append(logits)
    h3.check(torch.cat(found, 1), "logits")


@torch.no_grad()
def test_padding_and_packing_change_nothing_in_h3(h3: Reference) -> None:
    ids = h3.data["in.input_ids"]
    mask = torch.ones(2, 25, dtype=torch.bool)
    mask[0, 21:] = mask[1, :12] = False
    padded = torch.zeros(2, 25, dtype=torch.int64)
    padded[0, :21], padded[1, 12:] = ids[0], ids[1, :13]
    logits, state = h3.model(padded, state={}, mask=mask)
    expected = h3.data["logits.f64"]
    torch.testing.assert_close(logits[0, :21], expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(logits[1, 12:], expected[1, :13], rtol=0, atol=1e-9)
    after = h3.model(ids[:, 13:14], state=state).logits
    torch.testing.assert_close(after[1], expected[1, 13:14], rtol=0, atol=1e-9)
    packed = h3.model(torch.cat([ids[:1], ids[1:, :9]], 1), Context(cu_seqlens=torch.tensor([0, 21, 30])))
    logits = getattr(packed, "logits", packed)
    torch.testing.assert_close(logits[0, :21], expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(logits[0, 21:], expected[1, :9], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "layers"), [("h3_nano", 3), ("h3_125m", 12)])
def test_norms_of_released_checkpoints_belong_to_the_branch_before(name: str, layers: int) -> None:
    spec = zoo.spec(name)
    rules = KeyRules.from_data(spec.keys["released"], "released")
    state = {key: tensor for key, tensor in zoo.create(name, device="meta").state_dict().items()}
    back = rules.to_source(state)
    assert f"s4seq.encoder.layers.{layers - 1}.norm2.weight" in back and "s4seq.encoder.norm.weight" in back
    assert len(back) == len(state) + 1  # the head's second name of the table
