"""Nets for tasks against the outputs of their authors' code: every output that ours has, parameters, MACs, the deploy form."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from blocks.context import Context
from blocks.folding import fuse
from tests.models.parity import GOLDEN, KEYED, count, entries, one_of_each
from zoo.measure.op_counter import EXACT, Work, modules_open

DENSE = entries("dense")
CASES = one_of_each("dense")


@functools.cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said of the reference, and its tensors."""
    path = GOLDEN / "dense" / f"{DENSE[name]}.json"
    return json.loads(path.read_text()), load_file(str(path.with_suffix(".safetensors")))


def weights(name: str) -> dict[str, Tensor]:
    """The reference's state: tensors by their keys, and those that are stored."""
    about, data = golden(name)
    drawn = {key: shape for key, shape in about["keys"].items() if key not in about["stored"]}
    state: dict[str, Tensor] = KEYED["keyed_state_dict"]({**about, "keys": drawn})
    return state | {key.removeprefix("param."): tensor for key, tensor in data.items() if key.startswith("param.")}


def samples(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """All inputs of the reference in their order: drawn by its recipe, or stored."""
    about, data = golden(name)
    found = [data[f"in.{key}"] if recipe.get("stored") else drawn(recipe) for key, recipe in about["input"].items()]
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in found)


def drawn(recipe: dict[str, Any]) -> Tensor:
    random, numbers = np.random.RandomState(recipe["seed"]), int(np.prod(recipe["shape"]))
    values = random.uniform(0, 1, numbers) if recipe.get("map") == "uniform" else random.standard_normal(numbers)
    return torch.from_numpy(values.astype(np.float32).reshape(recipe["shape"]))


def sample(name: str) -> Tensor:
    return samples(name)[0]


@functools.cache
def loaded(name: str) -> nn.Module:
    return zoo.create(name, weights=weights(name), source="official").double()


@functools.cache
def answered(name: str) -> Any:
    """What it gives for the inputs of the reference."""
    with torch.no_grad():
        return loaded(name)(*samples(name))


def errors(name: str, outputs: Any) -> dict[str, float]:
    """The relative error of each output that the reference has, too; a single one is its first."""
    about, data = golden(name)
    found = {next(iter(about["outputs"])): outputs} if torch.is_tensor(outputs) else outputs
    result = {}
    for key, form in about["outputs"].items():
        if key in found:
            assert list(found[key].shape) == form["shape"]
            y, expected = found[key].flatten()[:: form["stride"]].double(), data[f"out.{key}"].flatten().double()
            result[key] = float((y - expected).norm() / expected.norm())
    return result


def tolerance(name: str) -> float:
    return max(1e-5, 20 * max(form.get("fp32_error") or 0 for form in golden(name)[0]["outputs"].values()))


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_parameters_are_those_of_the_reference(name: str) -> None:
    found = errors(name, answered(name))
    assert found
    assert max(found.values()) <= tolerance(name)
    assert count(loaded(name)) == golden(name)[0]["params"]


@pytest.mark.parametrize("name", CASES)
def test_macs_are_those_of_the_reference(name: str) -> None:
    model, work = zoo.create(name, device="meta"), Work()
    with torch.no_grad(), work, modules_open(work, {module: path for path, module in model.named_modules()}):
        model(*(x.to("meta") for x in samples(name, torch.float32)))
    macs = sum(work.paths[""][kind] for kind in EXACT) // 2
    assert macs == golden(name)[0]["macs_flopcounter"] + entries("uncounted").get(name, 0)


@pytest.mark.parametrize("name", CASES)
def test_the_deploy_form_gives_the_same_and_is_as_small_as_the_references(name: str) -> None:
    about, deployed = golden(name)[0], fuse(loaded(name))
    with torch.no_grad():
        found = deployed(*samples(name))
    for y, other in zip(each(answered(name)), each(found), strict=True):
        assert float((y - other).norm() / y.norm()) <= 1e-9
    assert "fused_params" not in about or count(deployed) <= about["fused_params"]


def each(outputs: Any) -> list[Tensor]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("lengths", [[1] * 8, [3, 5]])
def test_a_clip_in_pieces_gives_what_it_gives_as_a_whole(lengths: list[int]) -> None:
    model, x, state = loaded("movinet_a0_stream"), sample("movinet_a0_stream"), {}
    with torch.no_grad():
        parts = [model(part, Context(state=state)) for part in x.split(lengths, 2)]
        torch.testing.assert_close(parts[-1], model(x))
    if lengths[0] == 1:
        torch.testing.assert_close(
            torch.stack(parts, 1), golden("movinet_a0_stream")[1]["out.steps"].double(), rtol=1e-5, atol=1e-5
        )
