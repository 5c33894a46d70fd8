"""`zoo.deploy` from end to end in torch alone, and what it refuses."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.runtimes import choices, deploy
from zoo.runtimes.deployed import Deployed

X = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
SHORT: dict[str, Any] = {"minutes": 0.1, "threads": 1}


@pytest.fixture(autouse=True)
def _data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))


@pytest.fixture
def model() -> zoo.Backbone:
    return zoo.create("starnet_nano", pretrained=True)


def test_without_arguments_it_is_the_deploy_form_of_torch(model: zoo.Backbone) -> None:
    from zoo.build.deploy import deploy as plain

    fast = zoo.deploy(model)
    assert isinstance(fast, torch.nn.Module) and torch.equal(fast(X), plain(model)(X))


def test_a_runtime_that_is_named_is_used_and_checked(model: zoo.Backbone) -> None:
    fast = zoo.deploy(model, "torch", threads=1)
    assert isinstance(fast, Deployed) and (fast.runtime, fast.precision, fast.threads) == ("torch", "float32", 1)
    torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-4)
    (row,) = fast.report()
    assert row.outcome == "chosen" and row.error < 1e-4 and row.size_bytes > 0
    assert fast.report().summary == "starnet_nano runs in torch, float32"


def test_the_model_stays_as_it_is(model: zoo.Backbone) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    zoo.deploy(model, "torch", threads=1)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_choice_is_made_remembered_and_answered_at_once(
    model: zoo.Backbone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    assert capsys.readouterr().err.strip() == first.report().summary
    assert {row.runtime for row in first.report()} == {"torch", "onnxruntime"}
    assert all(row.p50_ms is not None for row in first.report())

    def judge(*_: Any) -> None:
        raise AssertionError("it was checked again")

    monkeypatch.setattr(deploy, "Judge", judge)
    second = zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    assert second.report().plain() == first.report().plain() and second.runtime == first.runtime
    assert torch.equal(second(X), first(X))
    with pytest.raises(AssertionError, match="checked again"):
        zoo.deploy(model, ["torch", "onnxruntime"], "float32", again=True, **SHORT)


def test_other_weights_are_checked_again_and_not_timed_again(
    model: zoo.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)

    def race(*_: Any) -> None:
        raise AssertionError("it was timed again")

    monkeypatch.setattr("zoo.runtimes.choosing.Race", race)
    second = zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    torch.testing.assert_close(second(X), model(X), rtol=1e-4, atol=1e-4)
    chosen, before = second.report().chosen, first.report().chosen
    assert chosen.runtime == before.runtime and chosen.p50_ms == before.p50_ms and chosen.error != before.error
    assert all(row.error is None for row in second.report() if row.outcome != "chosen")


def test_a_choice_that_fails_its_checks_on_other_weights_is_made_anew(
    model: zoo.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    made = deploy.deployed_in
    tries: list[str] = []

    def sometimes(runtime: Any, *arguments: Any) -> Any:
        tries.append(runtime.name)
        if len(tries) == 1:
            raise zoo.InputError("deploy", zoo.errors.Problem("", "a net that it can run", "another"))
        return made(runtime, *arguments)

    monkeypatch.setattr(deploy, "deployed_in", sometimes)
    fast = zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    assert sorted(tries[1:]) == ["onnxruntime", "torch"] and fast.report().chosen.p50_ms is not None


def test_every_wish_has_its_own_choice(model: zoo.Backbone) -> None:
    zoo.deploy(model, ["torch", "onnxruntime"], "float32", **SHORT)
    zoo.deploy(model, ["torch", "onnxruntime"], "float32", example=(4, 1, 32, 32), **SHORT)
    assert len(list(choices.folder().iterdir())) == 2


def test_create_hands_out_the_deployed_form() -> None:
    fast: Any = zoo.create("starnet_nano", pretrained=True, form="deploy", runtime="torch")
    assert isinstance(fast, Deployed)
    torch.testing.assert_close(fast(X), zoo.create("starnet_nano", pretrained=True)(X), rtol=1e-4, atol=1e-4)


def test_a_saved_deploy_form_is_deployed_as_well(tmp_path: pathlib.Path, model: zoo.Backbone) -> None:
    zoo.save(zoo.deploy(model), tmp_path / "fast.safetensors")
    fast: Any = zoo.create(str(tmp_path / "fast.safetensors"), form="deploy", runtime="torch")
    torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-4)


def test_a_train_form_has_no_runtime() -> None:
    with pytest.raises(
        zoo.InputError, match='expected `deploy` where a runtime is named; found `train`; next: add form="deploy"'
    ):
        zoo.create("starnet_nano", runtime="auto")


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (
            {"runtime": "nonsense"},
            "expected `auto`, `torch`, `compile`, `aot`, `onnxruntime` or `openvino`; found `nonsense`",
        ),
        ({"runtime": 7}, "expected `auto`, .*; found `7`"),
        ({"runtime": "openvno"}, "found `openvno`; nearest `openvino`"),
        ({"runtime": []}, "expected .*; found none"),
        ({"precision": "int4"}, "found `int4`; nearest `int8`"),
    ],
)
def test_a_runtime_that_there_is_not_is_refused_before_a_model_is_looked_for(
    wish: dict[str, Any], sentence: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.factory.find_source", lambda _: pytest.fail("the model was looked for"))
    with pytest.raises(zoo.InputError, match=sentence):
        zoo.create("starnet_nano", pretrained=True, form=form, **wish)


def test_the_command_refuses_a_runtime_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoo.factory.create", lambda *_, **__: pytest.fail("the model was made"))
    assert main(["deploy", "starnet_nano", "--runtime", "openvno"]) == 2
    assert "nearest `openvino`" in capsys.readouterr().err


def test_maps_and_language_models_are_deployed_with_their_own_signature() -> None:
    maps = zoo.create("starnet_nano", features_only=True)
    deployed = zoo.deploy(maps, "torch", threads=1)(X)
    assert isinstance(deployed, list) and len(deployed) == len(maps(X))
    language = zoo.create("mamba_nano")
    ids = torch.randint(256, (1, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        zoo.deploy(language, "torch", threads=1)(ids).logits, language(ids).logits, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_outputs_by_name_come_by_name(runtime: str, tmp_path: pathlib.Path) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    model: Any = zoo.create("retinanet_nano")
    fast = zoo.deploy(model, runtime, threads=1)
    wanted = model(X)
    assert list(fast(X)) == list(wanted)
    for name, y in zoo.load_deployed(fast.save(tmp_path / "served"))(X).items():
        torch.testing.assert_close(y, wanted[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "onnxrt"}, "found `onnxrt`; nearest `onnxruntime`"),
        ({"precision": "half"}, "expected `auto`, `float32`, `bfloat16`, `float16` or `int8`; found `half`"),
        ({"minutes": 0}, "minutes expected a number above 0; found 0"),
        ({"max_loss": 50}, "max_loss expected a share in [0, 1], as 0.005 for half a point; found 50"),
        ({"threads": 0}, "threads"),
        ({"runtime": "torch", "dynamic": "all"}, "found `all`"),
        ({"runtime": "torch", "example": (1, 3, 32, 32)}, "expected a shape (B, 1, H, W)"),
    ],
)
def test_arguments_that_are_none_are_refused(model: zoo.Backbone, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(zoo.InputError) as caught:
        zoo.deploy(model, **arguments)
    assert message in " ".join(str(caught.value).split())


def test_a_model_that_is_no_train_form_is_refused(model: zoo.Backbone) -> None:
    with pytest.raises(zoo.InputError, match="found the deploy form of torch, whose layers are packed for it"):
        zoo.deploy(zoo.deploy(model), "torch")
    with pytest.raises(
        zoo.InputError, match="expected a model on the CPU in float32; found parameters on cpu in bfloat16"
    ):
        zoo.deploy(model.bfloat16(), "torch")
    with pytest.raises(zoo.InputError, match="expected a model that `zoo.create` made; found a Linear"):
        zoo.deploy(torch.nn.Linear(2, 2), "torch")


def test_the_command_writes_a_folder_and_says_what_it_chose(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "served"
    command = [
        "deploy",
        "starnet_nano",
        "--runtime",
        "torch,onnxruntime",
        "--precision",
        "float32",
        "--minutes",
        "0.1",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert (
        shown.startswith("starnet_nano runs in ")
        and "because" in shown
        and "`python run.py` there needs no zoo" in shown
    )
    loaded = zoo.load_deployed(out)
    model = zoo.create("starnet_nano", pretrained=True)
    torch.testing.assert_close(loaded(X), model(X), rtol=1e-4, atol=1e-4)
    assert json.loads((out / "report.json").read_text())["summary"] in shown


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "starnet_nano", "--runtime", "torch", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["runtime"], answer["precision"]) == ("torch", "float32")
    assert answer["rows"][0]["outcome"] == "chosen" and answer["rows"][0]["error"] < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0"], "expected rows and columns: 224 or 192,256; found `0`"),
        (["--runtime", "tensorrt"], "found `tensorrt`"),
        (["--data", "nowhere", "--runtime", "torch", "--precision", "bfloat16"], ""),
    ],
)
def test_the_command_refuses_with_a_sentence(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "starnet_nano", *options]) == 2
    assert message in capsys.readouterr().err
