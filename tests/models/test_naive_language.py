"""Models that transformers does not have, against naive loops in the published names of their weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.models import naive_language as naive
from zoo.weights.convert import KeyRules

MODELS: dict[str, Callable[[dict[str, Tensor], Tensor], Tensor]] = {
    "gla_nano": partial(naive.transformer, num_heads=4, mixer=naive.gla),
    "retnet_nano": partial(naive.transformer, num_heads=4, mixer=naive.retention),
    "gated_delta_net_nano": partial(naive.transformer, num_heads=2, mixer=naive.gated_delta),
    "rwkv7_nano": naive.rwkv7,
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_equations(name: str) -> None:
    torch.manual_seed(0)
    net: Any = zoo.create(name).double()
    with torch.no_grad():
        for parameter in net.parameters():  # what begins as zeros or ones hides nothing
            parameter.add_(0.3 * parameter.std().nan_to_num(1.0).clamp(min=0.1) * torch.randn_like(parameter))
    rules = KeyRules.from_data(zoo.spec(name).keys["official"], "keys")
    ids = torch.randint(256, (23,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = MODELS[name](rules.to_source(net.state_dict()), ids)
        found = net(ids.unsqueeze(0)).logits[0]
    assert float((found - expected).norm() / expected.norm()) <= 1e-9
    assert float(expected.std()) > 0.05
