"""The plugin zoo-timm, as installed: listed without timm, built by timm, loaded strictly, counted, folded, timed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from blocks.registry import plugins
from tests.plugins.conftest import Run
from zoo import catalog
from zoo._timm import import_timm
from zoo.errors import InputError, WeightsError
from zoo.measure.op_counter import EXACT

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "plugins" / "zoo-timm"
SAMPLE = [
    "resnet18",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "repvgg_a0",
    "levit_128s",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "ghostnetv2_100",
]
FOLDS = ["resnet18", "efficientnet_b0", "mobilenetv3_small_050", "repvgg_a0", "levit_128s", "regnetx_002"]


@pytest.fixture(autouse=True)
def installed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package in this process, as an editable installation would put it there."""
    info = tmp_path / "site" / "zoo_timm-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-timm\nVersion: 0.1.0\n")
    groups = {"zoo.models": "zoo_timm", "zoo.factories": "zoo_timm.factory", "zoo.api": "v1"}
    text = "\n".join(f"[{group}]\ntimm = {value}" for group, value in groups.items())
    assert all(f'timm = "{value}"' in (PACKAGE / "pyproject.toml").read_text() for value in groups.values())
    (info / "entry_points.txt").write_text(text + "\n")
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{PACKAGE}:{ROOT}")  # for processes that this one starts
    monkeypatch.delenv("ZOO_PLUGINS", raising=False)
    catalog.forget()
    yield
    monkeypatch.undo()
    catalog.forget()


