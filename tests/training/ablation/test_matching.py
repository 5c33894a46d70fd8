"""Budgets are matched, or refused with a reason."""

from __future__ import annotations

import pytest

import zoo
from zoo.errors import InputError, SpecError
from zoo.training.ablation.matching import call_for, cost_of, fitted, placed, scaled


def test_a_cheaper_mixer_gets_wider_channel_mixers_until_the_net_costs_the_same() -> None:
    target = cost_of(placed("convformer_nano", "attention", "token_mixer"), "macs")
    found = fitted(placed("convformer_nano", "identity", "token_mixer"), target, "macs")
    assert abs(found.cost / target - 1) <= 0.02 and found.scale > 1
    assert cost_of(found.spec, "macs") == found.cost


def test_parameters_can_be_what_is_matched() -> None:
    target = cost_of(placed("gla_nano", "mamba2", "token_mixer"), "params")
    found = fitted(placed("gla_nano", "attention", "token_mixer"), target, "params")
    assert abs(found.cost / target - 1) <= 0.02


def test_a_net_at_the_budget_stays_as_it_is() -> None:
    spec = zoo.spec("convformer_nano")
    found = fitted(spec, cost_of(spec, "macs"), "macs")
    assert found.spec is spec and found.scale == 1


def test_a_host_without_channel_mixers_is_refused_with_the_reason() -> None:
    target = cost_of(zoo.spec("vim_nano"), "macs")
    with pytest.raises(InputError, match="there is no channel mixer whose width could make up for it"):
        fitted(placed("vim_nano", "identity", "token_mixer"), target, "macs")


def test_a_budget_out_of_reach_is_refused() -> None:
    spec = zoo.spec("convformer_nano")
    with pytest.raises(InputError, match=r"at channel mixers of 0\.06 times their width"):
        fitted(spec, cost_of(spec, "macs") / 50, "macs")


def test_only_the_width_of_channel_mixers_is_scaled() -> None:
    spec = zoo.spec("gla_nano")
    wider = scaled(spec, 2.0)
    assert str(spec.stages).replace("'hidden_dim': 112", "'hidden_dim': 224") == str(wider.stages)


def test_mixers_are_called_as_a_host_needs_them() -> None:
    assert call_for("attention", tokens=True) == {"block": "attention", "causal": True}
    assert call_for("mamba2", tokens=True) == "mamba2"
    assert call_for("mamba2", tokens=False) == {"within": ["mamba2"], "view": "scan_2d"}
    assert call_for("attention", tokens=False) == "attention"


def test_a_block_that_no_language_model_takes_is_refused() -> None:
    with pytest.raises(SpecError):
        placed("gla_nano", "pooling", "token_mixer")
