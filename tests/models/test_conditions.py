"""Nets with several inputs: those of the sequence goldens against their authors' code, and what a call refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.models.parity import GOLDEN, KEYED
from zoo.build.inputs import drawn_inputs

GOLDENS = {
    "hidream_small": (
        "model_hidream",
        ("hidden_states", "timesteps", "encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
    ),
    "mode_small": ("model_mode", ("state_images", "actions", "goals", "sigma")),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_outputs_are_those_of_the_reference(name: str) -> None:
    stem, order = GOLDENS[name]
    about = json.loads((GOLDEN / "sequence" / f"{stem}.json").read_text())
    data = load_file(GOLDEN / "sequence" / f"{stem}.safetensors")
    stored = {key.removeprefix("param."): tensor for key, tensor in data.items() if key.startswith("param.")}
    weights = KEYED["keyed_state_dict"](about) | stored
    model: Any = zoo.create(name, weights=weights, source="official").double()
    with torch.no_grad():
        found = model(*(data[f"in.{key}"].double() for key in order))
    torch.testing.assert_close(found, data["output.f64"], rtol=0, atol=about["tolerance"]["output"]["fp64_atol"])


def test_inputs_are_given_by_place_or_by_name() -> None:
    model: Any = zoo.create("lightningdit_nano")
    x, t, y = drawn_inputs(model.spec, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(x, y=y, t=t), model(x, t, y))


@pytest.mark.parametrize(
    ("others", "named", "sentence"),
    [
        ((0,), {}, "found no `y`"),
        ((0, 1, 1), {}, "found more"),
        ((0, 1), {"yy": 1}, "nearest `y`"),
        ((0, 0), {}, "whole numbers"),
    ],
)
def test_a_call_with_other_inputs_is_refused(others: tuple[int, ...], named: dict[str, int], sentence: str) -> None:
    model: Any = zoo.create("lightningdit_nano")
    x, *beside = drawn_inputs(model.spec)
    with pytest.raises(zoo.InputError, match=sentence):
        model(x, *(beside[place] for place in others), **{name: beside[place] for name, place in named.items()})


def test_a_mask_hides_padding_and_may_be_left_out() -> None:
    model: Any = zoo.create("ezaudio_nano").double()
    x, t, context, frames, words = (v.double() if v.is_floating_point() else v for v in drawn_inputs(model.spec, 2))
    other = context.clone()
    words[:, 5:], other[:, 5:] = False, 7.0
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, context), model(x, t, context, frames, None))
        torch.testing.assert_close(model(x, t, context, None, words), model(x, t, other, None, words))


def test_a_named_input_without_a_graph_is_refused() -> None:
    spec = {
        "input": {"kind": "image"},
        "inputs": [{"name": "x", "kind": "numbers", "shape": ["batch"]}],
        "stem": "none",
    }
    with pytest.raises(zoo.SpecError, match="which reads what goes in beside"):
        zoo.create({"schema": "zoo.spec/1", "spec": {**spec, "dims": [3], "depths": [0], "head": "linear_head"}})
