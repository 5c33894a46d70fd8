"""The published families against data that others computed: parameters, outputs, MACs and deploy forms."""

from __future__ import annotations

import types

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import zoo
from blocks.folding import fuse
from tests.models.parity import (
    GOLDEN,
    KEYED,
    answer,
    count,
    entries,
    error,
    gain,
    golden,
    loaded,
    one_of_each,
    timm_macs,
)
from zoo import catalog
from zoo.measure.macs import count_macs

GOLDENS = entries("golden")
TIMM = entries("timm")

# millions, train -> deploy form, measured on the upstream code; of l and xl what the paper prints, cut off
UNIREPLKNET = {
    "f": (6.489, 6.235), "p": (11.081, 10.742), "t": (31.693, 31.038), "s": (56.457, 55.646), "b": (99.089, 98.008),
}  # fmt: skip
PUBLISHED_DEPLOY = {"l": 218, "xl": 386}


def tolerance(stem: str) -> float:
    """How closely a golden can be met: loosely where the reference itself amplifies rounding."""
    return 1e-4 if golden(stem)["cond"] > 10 else 1e-5


def at_size(name: str, size: int | list[int]) -> nn.Module:
    """The model on meta, for pictures of the side, or sound of the length, that the golden's figures are of."""
    sound = isinstance(size, list) and len(size) == 2
    changes = {"input.size": size} if isinstance(size, int) else {"input.length": size[1]} if sound else {}
    return zoo.create(name, changes, device="meta")


@pytest.mark.parametrize("name", one_of_each("golden"))
def test_output_in_both_forms_parameters_and_macs_are_those_of_the_reference(name: str) -> None:
    stem = GOLDENS[name]
    data, model = golden(stem), loaded(name, stem)
    reference = load_file(str(GOLDEN / "vision" / f"{stem}.safetensors"))["output"]
    assert count(model) == data["params"]
    found = answer(model, data["size"])
    assert error(found, reference) <= tolerance(stem)
    assert error(answer(fuse(model), data["size"]), found) <= tolerance(stem)
    assert count_macs(at_size(name, data["size"])).total == data["macs_flopcounter"] + entries("uncounted").get(name, 0)


@pytest.mark.parametrize("name", [name for name in GOLDENS if "fused_params" in golden(GOLDENS[name])])
def test_deploy_form_is_as_small_as_the_reference(name: str) -> None:
    data, deployed = golden(GOLDENS[name]), fuse(loaded(name, GOLDENS[name]))
    params = data["fused_params"] - entries("deploy_saves").get(name, 0)
    assert (count(deployed), count_macs(deployed).total) == (params, data["fused_macs"])


def test_deploy_form_is_exact_in_float64_where_float32_amplifies_rounding() -> None:
    model = loaded("unireplknet_n", "unireplknet__n").double()
    x = KEYED["golden_input"](64).double()
    with torch.no_grad():
        assert error(fuse(model)(x), model(x)) <= 1e-12


def skip_unless_timm_has(name: str, timm: types.ModuleType) -> None:
    """The oldest timm that is allowed knows fewer families than the pinned one, with which all are compared."""
    if not timm.is_model(TIMM[name]):
        pytest.skip(f"timm {timm.__version__} has no {TIMM[name]}")


@pytest.mark.parametrize("name", one_of_each("timm"))
def test_parameters_and_macs_equal_those_of_timm(name: str, timm: types.ModuleType) -> None:
    skip_unless_timm_has(name, timm)
    try:
        with torch.device("meta"):
            theirs = timm.create_model(TIMM[name])
    except (NotImplementedError, RuntimeError):  # timm 1.0.20 reads drop rates out of tensors
        theirs = timm.create_model(TIMM[name]).to("meta")
    ours = zoo.create(name, device="meta")
    assert count(ours) == count(theirs)
    assert count_macs(ours).total == timm_macs(theirs, theirs.default_cfg["input_size"])


def test_parameters_and_macs_round_to_the_published_figures() -> None:
    """Those of the index, which `test_conformance` counts again."""
    for name, published in entries("published").items():
        entry = catalog.entry(name)
        macs = entry.macs - entries("uncounted").get(name, 0)
        assert [round(entry.params / 1e6, 3), round(macs / 1e9, 3)] == published, name


@pytest.mark.parametrize("size", UNIREPLKNET)
def test_unireplknet_has_the_parameters_of_the_upstream_code(size: str) -> None:
    model = zoo.create(f"unireplknet_{size}", device="meta")
    assert (round(count(model) / 1e6, 3), round(count(fuse(model)) / 1e6, 3)) == UNIREPLKNET[size]


@pytest.mark.parametrize("size", PUBLISHED_DEPLOY)
def test_large_unireplknet_has_the_parameters_that_the_paper_prints(size: str) -> None:
    deployed = fuse(zoo.create(f"unireplknet_{size}", device="meta"))
    assert count(deployed) // 10**6 == PUBLISHED_DEPLOY[size]


@pytest.mark.parametrize("size", ["s12", "s24", "s36", "m36", "m48"])
def test_a_mixer_without_parameters_changes_no_count(size: str) -> None:
    identity, pooling = (zoo.create(f"{family}_{size}", device="meta") for family in ("identityformer", "poolformerv2"))
    assert count(identity) == count(pooling)


def check_against_timm(name: str, timm: types.ModuleType) -> None:
    """Identical weights, written under timm's names, give the output of timm, in both forms."""
    theirs = timm.create_model(TIMM[name]).eval()
    weights = {}
    for key, tensor in theirs.state_dict().items():
        drawn = KEYED["keyed_tensor"](key, list(tensor.shape), gain(name))
        weights[key] = tensor if drawn is None else drawn
    theirs.load_state_dict(weights, strict=True)
    ours = zoo.create(name, weights=weights, source="timm")
    size = theirs.default_cfg["input_size"][-1]
    expected = answer(theirs, size, batch=1)
    difference = error(answer(ours, size, batch=1), expected)
    assert difference <= 1e-4
    assert error(answer(fuse(ours), size, batch=1), expected) <= 1e-4
    if difference > 1e-5:  # rounding, amplified by depth, or another function: float64 tells
        assert error(answer(ours.double(), size, batch=1), answer(theirs.double(), size, batch=1)) <= 1e-5


@pytest.mark.parametrize("name", one_of_each("timm"))
def test_output_equals_that_of_timm(name: str, timm: types.ModuleType) -> None:
    skip_unless_timm_has(name, timm)
    check_against_timm(name, timm)


def test_original_poolformer_head_normalises_the_map_before_pooling() -> None:
    changes = {"head.norm_first": True, "head.norm": {"block": "group_norm", "eps": 1e-5}}
    model = zoo.create("poolformer_s12", changes)
    features = model.forward_features(KEYED["golden_input"](64))
    expected = model.head.classifier(nn.functional.group_norm(features, 1).mean((2, 3)))
    torch.testing.assert_close(answer(model, 64), expected)
