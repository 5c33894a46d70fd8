"""Language models go to the Hub and come back the same, their shared table once."""

from __future__ import annotations

import torch

import zoo
from tests.artifacts.loopback import Hub

IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_language_model_that_is_pushed_comes_back_bit_equal(hub: Hub) -> None:
    model = zoo.create("gla_nano", pretrained=True)
    back = zoo.create(zoo.push(model, "acme/gla"))
    assert torch.equal(back(IDS).logits, model(IDS).logits)
    assert back.head.table[0].weight is back.stem.weight
    assert b"pipeline_tag: text-generation" in hub.commits["acme/gla"][-1][1]["README.md"]
