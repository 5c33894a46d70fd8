"""A golden of a whole model, and our model with its weights by the rules of its family."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import zoo
from tests.models.parity import GOLDEN, KEYED
from zoo.build.builder import build
from zoo.weights.convert import KeyRules
from zoo.weights.load import expected_header


class Reference:
    """A golden in float64, and our model with its weights; `renamed` says where rules name layers that the golden has elsewhere, `weigh`
    what becomes of its weights first."""

    def __init__(
        self,
        stem: str,
        name: str,
        changes: dict[str, Any],
        renamed: dict[str, str] | None = None,
        weigh: Callable[[Reference], dict[str, Tensor]] | None = None,
    ):
        path = GOLDEN / "sequence" / f"{stem}.json"
        self.about, self.data = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
        self.weights = KEYED["keyed_state_dict"](self.about)
        self.weights = self.weights if weigh is None else weigh(self)
        spec = zoo.spec(name, changes)
        source, rules = next((key, json.dumps(data)) for key, data in spec.keys.items())
        for ours, here in (renamed or {}).items():
            rules = rules.replace(ours, here)
        self.rules = KeyRules.from_data(json.loads(rules), source)
        state = self.rules.to_zoo(self.weights, expected_header(build(spec)), source)
        self.model: Any = zoo.create(spec, weights=state).double()

    def check(self, found: Tensor, output: str) -> None:
        atol = self.about["tolerance"][output]["fp64_atol"]
        torch.testing.assert_close(found, self.data[f"{output}.f64"], rtol=0, atol=max(atol, 1e-9))

    def leads_back(self) -> None:
        """The rules give the names and values of the checkpoint again."""
        single = {key: tensor.float() for key, tensor in self.model.state_dict().items()}
        back = self.rules.to_source(single)
        added = (
            "decoder.weight",
            "decoder.bias",
            "num_batches_tracked",
        )  # second names and counters, which a golden leaves out
        assert {key for key in back if not key.endswith(added)} == set(self.weights)
        assert all(torch.equal(back[key], value) for key, value in self.weights.items())
