"""A probe proves that a load gave the published model."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from zoo.errors import WeightsError
from zoo.weights.probe import check_probe, make_probe

SHAPE = (2, 3, 4, 4)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 20))


def test_a_model_passes_its_own_probe(model):
    probe = make_probe(model, 3, SHAPE)
    assert len(probe.logits) == 16
    check_probe(model, probe, "net.tag")


def test_probing_uses_eval_mode_and_gives_the_mode_back(model):
    model.train()
    model[1].eval()
    assert make_probe(model, 0, SHAPE) == make_probe(model, 0, SHAPE)
    assert model.training and model[2].training and not model[1].training


def test_a_model_that_computes_something_else_is_refused(model):
    probe = make_probe(model, 3, SHAPE)
    with torch.no_grad():
        model[2].bias[1] += 0.01
    with pytest.raises(WeightsError) as caught:
        check_probe(model, probe, "net.tag")
    value = probe.logits[1]
    assert str(caught.value).startswith(
        "net.tag: 2 errors; nothing was loaded\n"
        "  probe: logit 1\n"
        f"    expected {value:.6g} within {1e-4 + 1e-4 * abs(value):.1g}; found {value + 0.01:.6g}; "
        "next: the weights fit but compute something else: the code or the weights are not the published ones\n"
        "  probe: norm\n"
    )


def test_values_behind_the_kept_logits_are_held_by_the_norm(model):
    probe = make_probe(model, 3, SHAPE)
    with torch.no_grad():
        model[2].bias[19] += 3
    with pytest.raises(WeightsError, match="probe: norm"):
        check_probe(model, probe, "net.tag")


def test_nan_is_refused(model):
    probe = make_probe(model, 3, SHAPE)
    with torch.no_grad():
        model[2].bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match="found nan"):
        check_probe(model, probe, "net.tag")


def test_an_output_that_is_shorter_is_refused(model):
    probe = make_probe(nn.Flatten(), 3, (1, 1, 1, 3))
    probe = msgspec.structs.replace(probe, logits=(*probe.logits, 1.0))
    with pytest.raises(WeightsError, match="probe: logit 3\n    expected 1; found an output that is shorter"):
        check_probe(nn.Flatten(), probe, "net.tag")
