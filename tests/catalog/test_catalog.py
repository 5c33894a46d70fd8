"""Listing models by name, weights and family, and the types that a checker sees."""

from __future__ import annotations

import ast
import pathlib

import pytest

import zoo
from zoo import catalog
from zoo.errors import UnknownModelError


def test_a_pattern_sees_models_under_their_names_and_those_of_their_weights() -> None:
    assert zoo.list_models("vim_nano") == zoo.list_models("vim_nano.digits") == ["vim_nano"]
    assert zoo.list_models("vim_nan") == []
    assert zoo.list_models(filter="*.digits") == zoo.list_models(pretrained=True, task="image-classification")
    tagged = {name for tag in ("digits", "pydoc", "scenes") for name in zoo.list_pretrained(f"*.{tag}")}
    assert tagged == set(zoo.list_pretrained())
    assert zoo.list_pretrained("vim_*") == ["vim_nano.digits"]


def test_patterns_add_up_and_unwanted_ones_take_away() -> None:
    names = zoo.list_models(["vim_nan*", "starnet_s[12]"], exclude_filters="*_s2")
    assert names == ["starnet_s1", "vim_nano"]
    assert "vim_nano" not in zoo.list_models(exclude_filters=["*.digits"])
    assert zoo.list_pretrained(exclude_filters=["*.digits", "*.pydoc", "*.scenes"]) == []


def test_names_are_in_the_order_of_their_numbers() -> None:
    assert zoo.list_models("transnext_*") == [
        f"transnext_{size}" for size in ("base", "micro", "nano", "small", "tiny")
    ]
    order = zoo.list_models("starnet_s*")
    assert order.index("starnet_s4") < order.index("starnet_s100")


def test_a_name_may_carry_a_tag_and_weights_may_be_asked_for_alone() -> None:
    assert zoo.is_model("vim_nano.digits") and not zoo.is_model("vim_nan")
    tagged = zoo.list_models("*_nano", pretrained=True, include_tags=True)
    assert set(tagged) <= set(zoo.list_pretrained()) and all(catalog.entry(name) for name in tagged)


def test_checkers_see_every_name_of_the_front_door() -> None:
    stub = ast.parse(pathlib.Path(zoo.__file__).with_suffix(".pyi").read_text())
    names = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {target.id for node in stub.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
    assert set(zoo.__all__) <= names


def test_a_folder_where_a_name_is_asked_for_is_told_as_a_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swapped" / "net_nano").mkdir(parents=True)
    with pytest.raises(
        UnknownModelError, match=r"`swapped/net_nano` is a folder without zoo.json, which `zoo.save` writes"
    ):
        zoo.create("swapped/net_nano")
    (tmp_path / "swapped" / "net_nano" / "zoo.json").write_text("{}")
    with pytest.raises(
        UnknownModelError, match=r"is a folder that `zoo.save` wrote, and here a name of the catalogue is asked for"
    ):
        catalog.entry("swapped/net_nano")
    with pytest.raises(UnknownModelError, match=r"`others/` models come from a plugin package that is not installed"):
        catalog.entry("others/net_nano")
