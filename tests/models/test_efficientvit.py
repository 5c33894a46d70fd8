"""EfficientViT-M: upstream's own names, the deploy form without norms, and tables of biases that follow the window."""

from __future__ import annotations

import re
import types

import pytest
import torch
from torch import Tensor

import zoo
from blocks.primitives.norms import BatchNorm
from tests.models.parity import answer, error


def upstream_name(name: str) -> str:
    """timm's name of a tensor as upstream has it: stages count from 1, and the modules of a stage are numbered through."""
    name = re.sub(r"patch_embed\.conv(\d)", lambda m: f"patch_embed.{2 * int(m[1]) - 2}", name)
    name = re.sub(r"stages\.(\d)\.downsample\.", lambda m: f"blocks{int(m[1]) + 1}.", name)
    name = re.sub(
        r"(blocks\d)\.(res1|patchmerge|res2)", lambda m: f"{m[1]}.{['res1', 'patchmerge', 'res2'].index(m[2])}", name
    )
    name = re.sub(
        r"stages\.(\d)\.blocks\.(\d)", lambda m: f"blocks{int(m[1]) + 1}.{int(m[2]) + (3 if m[1] != '0' else 0)}", name
    )
    return re.sub(r"\.linear(\.\w+)$", r".l\1", re.sub(r"\.conv(\.\w+)$", r".c\1", name))


def lived_in(timm: types.ModuleType, name: str) -> dict[str, Tensor]:
    """A state dict of timm with no tensor at its first value."""
    generator = torch.Generator().manual_seed(0)
    state = timm.create_model(name).state_dict()
    return {
        key: 0.1 + 0.8 * torch.rand(value.shape, generator=generator) if value.ndim else value
        for key, value in state.items()
    }


def test_upstream_names_load_like_those_of_timm(timm: types.ModuleType) -> None:
    state = lived_in(timm, "efficientvit_m0")
    index = {"blocks1.0.mixer.m.attn.attention_bias_idxs": torch.zeros(49, 49, dtype=torch.long)}
    upstream = {upstream_name(key): value for key, value in state.items()} | index
    ours = zoo.create("efficientvit_m0", weights={"model": upstream}, source="official").state_dict()
    theirs = zoo.create("efficientvit_m0", weights=state, source="timm").state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_deploy_form_has_no_norm() -> None:
    deployed = zoo.create("efficientvit_m0", form="deploy")
    assert not [name for name, module in deployed.named_modules() if isinstance(module, BatchNorm)]


@pytest.mark.parametrize(("size", "sides"), [(224, {7, 4}), (112, {7, 4, 2}), (320, {7, 5})])
def test_the_table_of_biases_follows_the_window(size: int, sides: set[int]) -> None:
    model = zoo.create("efficientvit_m0", img_size=size, device="meta")
    tables = {parameter.shape[1] for name, parameter in model.named_parameters() if name.endswith("relative_bias")}
    assert tables == {side**2 for side in sides}


def test_other_sizes_equal_timm(timm: types.ModuleType) -> None:
    theirs = timm.create_model("efficientvit_m0", img_size=160).eval()
    ours = zoo.create("efficientvit_m0", img_size=160, weights=theirs.state_dict(), source="timm")
    assert error(answer(ours, 160), answer(theirs, 160)) <= 1e-5