def lived_in(model: nn.Module) -> nn.Module:
    """Norms with statistics that are not neutral."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model.eval()


def image(model: nn.Module) -> torch.Tensor:
    form = model.spec.input
    return torch.randn(1, form.channels, form.size, form.size, generator=torch.Generator().manual_seed(1))


def test_every_architecture_of_timm_is_listed() -> None:
    known = {name for name in zoo.list_models("timm/*")}
    assert known >= {f"timm/{name}" for name in import_timm().list_models()} and len(known) >= 1371


def test_listing_them_imports_no_timm(tmp_path: pathlib.Path, run_in: Run) -> None:
    code = "import sys, zoo; print(len(zoo.list_models('timm/*')), zoo.info('timm/resnet18').params, {'torch', 'timm', 'zoo_timm'} & set(sys.modules))"
    done = run_in(tmp_path / "site", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); {code}")
    assert done.stdout.split() == [str(len(zoo.list_models("timm/*"))), "11689512", "set()"], done.stderr


@pytest.mark.parametrize("name", SAMPLE)
def test_a_model_is_timms_own(name: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    theirs = lived_in(import_timm().create_model(name))
    path = tmp_path / "weights.safetensors"
    zoo.save(theirs, path)
    ours = zoo.create(f"timm/{name}", weights=path)
    x = image(ours)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    entry = zoo.info(f"timm/{name}")
    assert entry.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert entry.macs == zoo.profile(f"timm/{name}", details=False).macs


@pytest.mark.parametrize("name", FOLDS)
def test_the_deploy_form_agrees_and_has_fewer_norms(name: str) -> None:
    with torch.no_grad():
        model = lived_in(zoo.create(f"timm/{name}"))
    fast = zoo.deploy(model)
    x = image(model)
    with torch.no_grad():
        expected, found = model(x), fast(x)
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5
    norms = [sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules()) for net in (model, fast)]
    assert norms[1] <= norms[0] // 10
    assert fast.spec is model.spec


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    state = {key: value for key, value in zoo.create("timm/resnet18").state_dict().items() if key != "fc.bias"}
    with pytest.raises(WeightsError, match=r"fc\.bias"):
        zoo.create("timm/resnet18", weights=state)


def test_requests_go_to_timm() -> None:
    model = zoo.create("timm/resnet18", num_classes=7, in_chans=1)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 7)
    assert model.spec.digest != zoo.spec("timm/resnet18").digest == zoo.info("timm/resnet18").digest
    maps = zoo.create("timm/resnet18", features_only=True, out_indices=(1, 3))(torch.randn(1, 3, 64, 64))
    assert [y.shape[1] for y in maps] == [64, 256]


def test_edits_of_a_spec_are_refused_for_models_of_timm() -> None:
    with pytest.raises(InputError) as caught:
        zoo.create("timm/resnet18", swap={"token_mixer": "pooling"})
    assert str(caught.value).startswith(
        "timm/resnet18: 1 error\n  `swap`\n    expected a model with a spec; found a model that timm's code builds"
    )


def test_a_request_that_timm_refuses_says_so() -> None:
    with pytest.raises(InputError, match="expected a request that its builder takes; found TypeError"):
        zoo.create("timm/resnet18", attn_drop_rate=0.1)


def test_listed_weights_say_where_they_are_and_that_nobody_has_seen_them() -> None:
    from zoo.catalog.manifests import manifests

    first = next(one for one in manifests("timm/resnet18") if one.tag == "a1_in1k")
    assert (first.source, first.state) == ("hub:timm/resnet18.a1_in1k/model.safetensors", "listed")
    assert zoo.transform("timm/resnet18.a1_in1k").preprocess.crop == 0.95
    with pytest.raises(WeightsError, match=r"next: `zoo pin timm/resnet18\.a1_in1k` fetches and proves it"):
        zoo.create("timm/resnet18.a1_in1k")


def test_weights_of_the_hub_are_pinned_with_the_classes_that_they_have(
    hub: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = import_timm().create_model("mobilenetv3_small_050", num_classes=1000).eval()
    path = tmp_path / "model.safetensors"
    zoo.save(theirs, path)
    hub.put("timm/mobilenetv3_small_050.lamb_in1k", {"model.safetensors": path.read_bytes()})
    entry = zoo.pin("timm/mobilenetv3_small_050.lamb_in1k")
    assert entry.distributions.keys() >= {"zoo-timm"} and len(entry.revision) == 40
    ours = zoo.create("timm/mobilenetv3_small_050", pretrained=True)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    fewer = zoo.create("timm/mobilenetv3_small_050", pretrained=True, num_classes=3)
    grey = zoo.create("timm/mobilenetv3_small_050", pretrained=True, in_chans=1)
    assert grey(x[:, :1]).shape == (1, 1000) and grey.adapt_report.names("summed") == ["conv_stem.weight"]
    assert fewer(x).shape == (1, 3) and set(fewer.adapt_report.names("new")) == {"classifier.weight", "classifier.bias"}


def test_the_tools_take_models_of_timm(capsys: pytest.CaptureFixture[str]) -> None:
    from zoo.cli import main

    assert main(["profile", "timm/resnet18", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["macs"] == zoo.info("timm/resnet18").macs and found["complete"] and set(found["by_class"]) == set(EXACT)
    )
    assert main(["info", "timm/resnet18"]) == 0
    assert main(["list", "timm/resnet1*"]) == 0
    assert "timm/resnet18" in capsys.readouterr().out


@pytest.mark.slow
def test_every_architecture_is_built_on_meta_with_the_parameters_that_the_index_says() -> None:
    import gc

    wrong = []
    for name, entry in catalog.entries().items():
        if name.startswith("timm/"):
            params = sum(
                parameter.numel() for parameter in zoo.create(name, device="meta", max_params=10**11).parameters()
            )
            wrong += [name] if params != entry.params else []
            gc.collect(0)
    assert wrong == [] and plugins.plugins()["zoo-timm"].state == "loaded"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1371, 40))
def test_meta_and_assign_give_timms_outputs_for_a_wide_sample(start: int, tmp_path: pathlib.Path) -> None:
    names = sorted(
        name
        for name, entry in catalog.entries().items()
        if name.startswith("timm/") and entry.params <= 30_000_000 and entry.macs <= 6e9
    )
    for name in names[start : start + 40 : 8]:
        torch.manual_seed(0)
        theirs = lived_in(import_timm().create_model(name.removeprefix("timm/")))
        ours = zoo.create(name, weights=theirs.state_dict()).double()  # drawn weights make nets that amplify rounding
        theirs = theirs.double()
        x = torch.randn(1, 3, *zoo.info(name).input_size, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            expected, found = (out if isinstance(out, torch.Tensor) else out[0] for out in (theirs(x), ours(x)))
        assert torch.allclose(found, expected, atol=1e-7 * max(1.0, float(expected.abs().max()))), name
