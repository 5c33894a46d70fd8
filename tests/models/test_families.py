"""The published families against data that others computed: parameters, outputs, MACs and deploy forms."""

from __future__ import annotations

import json
import pathlib
import runpy
import types
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from blocks.folding import fuse

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
KEYED = runpy.run_path(str(GOLDEN / "keyed.py"))

GOLDENS = {
    "inceptionnext_atto": "inceptionnext__atto",
    "inceptionnext_tiny": "inceptionnext__tiny",
    "unireplknet_a": "unireplknet__a",
    "unireplknet_n": "unireplknet__n",
    "caformer_s18": "metaformer__caformer_s18",
    "convformer_s18": "metaformer__convformer_s18",
    "identityformer_s12": "metaformer__identityformer_s12",
    "poolformerv2_s12": "metaformer__poolformerv2_s12",
    "randformer_s12": "metaformer__randformer_s12",
}
REPARAMETERISED = ["unireplknet_a", "unireplknet_n"]

# torch counts nothing for scaled-dot-product attention on CPU; the reference multiplied the 2 L x L matrices openly
UNCOUNTED = {"caformer_s18": 9 * 2 * 196**2 * 320 + 3 * 2 * 49**2 * 512}

SIZES_V1 = ["s12", "s24", "s36", "m36", "m48"]
SIZES_V2 = ["s18", "s36", "m36", "b36"]
TIMM = {
    **{f"inceptionnext_{size}": f"inception_next_{size}" for size in ("atto", "tiny", "small", "base")},
    **{f"{family}_{size}": f"{family}_{size}" for family in ("poolformer", "poolformerv2") for size in SIZES_V1},
    **{f"{family}_{size}": f"{family}_{size}" for family in ("convformer", "caformer") for size in SIZES_V2},
}
SMALLEST = ["inceptionnext_atto", "poolformer_s12", "poolformerv2_s12", "convformer_s18", "caformer_s18"]

# millions, train -> deploy form, measured on the upstream code; of l and xl what the paper prints, cut off
UNIREPLKNET = {
    "f": (6.489, 6.235), "p": (11.081, 10.742), "t": (31.693, 31.038), "s": (56.457, 55.646), "b": (99.089, 98.008),
}  # fmt: skip
PUBLISHED_DEPLOY = {"l": 218, "xl": 386}


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "vision" / f"{GOLDENS[name]}.json").read_text())


def loaded(name: str) -> nn.Module:
    """The model with the golden's weights, through the official key rules."""
    return zoo.create(name, weights=KEYED["keyed_state_dict"](golden(name)), source="official").eval()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def answer(model: nn.Module, size: int = 224) -> Tensor:
    with torch.no_grad():
        return model(KEYED["golden_input"](size))


def macs(model: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter:
        answer(model)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", GOLDENS)
def test_output_parameters_and_macs_are_those_of_the_reference(name: str) -> None:
    data, model = golden(name), loaded(name)
    reference = load_file(str(GOLDEN / "vision" / f"{GOLDENS[name]}.safetensors"))["output"]
    assert count(model) == data["params"]
    assert error(answer(model, data["size"]), reference) <= (1e-4 if data["cond"] > 10 else 1e-5)
    assert macs(model) + UNCOUNTED.get(name, 0) == data["macs_flopcounter"]


@pytest.mark.parametrize("name", GOLDENS)
def test_deploy_form_gives_the_same_output(name: str) -> None:
    data, model = golden(name), loaded(name)
    expected = answer(model, data["size"])
    assert error(answer(fuse(model), data["size"]), expected) <= (1e-4 if data["cond"] > 10 else 1e-5)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_deploy_form_is_as_small_as_the_reference(name: str) -> None:
    data, deployed = golden(name), fuse(loaded(name))
    assert (count(deployed), macs(deployed)) == (data["fused_params"], data["fused_macs"])


def test_deploy_form_is_exact_in_float64_where_float32_amplifies_rounding() -> None:
    model = loaded("unireplknet_n").double()
    x = KEYED["golden_input"](64).double()
    with torch.no_grad():
        assert error(fuse(model)(x), model(x)) <= 1e-12


@pytest.mark.parametrize("name", TIMM)
def test_parameters_equal_those_of_timm(name: str, timm: types.ModuleType) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(TIMM[name])
    assert count(zoo.create(name, device="meta")) == count(theirs)


@pytest.mark.parametrize("size", UNIREPLKNET)
def test_unireplknet_has_the_parameters_of_the_upstream_code(size: str) -> None:
    model = zoo.create(f"unireplknet_{size}", device="meta")
    assert (round(count(model) / 1e6, 3), round(count(fuse(model)) / 1e6, 3)) == UNIREPLKNET[size]


@pytest.mark.parametrize("size", PUBLISHED_DEPLOY)
def test_large_unireplknet_has_the_parameters_that_the_paper_prints(size: str) -> None:
    deployed = fuse(zoo.create(f"unireplknet_{size}", device="meta"))
    assert count(deployed) // 10**6 == PUBLISHED_DEPLOY[size]


@pytest.mark.parametrize("size", SIZES_V1)
def test_a_mixer_without_parameters_changes_no_count(size: str) -> None:
    assert count(zoo.create(f"identityformer_{size}", device="meta")) == count(
        zoo.create(f"poolformerv2_{size}", device="meta")
    )


@pytest.mark.parametrize("size", SIZES_V1)
def test_random_mixing_adds_one_frozen_matrix_for_each_layer_of_the_last_two_stages(size: str) -> None:
    model = zoo.create(f"randformer_{size}", device="meta")
    frozen = [tuple(parameter.shape) for parameter in model.parameters() if not parameter.requires_grad]
    depth = {"s12": 2, "s24": 4, "s36": 6, "m36": 6, "m48": 8}[size]
    assert frozen == [(196, 196)] * 3 * depth + [(49, 49)] * depth
    assert count(model) - count(zoo.create(f"identityformer_{size}", device="meta")) == depth * (3 * 196**2 + 49**2)


def check_against_timm(name: str, timm: types.ModuleType) -> None:
    """Identical weights, written under timm's names, give the output of timm."""
    theirs = timm.create_model(TIMM[name]).eval()
    weights = {}
    for key, tensor in theirs.state_dict().items():
        drawn = KEYED["keyed_tensor"](key, list(tensor.shape))
        weights[key] = tensor if drawn is None else drawn
    theirs.load_state_dict(weights, strict=True)
    ours = zoo.create(name, weights=weights, source="timm").eval()
    assert error(answer(ours), answer(theirs)) <= 1e-5


@pytest.mark.parametrize("name", SMALLEST)
def test_output_equals_that_of_timm(name: str, timm: types.ModuleType) -> None:
    check_against_timm(name, timm)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TIMM if name not in SMALLEST])
def test_output_of_every_variant_equals_that_of_timm(name: str, timm: types.ModuleType) -> None:
    check_against_timm(name, timm)


def test_original_poolformer_head_normalises_the_map_before_pooling() -> None:
    changes = {"head.norm_first": True, "head.norm": {"block": "group_norm", "eps": 1e-5}}
    model = zoo.create("poolformer_s12", changes).eval()
    features = model.forward_features(KEYED["golden_input"](64))
    expected = model.head.classifier(nn.functional.group_norm(features, 1).mean((2, 3)))
    torch.testing.assert_close(answer(model, 64), expected)
