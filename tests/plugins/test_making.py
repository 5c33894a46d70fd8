"""`zoo new-plugin` and `zoo rename`: what they refuse, and what they carry over."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import torch

import zoo
from blocks.registry import registration as registry
from zoo.authoring.renaming import rename
from zoo.authoring.scaffold import new_plugin, template
from zoo.build.builder import build
from zoo.catalog.collection import Collection
from zoo.catalog.local_files import load_file
from zoo.catalog.published import specs_in
from zoo.errors import InputError
from zoo.measure.load import decoded
from zoo.measure.load_counter import load_of
from zoo.specs.read import read_file
from zoo.specs.resolve import resolve
from zoo.testing.isolation import own_registrations
from zoo.weights.load import read_tensors
from zoo.weights.manifest import read_manifest
from zoo.weights.operations import bit_equal


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with own_registrations():
        yield


def message(*call: object) -> str:
    with pytest.raises(InputError) as caught:
        call[0](*call[1:])  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [("Beta", "a namespace of lower-case letters"), ("core", "`core`, which cannot"), ("b-c", "found `b-c`")],
)
def test_a_namespace_that_cannot_be_is_refused(name: str, told: str) -> None:
    assert told in message(new_plugin, name)


def test_a_folder_that_is_there_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "beta-blocks").mkdir()
    assert "expected a folder that is not there yet" in message(new_plugin, "beta")


def test_a_file_that_raises_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text("raise RuntimeError('no')\n")
    assert "RuntimeError: no" in message(new_plugin, "beta", "", "mine.py")
    assert [path.name for path in tmp_path.iterdir() if "beta" in path.name] == []


def test_a_package_that_cannot_be_placed_is_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    assert "expected a place for a package; found " in message(new_plugin, "beta", "file/beta")


def test_a_block_whose_kind_has_no_slot_in_the_small_net_gets_a_package_without_models(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import blocks\nfrom torch import nn\n@blocks.block('mine', kind='pool')\nclass Mine(nn.Module):\n"
        "    def forward(self, x):\n        return x.mean((2, 3))\n"
    )
    made = new_plugin("beta", "", "mine.py")
    assert made.models == [] and made.note.startswith("no net was made: a block of kind pool")
    assert "zoo.models" not in (made.folder / "pyproject.toml").read_text()
    infos = json.loads((made.folder / "beta_blocks" / "blocks.json").read_text())
    assert [info["id"] for info in infos] == ["beta/mine@1"] and infos[0]["target"] == "beta_blocks.mine:Mine"


def renamed_template(tmp_path: pathlib.Path, change: str = "") -> pathlib.Path:
    """A copy of the template's models, and a block `beta/shift_mixer` beside acme's, its code changed by `change`."""
    models = tmp_path / "models"
    shutil.copytree(template() / "acme_blocks" / "models", models)
    source = (template() / "acme_blocks" / "shift_mixer.py").read_text()
    (tmp_path / "old.py").write_text(source)
    (tmp_path / "new.py").write_text(
        source.replace("acme/", "beta/").replace(*(change.split("->") if change else ("", "")))
    )
    load_file(tmp_path / "old.py")
    load_file(tmp_path / "new.py")
    return models


def test_weights_go_with_a_block_under_its_new_name(tmp_path: pathlib.Path) -> None:
    models = renamed_template(tmp_path)
    done = rename("acme/shift_mixer", "beta/shift_mixer@1", models)
    assert [(one.model, one.weights) for one in done] == [("shiftnet_nano", 1)]
    spec = resolve(read_file(models / "shiftnet.toml"), "shiftnet_nano")
    manifest = read_manifest(models / "weights" / "shiftnet_nano.digits.json")
    assert "beta/shift_mixer@1" in spec.blocks()
    assert manifest.digest == spec.digest == done[0].after != done[0].before
    model = zoo.create(spec, weights=Collection("", models, "").weights / "shiftnet_nano.digits.safetensors")
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_rows_of_this_machine_go_along(tmp_path: pathlib.Path) -> None:
    from tests.measure.rows import row
    from zoo.measure.store import Store

    models = renamed_template(tmp_path)
    before = resolve(read_file(models / "shiftnet.toml"), "shiftnet_nano").digest
    with Store() as store:
        store.add([row(digest=before)])
    done = rename("acme/shift_mixer", "beta/shift_mixer", models)
    with Store() as store:
        assert len(store.rows(shipped=False, digest=done[0].after)) == done[0].rows == 1


def test_rows_of_the_block_by_itself_that_ship_bear_its_new_name(tmp_path: pathlib.Path) -> None:
    from tests.measure.rows import block_row
    from zoo.measure.store import export_rows, read_rows

    models = renamed_template(tmp_path)
    rows = [block_row(block="acme/shift_mixer@1"), block_row()]
    export_rows([], [], models / "data" / "blocks.jsonl", rows)
    rename("acme/shift_mixer", "beta/shift_mixer", models)
    found = read_rows(models / "data" / "blocks.jsonl").blocks
    assert [(row.block, row.p50_ms) for row in found] == [("beta/shift_mixer@1", 1.02), ("core/mlp@1", 1.02)]
    assert not any(row.is_stale for row in found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("self.proj(y)->-self.proj(y)", "expected equal outputs under both names; found a relative difference of"),
        (
            "share: Annotated[float, Meta(gt=0, le=0.25)] = 1 / 12->share: Annotated[float, Meta(gt=0, le=0.25)] = 1 / 8",
            "the same parameters and defaults",
        ),
        ("self.proj = ->self.other = nn.Linear(dim, 1); self.proj = ", "the same names and shapes"),
    ],
)
def test_a_block_that_computes_something_else_takes_nothing_over(
    tmp_path: pathlib.Path, change: str, told: str
) -> None:
    models = renamed_template(tmp_path, change)
    before = (models / "shiftnet.toml").read_text()
    assert told in message(rename, "acme/shift_mixer", "beta/shift_mixer", models)
    assert (models / "shiftnet.toml").read_text() == before


def test_a_folder_without_the_block_says_so(tmp_path: pathlib.Path) -> None:
    models = renamed_template(tmp_path)
    rename("acme/shift_mixer", "beta/shift_mixer", models)
    assert "a model with `acme/shift_mixer@1`" in message(rename, "acme/shift_mixer", "beta/shift_mixer", models)
    assert "a folder with zoo.json, or with the families of a plugin" in message(
        rename, "acme/shift_mixer", "beta/shift_mixer", tmp_path / "data"
    )


def test_registrations_of_making_a_plugin_do_not_stay() -> None:
    new_plugin("beta")
    assert not [identity for identity in registry._loaded if identity.startswith(("beta/", "acme/"))]


def saved_with_shift(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder that `zoo.save` wrote of a model with `acme/shift_mixer`."""
    models = renamed_template(tmp_path)
    spec = resolve(read_file(models / "shiftnet.toml"), "shiftnet_nano")
    torch.manual_seed(0)
    zoo.save(zoo.create(spec), tmp_path / "mine")
    return tmp_path / "mine"


