"""A model that nobody holds any more gives its memory back."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.sampled import sampled
from zoo import catalog
from zoo.build.inputs import drawn_inputs
from zoo.catalog.listing import list_models

NANO = list_models("*_nano")


def held(model: nn.Module) -> list[weakref.ref[Any]]:
    return [weakref.ref(part) for part in (*model.modules(), *model.parameters())]


@pytest.mark.parametrize("name", sampled(NANO))
def test_memory_of_a_dropped_model_is_freed(name: str) -> None:
    model: Any = zoo.create(name, pretrained=bool(catalog.entry(name).tags))
    deployed = zoo.deploy(model)
    with torch.no_grad():
        for net in (model, deployed):
            net(*drawn_inputs(model.spec))
    parts = [*held(model), *held(deployed)]
    del model, deployed, net
    gc.collect()
    alive = [type(part()).__name__ for part in parts if part() is not None]
    assert alive == []
