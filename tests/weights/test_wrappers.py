"""What training code puts around a model leaves no trace in what is saved, and is taken off what is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import WeightsError
from zoo.weights.convert import KeyRules
from zoo.weights.load import read_tensors
from zoo.weights.wrappers import opened, unwrapped

NAMES = ("starnet_nano", "gla_nano")
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model.backbone.module.",
)


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {name: zoo.create(name).state_dict() for name in NAMES}


def same(model: Any, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def refusal(name: str, weights: dict[str, Tensor], source: str = "zoo") -> str:
    with pytest.raises(WeightsError) as caught:
        zoo.create(name, weights=weights, source=source)
    return str(caught.value)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_all_names_share_is_taken_off(states: dict[str, dict[str, Tensor]], prefix: str) -> None:
    for name, state in states.items():
        rules = KeyRules.from_data(zoo.spec(name).keys["official"], "keys")
        theirs = {prefix + key: tensor for key, tensor in rules.to_source(state).items()}
        assert same(zoo.create(name, weights=theirs, source="official"), state)
        assert same(zoo.create(name, weights={prefix + key: tensor for key, tensor in state.items()}), state)


def test_a_wrapper_of_a_layer_is_taken_off_inside_names(states: dict[str, dict[str, Tensor]]) -> None:
    state = states["starnet_nano"]
    inner = {key.replace("stages.0", "stages.0._orig_mod"): tensor for key, tensor in state.items()}
    assert same(zoo.create("starnet_nano", weights=inner), state)


def test_a_prefix_that_some_names_have_is_the_one_problem(states: dict[str, dict[str, Tensor]]) -> None:
    state = states["starnet_nano"]
    some = {key if key.startswith("head") else f"backbone.{key}": tensor for key, tensor in state.items()}
    assert refusal("starnet_nano", some) == (
        "starnet_nano: 1 error; nothing was loaded\n"
        "  backbone.\n"
        "    expected names as the model has them; found 96 of 102 names begin with it, and without it they would have a place; "
        "next: take it off: {name.removeprefix('backbone.'): tensor for name, tensor in state.items()}"
    )


def test_a_misfit_behind_a_prefix_is_one_problem(states: dict[str, dict[str, Tensor]]) -> None:
    wrapped = {
        f"module.{key}": tensor for key, tensor in states["starnet_nano"].items() if key != "head.classifier.bias"
    }
    text = refusal("starnet_nano", wrapped)
    assert text.startswith("starnet_nano: 1 error; nothing was loaded\n  module.\n")
    assert "1 problem without it, the first: head.classifier.bias: expected float32 (10,); found none" in text


def test_the_tensors_of_another_model_keep_their_prefix_as_the_one_problem(
    states: dict[str, dict[str, Tensor]],
) -> None:
    other = {f"module.net.{key}": tensor for key, tensor in states["gla_nano"].items()}
    assert len(refusal("starnet_nano", other).splitlines()) == 3
    assert "  module." in refusal("starnet_nano", other, "official")


@pytest.mark.parametrize("key", ["state_dict", "model", "model_ema", "state_dict_ema", "module"])
def test_the_state_dict_beside_an_optimiser_is_found(states: dict[str, dict[str, Tensor]], key: str) -> None:
    state = states["starnet_nano"]
    saved = {"epoch": 3, "optimizer": {"state": {}}, key: {f"module.{name}": tensor for name, tensor in state.items()}}
    assert same(zoo.create("starnet_nano", weights=saved), state)


def test_averaged_weights_go_before_the_last_ones() -> None:
    averaged, last = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    assert opened({"state_dict": last, "state_dict_ema": averaged}) is averaged
    assert opened({"model": last, "model_ema": averaged}, own=("model",)) is last
    assert opened(last) is last


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_wrapped_model_is_saved_and_loaded_like_the_model_inside(tmp_path: Any, wrap: Any) -> None:
    model = zoo.create("starnet_nano")
    wrapped = wrap(nn.DataParallel(model))
    zoo.save(wrapped, tmp_path / "net.safetensors")
    assert read_tensors(tmp_path / "net.safetensors").keys() == model.state_dict().keys()
    inner = unwrapped(zoo.load(wrap(zoo.create("starnet_nano")), tmp_path / "net.safetensors"))
    assert same(inner, unwrapped(wrapped).state_dict())


def test_a_model_whose_layers_are_compiled_is_saved_and_loaded_like_any_other(tmp_path: Any) -> None:
    model: Any = zoo.create("starnet_nano")
    state = model.state_dict()
    model.stages[0] = torch.compile(model.stages[0])
    zoo.save(model, tmp_path / "net.safetensors")
    assert read_tensors(tmp_path / "net.safetensors").keys() == state.keys()
    with torch.no_grad():
        model.stages[0].downsample.conv.weight.zero_()
    zoo.load(model, tmp_path / "net.safetensors")
    assert torch.equal(
        model.stages[0].downsample.conv.weight,
        read_tensors(tmp_path / "net.safetensors")["stages.0.downsample.conv.weight"],
    )


def test_averages_are_loaded_from_their_own_state_dict(states: dict[str, dict[str, Tensor]]) -> None:
    average = torch.optim.swa_utils.AveragedModel(zoo.create("starnet_nano", weights=states["starnet_nano"]))
    assert same(zoo.create("starnet_nano", weights=average.state_dict()), states["starnet_nano"])