def test_a_saved_folder_is_renamed_inside_its_weights_too(tmp_path: pathlib.Path) -> None:
    folder = saved_with_shift(tmp_path)
    weights = folder / "model.safetensors"
    before, x = read_tensors(weights), torch.zeros(1, 1, 32, 32)
    expected = zoo.create(folder)(x)
    (done,) = rename("acme/shift_mixer", "beta/shift_mixer", folder)
    assert {name: bit_equal(tensor, before[name]) for name, tensor in read_tensors(weights).items()} == dict.fromkeys(
        before, True
    )
    for path in (folder, weights, shutil.copy(weights, tmp_path / "alone.safetensors")):
        model = zoo.create(path)
        assert model.digest == done.after and "acme/shift_mixer@1" not in model.spec.blocks()
        assert torch.equal(model(x), expected)
    assert b"acme/shift_mixer" not in weights.read_bytes() + (folder / "zoo.json").read_bytes()


def test_an_index_writes_the_loads_that_predictions_are_made_of(tmp_path: pathlib.Path) -> None:
    new_plugin("beta")
    package = tmp_path / "beta-blocks" / "beta_blocks"
    shipped = decoded((package / "models" / "data" / "loads.json").read_bytes())
    load_file(package / "shift_mixer.py")
    (spec,) = [spec for _, spec in specs_in(Collection("", package / "models", ""))]
    assert shipped == {"shiftnet_nano": {form: load_of(build(spec), form) for form in ("train", "deploy")}}
