"""What the collection lists of published weights is sound, names places that exist elsewhere too, and promises no byte."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

import zoo
from tests.models.conftest import timm as timm
from zoo import catalog, cli
from zoo.catalog import manifests as collection
from zoo.catalog.collection import Collection
from zoo.errors import WeightsError
from zoo.weights.manifest import Manifest

LISTED = [f"{model}.{tag}" for model, entry in catalog.entries().items() for tag in entry.listed]


def test_listed_weights_belong_to_a_spec_and_to_its_key_rules() -> None:
    names = {entry.file: entry.name for entry in catalog.entries().values() if entry.listed}
    keys = {file: zoo.spec(name).keys for file, name in names.items()}
    for name in LISTED:
        manifest, entry = collection.published(name), catalog.entry(catalog.split_tag(name)[0])
        assert (manifest.state, manifest.digest, manifest.sha256) == ("listed", entry.digest, ""), name
        assert manifest.key_rules in keys[entry.file], name
        assert len(manifest.sha256_prefix) in (0, 8), name


def test_a_hash_is_only_a_prefix_that_its_publisher_prints() -> None:
    known = {name: collection.published(name) for name in LISTED}
    printed = {name: one.sha256_prefix for name, one in known.items() if one.sha256_prefix}
    own = {"unireplknet_p.in1k": "36363a5d", "unireplknet_b.in22k_to_in1k_384": "cb37d591"}
    assert {name: prefix for name, prefix in printed.items() if prefix not in known[name].source} == own


def test_place_and_pre_processing_are_those_that_timm_tells(timm: types.ModuleType) -> None:
    for name in LISTED:
        manifest = collection.published(name)
        if not manifest.source.startswith("hub:timm/"):
            continue
        told = timm.models.get_pretrained_cfg(manifest.source.split("/")[1])
        prepared = manifest.preprocess
        assert manifest.source == f"hub:{told.hf_hub_id}/model.safetensors", name
        assert manifest.licence.lower().replace("seer license", "seer-license") == told.license, name
        assert told.num_classes == 1000, name
        assert (prepared.channels, prepared.size, prepared.size) == told.input_size, name
        assert (prepared.crop, prepared.interpolation) == (told.crop_pct, told.interpolation), name
        assert (prepared.mean, prepared.std) == (told.mean, told.std), name


def test_weights_that_forbid_commercial_use_say_so() -> None:
    classes = {name: collection.published(name).licence_class for name in LISTED}
    forbidden = {name.partition("_")[0] for name, kind in classes.items() if kind == "noncommercial"}
    assert forbidden == {"convnextv2", "idisc", "mambavision", "regnety"}
    assert {name.partition("_")[0] for name, kind in classes.items() if kind == "unknown"} == {
        "mobileone",
        "falcon",
        "deepseek",
        "lfm2",
        "regnety",
        "slab",
    }


def test_fields_are_shared_by_file_and_by_tag(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'licence = "MIT"\norigin = "all"\n[up]\norigin = "of the tag"\n[up.models]\na = { source = "s" }\nb = { origin = "own" }'
    )
    shared = {"licence": "MIT", "origin": "of the tag"}
    assert collection.tables(tmp_path / "x.toml") == {
        ("a", "up"): shared | {"source": "s"},
        ("b", "up"): shared | {"origin": "own"},
    }
    assert collection.tables(tmp_path / "none.toml") == {}


def test_an_entry_that_is_no_manifest_is_named_by_its_place(tmp_path: Path) -> None:
    home = Collection("", tmp_path, "a test")
    home.weights.mkdir()
    (home.weights / "x.toml").write_text(
        '[up.models]\nvim_nano = { source = "ftp://x", licence = "MIT", licence_class = "permissive" }'
    )
    with pytest.raises(WeightsError, match=r"x\.toml: up\.models\.vim_nano: 1 error\n  origin\n    expected a value"):
        collection._published(home, "x.toml")


def best(name: str) -> list[Manifest]:
    return collection.manifests(name)


def test_shipped_weights_come_before_listed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert [one.state for one in best("vim_nano")] == ["embedded"]
    assert [one.name for one in best("starnet_s1")] == ["starnet_s1.in1k"]
    assert "starnet_s1" not in zoo.list_models(pretrained=True)
    assert "starnet_s1.in1k" in zoo.list_models(include_tags=True)


def test_the_state_of_weights_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "starnet_s1"]) == 0 and "(in1k)" in capsys.readouterr().out
    assert cli.main(["info", "starnet_s1"]) == 0
    shown = "weights starnet_s1.in1k: listed, Apache-2.0 (permissive), imagenet-1k/top1@224 73.53%, `zoo pin starnet_s1.in1k`"
    assert shown in capsys.readouterr().out
    assert cli.main(["info", "starnet_s1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"][0]["source"] == "hub:timm/starnet_s1.in1k/model.safetensors"
    assert cli.main(["list", "--listed", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == {name.partition(".")[0] for name in LISTED}
