"""Every set of key rules that ships, on a state dict in the upstream's own names: all of it is used, and comes back.

The names are those of timm where it is the source, else of a golden, or of `tests/golden/names/FAMILY.SOURCE.json`, which the code
of the upstream wrote.
"""

from __future__ import annotations

import json
import math
import tomllib
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.models.parity import FAMILIES, GOLDEN
from tests.models.test_language import CASES
from zoo.catalog.collection import CORE
from zoo.weights.convert import KeyRules
from zoo.weights.load import Expected, expected_header
from zoo.weights.operations import bit_equal
from zoo.weights.rules import Ignore, Rule, Tie

FILES = {path: tomllib.loads(path.read_text()) for path in sorted(CORE.folder.glob("*.toml"))}
RULE_SETS = [(table["family"]["name"], source) for table in FILES.values() for source in table.get("keys", {})]


def upstream(family: str, source: str) -> tuple[str, dict[str, Any], dict[str, list[int]]]:
    """Our model, what is changed about it, and the upstream's names with their shapes."""
    recorded = GOLDEN / "names" / f"{family}.{source}.json"
    if recorded.is_file():
        data = json.loads(recorded.read_text())
        return data["model"], data["changes"], data["keys"]
    if source == "transformers":
        stem, (name, changes) = next(item for item in CASES.items() if zoo.spec(item[1][0]).family.name == family)
        data = json.loads((GOLDEN / "sequence" / f"{stem}.json").read_text())
        return name, {"input.vocab_size": data["config"]["vocab_size"], **changes}, data["keys"]
    for section, folder in (("golden", "vision"), ("dense", "dense")):
        if source == "official" and section in FAMILIES[family]:
            name, stem = next(iter(FAMILIES[family][section].items()))
            return name, {}, json.loads((GOLDEN / folder / f"{stem}.json").read_text())["keys"]
    from zoo._timm import import_timm

    name, theirs = next(iter(FAMILIES[family]["timm"].items()))
    with torch.device("meta"):
        state = import_timm().create_model(theirs).state_dict()
    return name, {}, {key: list(tensor.shape) for key, tensor in state.items()}


def filled(shapes: dict[str, list[int]], rules: KeyRules, expected: Expected) -> dict[str, Tensor]:
    """Values of which no two are the same within a tensor; counters as they begin, and second names of a tensor."""
    state: dict[str, Tensor] = {}
    for place, (key, shape) in enumerate(shapes.items()):
        values = torch.arange(math.prod(shape), dtype=torch.float32) + place
        state[key] = torch.zeros((), dtype=torch.int64) if key.endswith("num_batches_tracked") else values.view(shape)
    for key in state:
        rule, group = rule_of(key, rules, expected)
        if isinstance(rule, Tie):
            state[key] = state[rule.other.render(group) or ""]
    return state


def rule_of(key: str, rules: KeyRules, expected: Expected) -> tuple[Rule, dict[str, str]]:
    """The rule that takes a source tensor, and what its placeholders stand for."""
    claim = rules.claim(key, expected)
    assert claim is not None, key
    return rules.rules[claim[0]], dict(claim[1])


@pytest.mark.parametrize(("family", "source"), RULE_SETS, ids=[":".join(one) for one in RULE_SETS])
def test_every_name_of_the_upstream_leads_there_and_back(family: str, source: str) -> None:
    name, changes, shapes = upstream(family, source)
    model: Any = zoo.create(name, changes, device="meta")
    rules = KeyRules.from_data(model.spec.keys[source], source)
    expected = expected_header(model)
    state = filled(shapes, rules, expected)
    found = rules.to_zoo(state, expected, name)
    back = rules.to_source(found)
    assert all(isinstance(rule_of(key, rules, expected)[0], Ignore) for key in state.keys() - back.keys())
    assert all(isinstance(rule_of(key, rules, expected)[0], Tie) for key in back.keys() - state.keys())
    assert all(bit_equal(back[key], state[key]) for key in back.keys() & state.keys())
