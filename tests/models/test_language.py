"""Language models against logits, states and greedy tokens of transformers, in every way of reading a sequence."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import zoo
from tests.models.parity import GOLDEN, KEYED

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
}  # fmt: skip
"""Golden -> the family's variant nearest to it, and what the golden's configuration says otherwise."""


class Case:
    """One golden, and our model with its weights in float64, where meaning is judged."""

    def __init__(self, stem: str):
        self.about = json.loads((GOLDEN / "sequence" / f"{stem}.json").read_text())
        self.data = load_file(GOLDEN / "sequence" / f"{stem}.safetensors")
        self.weights = KEYED["keyed_state_dict"](self.about)
        self.weights |= {key[6:]: value for key, value in self.data.items() if key.startswith("param.")}
        name, changes = CASES[stem]
        changes = {"input.vocab_size": self.about["config"]["vocab_size"], **changes}
        self.net: Any = zoo.create(name, changes, weights=self.weights, source="transformers")
        self.model: Any = zoo.create(name, changes, weights=self.weights, source="transformers").double()
        self.ids, self.logits = self.data["in.input_ids"], self.data["logits.f64"]

    def agrees(self, found: Tensor, where: Any = slice(None)) -> None:
        atol = self.about["tolerance"]["logits"]["fp64_atol"]
        torch.testing.assert_close(found, self.logits[:, where], rtol=0, atol=max(atol, 1e-9))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@torch.no_grad()
def test_logits_are_those_of_transformers(case: Case) -> None:
    case.agrees(case.model(case.ids).logits)
    torch.testing.assert_close(case.net(case.ids).logits, case.data["logits"], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 19], [7, 1, 1, 15], [23, 1]], ids=str)
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
        torch.testing.assert_close(logits[row, mask[row]], case.logits[row, :length], rtol=0, atol=1e-9)
    after = case.model(case.ids[:, 17:18], state=state).logits  # row 1 goes on where its text ended
    torch.testing.assert_close(after[1], case.logits[1, 17:18], rtol=0, atol=1e-9)


@torch.no_grad()
def test_greedy_tokens_are_those_of_transformers(case: Case) -> None:
    expected = case.data["greedy_tokens"]
    assert torch.equal(case.net.generate(case.data["greedy_prompt"], expected.shape[1]), expected)


def test_the_rules_lead_back_to_the_checkpoint(case: Case) -> None:
    from zoo.weights.convert import KeyRules

    rules = KeyRules.from_data(case.net.spec.keys["transformers"], "keys.transformers")
    exported = rules.to_source(case.net.state_dict())
    written = {key for key in exported if key != "lm_head.weight" or key in case.weights}
    assert written == set(case.weights)
    assert all(torch.equal(exported[key], case.weights[key]) for key in written)
