"""What timm has under other names is answered with the way that there is here."""

from __future__ import annotations

import inspect
import pathlib
import re
import warnings
from typing import Any

import pytest
import torch

import zoo
import zoo.data
from zoo._elsewhere import ARGUMENTS, NAMES
from zoo.cli import main
from zoo.errors import InputError, WeightsError
from zoo.weights.convert import KeyRules


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_of_timm_s_says_where_it_is_here(name: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(f"`zoo` has no attribute `{name}`; next: {NAMES[name]}")):
        getattr(zoo, name)


def test_names_of_timm_data_say_where_they_are() -> None:
    with pytest.raises(
        AttributeError, match=r"`zoo.data` has no attribute `create_transform`; next: `zoo.transform\(model\)`"
    ):
        _ = zoo.data.create_transform
    with pytest.raises(AttributeError, match=r"next: timm's own works with these models: `from timm.data import ...`"):
        _ = zoo.data.Mixup
    with pytest.raises(AttributeError, match="no attribute `lst_models`; nearest `list_models`"):
        _ = zoo.lst_models


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_an_argument_of_timm_s_is_answered(name: str) -> None:
    assert name not in inspect.signature(zoo.create).parameters
    with pytest.raises(InputError, match=re.escape(f"found `{name}`; next: {ARGUMENTS[name]}")):
        zoo.create("resnet_nano", device="meta", **{name: None})


def test_the_ways_that_are_named_can_be_gone() -> None:
    zoo.create("resnet_nano", swap={"act": "silu"}, device="meta")
    zoo.create(
        "vit_tiny_patch16_224",
        {"dims": [384], "depths": [2]},
        swap={"norm": "layer_norm"},
        dynamic_size=True,
        device="meta",
    )


@pytest.mark.parametrize(
    "form", ["hf-hub:timm/resnet50.a1_in1k", "hf_hub:timm/resnet50.a1_in1k@main", "local-dir:/a/resnet50.a1_in1k"]
)
def test_a_repository_of_timm_s_is_named_as_its_weights_are_here(form: str) -> None:
    with pytest.raises(InputError, match=r'next: `zoo.create\("resnet50.a1_in1k"\)`'):
        zoo.create(form)
    with pytest.raises(InputError, match=r'zoo.create\(NAME, weights=FILE, source="timm"\)'):
        zoo.create(form.replace("resnet50", "other"))


@pytest.fixture(scope="module")
def timm_names() -> dict[str, Any]:
    """The tensors of a ViT under timm's names."""
    net: Any = zoo.create("vit_tiny_patch16_224", {"depths": [1]}, img_size=32)
    rules = KeyRules.from_data(net.spec.keys["timm"], "keys.timm")
    return rules.to_source(net.state_dict())


@pytest.mark.parametrize(
    "around",
    [lambda names: names, lambda names: {"state_dict": {f"module.{key}": value for key, value in names.items()}}],
)
@pytest.mark.parametrize("classes", [1000, 5])
def test_names_of_another_library_are_told_at_once(timm_names: dict[str, Any], around: Any, classes: int) -> None:
    with pytest.raises(WeightsError) as refusal:
        zoo.create(
            "vit_tiny_patch16_224", {"depths": [1]}, img_size=32, num_classes=classes, weights=around(timm_names)
        )
    assert len(refusal.value.problems) == 1
    assert "expected names of the library that is asked for, `zoo`; found those of" in str(refusal.value)
    assert 'source="timm"' in str(refusal.value)


def test_our_names_under_another_source_are_told(timm_names: dict[str, Any]) -> None:
    net = zoo.create("vit_tiny_patch16_224", {"depths": [1]}, img_size=32)
    with pytest.raises(WeightsError, match='found those of `?zoo`?; next: pass source="zoo"'):
        zoo.load(net, dict(net.state_dict()), source="timm")
    loaded = zoo.load(net, timm_names, source="timm")
    with pytest.raises(WeightsError, match="stages.0.layers.0.0.1.qkv.weight"):  # its own names, and one is missing
        zoo.load(loaded, {key: value for key, value in net.state_dict().items() if "qkv.weight" not in key})


def test_a_warning_names_the_line_of_the_user(tmp_path: pathlib.Path) -> None:
    zoo.save(zoo.create("vit_tiny_patch16_224", {"depths": [1]}, img_size=32), tmp_path / "a.safetensors")
    for ask in (
        lambda: zoo.create("vit_tiny_patch16_224", {"depths": [1]}, img_size=48, weights=tmp_path / "a.safetensors"),
        lambda: zoo.load(zoo.create("vit_tiny_patch16_224", {"depths": [1]}, img_size=48), tmp_path / "a.safetensors"),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask()
        assert [warning.filename for warning in caught if "img_size" in str(warning.message)] == [__file__]


def test_several_families_are_listed_together() -> None:
    both = zoo.list_models(module=["resnet", "starnet"])
    assert set(both) == {*zoo.list_models(module="resnet"), *zoo.list_models(family="starnet")}
    assert len(both) > len(zoo.list_models(module="resnet")) > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            ["blocks", "--with", "my.py"],
            "zoo blocks: `--with FILE` stands before the command: `zoo --with FILE blocks ...`",
        ),
        (["compare", "a", "b", "--swap", "x=y"], "zoo compare: no option `--swap`; `zoo "),
        (["bench", "a", "--thread", "1", "--dtpye", "b"], "zoo bench: no option `--dtpye`; nearest `--dtype`"),
        (["info", "a", "b"], "zoo info: unrecognized arguments: b; `zoo info --help` lists what it takes"),
    ],
)
def test_an_option_of_another_command_is_told_where_it_belongs(line: list[str], said: str, capsys: Any) -> None:
    assert main(line) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert torch.__name__ not in shown
    if "--swap" in line:
        assert "`zoo create`" in shown and "take it" in shown
