"""A saved model is made again from its file or folder alone: weights, spec, pre-processing, names of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import zoo
from zoo import cli
from zoo.errors import InputError, ProblemsError, SpecError, WeightsError
from zoo.weights.header import read_header

NAME = "starnet_nano"
CHANGES = {"num_classes": 3, "in_chans": 3, "img_size": 64}
CLASSES = ["left", "right", "straight on"]
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.create(NAME, pretrained=True, **CHANGES)


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "mine.safetensors"
    zoo.save(model, path, labels=CLASSES)
    return path


def answer(model: Any, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model(x)


def plain(path: Path, model: nn.Module) -> Path:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def test_a_file_alone_makes_the_model_again(model: Any, file: Path) -> None:
    again = zoo.create(file)
    assert torch.equal(answer(again), answer(model)) and again.spec == model.spec
    assert zoo.transform(again).preprocess == zoo.transform(model).preprocess == zoo.transform(file).preprocess
    assert zoo.labels(again) == zoo.labels(file) == CLASSES


def test_a_folder_alone_makes_the_model_again(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zoo.save(model, "mine", labels=CLASSES)
    assert sorted(path.name for path in Path("mine").iterdir()) == ["README.md", "model.safetensors", "zoo.json"]
    for name in ("mine", "./mine", Path("mine"), tmp_path / "mine"):
        again = zoo.create(name)
        assert torch.equal(answer(again), answer(model)) and zoo.labels(again) == CLASSES


def test_a_folder_with_other_weights_is_refused(model: Any, tmp_path: Path) -> None:
    zoo.save(model, tmp_path / "mine")
    weights = tmp_path / "mine" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(WeightsError, match="the bytes are not those of the manifest; nothing was loaded"):
        zoo.create(tmp_path / "mine")


def test_weights_bring_their_preparation_and_classes_to_a_named_model(model: Any, file: Path) -> None:
    again = zoo.create(NAME, weights=file, **CHANGES)
    assert zoo.transform(again).preprocess == zoo.transform(model).preprocess and zoo.labels(again) == CLASSES
    loaded = zoo.load(zoo.create(NAME, **CHANGES), file)
    assert zoo.transform(loaded).preprocess == zoo.transform(model).preprocess


def test_weights_of_another_request_say_in_what_they_differ(file: Path) -> None:
    with pytest.raises(WeightsError) as error:
        zoo.create(NAME, weights=file)
    assert [problem.where for problem in error.value.problems] == ["num_classes", "in_chans", "img_size"]
    assert f"expected 10, as asked; found 3 in {file}; next: pass num_classes=3" in str(error.value)
    with pytest.warns(UserWarning, match="img_size: expected 32, as asked; found 64 in .*; next: pass img_size=64"):
        zoo.create(NAME, weights=file, num_classes=3, in_chans=3)


def test_the_same_model_gives_the_same_bytes(model: Any, file: Path, tmp_path: Path) -> None:
    """Metadata has an order: safetensors writes it in another one at each call."""
    for i in range(4):
        zoo.save(model, tmp_path / f"{i}.safetensors", labels=CLASSES)
        assert (tmp_path / f"{i}.safetensors").read_bytes() == file.read_bytes()


def test_a_deploy_form_comes_back_as_one(model: Any, tmp_path: Path) -> None:
    deployed = zoo.deploy(model)
    zoo.save(deployed, tmp_path / "fast.safetensors")
    assert torch.equal(answer(zoo.create(tmp_path / "fast.safetensors")), answer(deployed))
    with pytest.raises(
        InputError, match="saved in its deploy form, whose layers are folded; next: save the train form"
    ):
        zoo.create(tmp_path / "fast.safetensors", num_classes=5)
    with pytest.raises(WeightsError, match="expected weights of the train form; found those of the deploy form"):
        zoo.create(NAME, weights=tmp_path / "fast.safetensors", **CHANGES)


def test_feature_maps_and_headless_models_come_back_as_such(tmp_path: Path) -> None:
    maps = zoo.create(NAME, features_only=True, out_indices=(0, 2), **CHANGES)
    zoo.save(maps, tmp_path / "maps.safetensors")
    assert all(map(torch.equal, answer(zoo.create(tmp_path / "maps.safetensors")), answer(maps)))
    headless = zoo.create(NAME, global_pool="", **CHANGES)
    zoo.save(headless, tmp_path / "headless.safetensors")
    assert torch.equal(answer(zoo.create(tmp_path / "headless.safetensors")), answer(headless))


def test_swaps_and_dtypes_come_back(tmp_path: Path) -> None:
    model = zoo.create(NAME, swap={"act": "relu"}, dtype=torch.bfloat16)
    zoo.save(model, tmp_path / "half.safetensors")
    again = zoo.create(tmp_path / "half.safetensors")
    assert again.digest == model.digest and next(again.parameters()).dtype is torch.bfloat16


def test_a_saved_model_is_changed_like_any_other(file: Path) -> None:
    changed = zoo.create(file, num_classes=5)
    assert answer(changed).shape == (2, 5) and changed.adapt_report.names("new")
    with pytest.raises(InputError, match="found a model of 5 classes without weights that name them"):
        zoo.labels(changed)


def test_metrics_stay_with_the_weights_that_they_were_measured_with(tmp_path: Path) -> None:
    model = zoo.create(NAME, pretrained=True)
    zoo.save(model, tmp_path / "same.safetensors")
    assert zoo.create(tmp_path / "same.safetensors").pretrained.metrics == model.pretrained.metrics != {}
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    zoo.save(model, tmp_path / "other.safetensors")
    swapped = zoo.create(NAME, pretrained=True, swap={"act": "gelu"})
    zoo.save(swapped, tmp_path / "swapped.safetensors")
    assert zoo.create(tmp_path / "swapped.safetensors").pretrained.metrics == {}
    assert zoo.create(tmp_path / "other.safetensors").pretrained.metrics == {}


def test_wrappers_of_training_are_taken_off(model: Any, tmp_path: Path) -> None:
    for wrapped in (torch.optim.swa_utils.AveragedModel(model), torch.compile(nn.DataParallel(model))):
        zoo.save(wrapped, tmp_path / "wrapped.safetensors")
        assert torch.equal(answer(zoo.create(tmp_path / "wrapped.safetensors")), answer(model))


def test_a_module_without_a_spec_is_written_as_tensors_alone(tmp_path: Path) -> None:
    zoo.save(nn.Linear(2, 3), tmp_path / "linear.safetensors")
    assert set(read_header(tmp_path / "linear.safetensors").tensors) == {"weight", "bias"}
    with pytest.raises(InputError, match="expected a model that is what its spec says; found a Linear without a spec"):
        zoo.save(nn.Linear(2, 3), tmp_path / "linear.safetensors", labels=["a", "b", "c"])


def test_a_model_changed_by_hand_is_written_with_a_warning(tmp_path: Path) -> None:
    model = zoo.create(NAME)
    model.extra = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="holds tensors alone: .*; found one that was pruned or changed by hand"):
        zoo.save(model, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="expected a model that is what its spec says"):
        zoo.save(model, tmp_path / "odd")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a"], "expected 3 names, one for each class in the order of the logits; found 1"),
        ("abc", "expected a list of names: .*; found `abc`, of type str"),
        ({"a": 0, "b": 1, "c": 2}, "expected a list of names: .*, of type dict"),
        ({"a", "b", "c"}, "expected a list of names: .*, of type set"),
        ([0, 1, 2], "found values that are no strings"),
        (["a", "b", "\x1b[31m"], r"expected printable names of at most 500 letters; found '.x1b.31m'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model: Any, tmp_path: Path, labels: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        zoo.save(model, tmp_path / "none.safetensors", labels=labels)
    assert not (tmp_path / "none.safetensors").exists()


def test_a_file_of_another_ending_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file that ends in .safetensors, or a folder; found `.pth`"):
        zoo.save(model, tmp_path / "mine.pth")


def test_weights_without_a_spec_say_what_is_missing(model: Any, tmp_path: Path) -> None:
    path = plain(tmp_path / "plain.safetensors", model)
    with pytest.raises(
        SpecError, match=r"expected a spec in its metadata.*found tensors alone; next: zoo.create.NAME, weights="
    ):
        zoo.create(path)
    assert torch.equal(answer(zoo.create(NAME, weights=path, **CHANGES)), answer(model))


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("a.pth", b"", "a checkpoint of torch.save"), ("weights", b"PK\x03\x04", "a checkpoint of torch.save"),
        ("a.onnx", b"", "an exported program"), ("a.png", b"", "a picture"), ("photo", b"\xff\xd8\xff\xe0", "a picture"),
        ("a.gguf", b"", "weights of another library"), ("a.py", b"", "Python code"), ("w", b"\x10" + 7 * b"\0" + b"{", "weights alone"),
        ("a.safetensors.index.json", b"{}", "the index of several files of weights"),
    ],
)  # fmt: skip
def test_other_files_are_named_with_the_next_step(tmp_path: Path, name: str, data: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SpecError, match=f"found {found}; next: ") as error:
        zoo.create(tmp_path / name)
    assert "UTF-8" not in str(error.value)
    with pytest.raises(SpecError, match=f"found {found}"):
        zoo.spec(str(tmp_path / name))


def tampered(file: Path, target: Path, change: Any) -> Path:
    """The file with other metadata."""
    record = json.loads(read_header(file).metadata["zoo.json"])
    text = change(record)
    text = text if isinstance(text, str) else json.dumps(record)
    safetensors.torch.save_file(safetensors.torch.load_file(file), target, metadata={"zoo.json": text})
    return target


HOSTILE = {
    "no JSON": (lambda record: "{", "zoo.json"),
    "a list": (lambda record: "[]", "zoo.json: schema"),
    "a newer schema": (lambda record: record.update(schema="zoo.json/2"), "a newer blockzoo wrote this"),
    "an unknown key": (lambda record: record.update(run="rm"), "an unknown key"),
    "a key twice": (lambda record: '{"schema": "zoo.json/1", "schema": "zoo.json/1"}', "twice"),
    "NaN": (lambda record: '{"schema": NaN}', "NaN"),
    "nesting": (lambda record: "[" * 100_000, "levels of nesting"),
    "too much": (lambda record: json.dumps({"schema": "x" * 2_000_000}), "at most 1,000,000 bytes"),
    "another file": (lambda record: record["manifest"].update(source="file:/etc/passwd"), "file:model.safetensors"),
    "a hash": (lambda record: record["manifest"].update(sha256="0" * 64), "without a hash"),
    "another spec": (lambda record: record["spec"]["spec"].update(num_classes=4), "that of the spec beside it"),
    "an escape": (lambda record: record["manifest"].update(labels=["a", "b", "\x1b[2J"]), "printable names"),
    "an odd form": (lambda record: record.update(made={"form": "fast"}), "how the module was made of its spec"),
    "levels of nothing": (lambda record: record.update(made={"out_indices": []}), "no level"),
    "a level that is not there": (lambda record: record.update(made={"out_indices": [99]}), "99"),
    "a crop of nothing": (lambda record: record["manifest"]["preprocess"].update(crop=0), "preprocess.crop"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_metadata_is_refused(file: Path, tmp_path: Path, case: str) -> None:
    change, sentence = HOSTILE[case]
    path = tampered(file, tmp_path / "hostile.safetensors", change)
    with pytest.raises(ProblemsError, match=sentence):
        zoo.create(path)


def test_a_locked_process_loads_only_saved_files_that_the_lock_names(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.lock(NAME, tmp_path / "zoo.lock")
    monkeypatch.setenv("ZOO_LOCKED", "1")
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    for request in (lambda: zoo.create(file), lambda: zoo.create(NAME, weights=file, **CHANGES)):
        with pytest.raises(WeightsError, match="because ZOO_LOCKED is set"):
            request()


def test_every_command_takes_a_saved_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGB", (70, 90), "orange").save(tmp_path / "picture.png")
    assert cli.main(["predict", str(file), str(tmp_path / "picture.png")]) == 0
    assert any(label in capsys.readouterr().out for label in CLASSES)
    assert cli.main(["info", str(file)]) == 0
    assert "straight on" in capsys.readouterr().out
    assert cli.main(["profile", str(file)]) == 0
    assert cli.main(["export", str(file), str(tmp_path / "net.py")]) == 0
    assert cli.main(["create", str(file), "--form", "deploy", "--out", str(tmp_path / "fast.safetensors")]) == 0
    assert cli.main(["push", str(file), str(tmp_path / "pushed")]) == 0
    assert zoo.labels(tmp_path / "pushed") == CLASSES
    assert cli.main(["info", "mine.safetensors"]) == 2
    assert "UTF-8" not in capsys.readouterr().err
