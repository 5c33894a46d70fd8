"""One picture whose map has shrunk to a point, in training: the message names the layer."""

from __future__ import annotations

import pytest
import torch

import zoo


@pytest.mark.parametrize("name", ["starnet_nano", "mobilenetv4_nano", "unireplknet_nano"])
def test_the_norm_that_cannot_standardise_is_named(name: str) -> None:
    model = zoo.create(name, img_size=8).train()
    pattern = r"^(stem|stages|head)\S* cannot standardise 1 values of a channel in training.*batch of at least two"
    with pytest.raises(ValueError, match=pattern):
        model(torch.randn(1, 1, 8, 8))
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_a_net_in_training_is_exported_for_any_batch() -> None:
    model = zoo.create("mobilenetv4_nano").train()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.randn(3, 1, 32, 32),), dynamic_shapes=({0: batch},))
    assert program.module()(torch.randn(5, 1, 32, 32)).shape == (5, 10)
