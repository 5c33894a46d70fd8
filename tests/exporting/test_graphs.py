"""Graphs: files of each format compute what the model computes, at every size that they leave free, or are not handed out."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.sampled import sampled
from zoo.build.deploy import fused
from zoo.cli import main
from zoo.errors import InputError
from zoo.exporting import export as exporting
from zoo.exporting import lowering, onnx
from zoo.exporting.export import GRAPHS, TARGETS, export_graph
from zoo.exporting.language import streaming
from zoo.exporting.openvino import without_telemetry
from zoo.exporting.ports import Port, Ports, image_like
from zoo.exporting.quiet import OperatorError, quiet

ALONE = """
import sys, torch
for name in ("zoo", "blocks", "timm"):
    sys.modules[name] = None
kind, path, inputs, outputs = sys.argv[1:]
x = torch.load(inputs)
net = torch.jit.load(path) if kind == "torchscript" else torch.export.load(path).module()
with torch.no_grad():
    torch.save(net(x), outputs)
"""


def images(model: Any, batch: int = 1) -> torch.Tensor:
    size = model.spec.input.size
    return image_like((batch, model.spec.input.channels, size, size), seed=7)


@pytest.mark.parametrize("to", [to for to in GRAPHS if to not in ("executorch", "aot")])
def test_a_file_of_each_format_computes_what_the_model_computes(tmp_path: Path, to: str) -> None:
    wanted = exporting.format_of(to)
    if any(importlib.util.find_spec(package) is None for package in wanted.packages):
        pytest.skip(f"{to} needs {', '.join(wanted.packages)}")
    model = zoo.create("starnet_nano", pretrained=True)
    x = images(model)
    path = zoo.export(model, tmp_path / f"net{wanted.suffix}", to)
    example = Ports((Port("image", x, {}),), ("logits",))
    found = wanted.opened(path, example)((x,))
    torch.testing.assert_close(found[0], zoo.deploy(model)(x), rtol=1e-4, atol=1e-4)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow  # a minute of a C++ compiler
def test_a_compiled_package_computes_what_the_model_computes(tmp_path: Path) -> None:
    model = zoo.create("starnet_nano", pretrained=True)
    made = export_graph(model, tmp_path / "net.pt2", "aot")
    assert made.error is not None and made.error < 1e-5


@pytest.mark.parametrize("to", ["torch-export", "torchscript"])
def test_torch_formats_run_where_the_zoo_is_not_installed(tmp_path: Path, to: str) -> None:
    model = zoo.create("convnext_nano" if "convnext_nano" in zoo.list_models() else "starnet_nano")
    x = images(model, 2)
    path = zoo.export(model, tmp_path / ("net.pt2" if to == "torch-export" else "net.pt"), to)
    torch.save(x, tmp_path / "x.pt")
    files = [str(path), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", ALONE, to, *files], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(files[-1]), zoo.deploy(model)(x), rtol=1e-4, atol=1e-4)


def test_batch_and_size_are_free_where_the_model_takes_any(tmp_path: Path) -> None:
    made = export_graph("starnet_nano", tmp_path / "net.onnx", "onnx")
    assert made.free == ("batch", "height", "width")
    shapes = [(3, 1, 32, 32), (2, 1, 48, 80)]
    run = onnx.opened(made.path, Ports((Port("image", torch.zeros(1), {}),), ("logits",)))
    assert [run((image_like(shape),))[0].shape for shape in shapes] == [(3, 10), (2, 10)]


def test_the_size_is_fixed_where_the_model_takes_one(tmp_path: Path) -> None:
    made = export_graph("gmlp_nano", tmp_path / "net.onnx", "onnx")
    assert made.free == ("batch",)
    with pytest.raises(
        InputError, match=r"(?s)inputs of .*expected the outputs of the net in float64; found a refusal of the net"
    ):
        export_graph("gmlp_nano", tmp_path / "other.onnx", "onnx", dynamic=("batch", "size"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_language_model_comes_with_its_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "net.onnx")
    assert main(["export", "gla_nano", path, "--to", "onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["free"] == ["batch", "length"]
    model: Any = zoo.create("gla_nano", form="deploy")
    net, ports = streaming(model)
    assert ports.outputs[0] == "logits" and len(ports.inputs) == len(ports.outputs) == len(net.leaves) + 1 > 1


def test_feature_maps_come_out_as_maps(tmp_path: Path) -> None:
    model = zoo.create("starnet_nano", features_only=True)
    path = zoo.export(model, tmp_path / "net.onnx", "onnx")
    x = images(model, 2)
    run = onnx.opened(path, Ports((Port("image", x, {}),), ()))
    for found, wanted in zip(run((x,)), model(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_graph_that_computes_something_else_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "lowered", lambda net, prefers: zoo.create("starnet_nano", {"dims": [16, 32, 64]}))
    with pytest.raises(InputError, match="expected the outputs of the net in float64; found outputs that differ by"):
        zoo.export("starnet_nano", tmp_path / "net.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_an_operator_that_a_format_lacks_is_named(tmp_path: Path) -> None:
    class Bessel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(OperatorError, match="expected operators that ONNX expresses; found `aten::special_bessel_j0`"):
        onnx.write_onnx(Bessel(), torch.ones(1, 1, 4, 4), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_exporters_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = zoo.create("starnet_nano")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for to in ("onnx", "torchscript", "torch-export"):
            zoo.export(model, tmp_path / f"{to}.pt2", to)
    assert not told and capfd.readouterr() == ("", "")


def test_no_file_is_written_over_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(
        InputError, match="expected a new file; found one that exists; next: pass force=True, or --force"
    ):
        zoo.export("starnet_nano", path, "onnx")
    assert path.read_bytes() == b"mine"
    zoo.export("starnet_nano", path, "onnx", force=True)
    assert len(path.read_bytes()) > 4


def test_a_format_says_what_its_files_are_called(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in `.xml`; found `net.ov`; next: `net.xml`"):
        zoo.export("starnet_nano", tmp_path / "net.ov", "openvino")


def test_a_package_that_is_not_installed_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="expected the package `executorch`; found none installed; next: `pip install"):
        zoo.export("starnet_nano", tmp_path / "net.pte", "executorch")


def test_another_format_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one of python, onnx, .*; found `onx`; nearest `onnx`"):
        zoo.export("starnet_nano", tmp_path / "net", "onx")


def test_a_file_says_whose_it_is_and_not_where_it_was_made(tmp_path: Path) -> None:
    import onnx as format_of_onnx

    model = zoo.create("starnet_nano")
    path = zoo.export(model, tmp_path / "net.onnx", "onnx")
    facts = {entry.key: entry.value for entry in format_of_onnx.load(str(path)).metadata_props}
    assert facts == {"name": "starnet_nano", "digest": model.digest}
    for file in (path, zoo.export(model, tmp_path / "net.pt2", "torch-export")):
        assert str(Path(zoo.__file__).parents[1]).encode() not in file.read_bytes()


def test_the_command_writes_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "net.onnx")
    assert main(["export", "starnet_nano", path, "--to", "onnx", "--pretrained", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["free"] == ["batch", "height", "width"] and facts["error"] < 1e-4 and facts["path"] == path
    assert main(["export", "starnet_nano", path, "--to", "onnx", "--dynamic", "none", "--force"]) == 0
    assert "one size of input; outputs within" in capsys.readouterr().out


def test_the_grammar_has_the_formats() -> None:
    from zoo.cli.commands import models

    assert models.TARGETS == TARGETS


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", sampled(["starnet_nano", "convnext_tiny", "efficientvit_m4"]))
def test_openvino_converts_the_module_itself(name: str, form: str) -> None:
    """Its converter records a net twice, with gradients and without, and refuses one whose two graphs differ."""
    pytest.importorskip("openvino", reason="openvino is an extra")
    model: Any = zoo.create(name, form=form, img_size=32 if name != "efficientvit_m0" else None).eval()
    x = images(model)
    with quiet():
        graph = without_telemetry().convert_model(model, example_input=x)
    found = without_telemetry().Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x.numpy())[0]
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-3, atol=1e-4)


def transposes(model: Any, tmp_path: Path) -> int:
    import onnx as format_of_onnx

    path = onnx.write_onnx(fused(model), images(model), tmp_path / "net.onnx", force=True)
    return sum(node.op_type == "Transpose" for node in format_of_onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("name", ["starnet_nano", "mobilenetv4_nano", "mobileone_s0", "resnet50"])
def test_nets_of_convolutions_turn_nothing(name: str, tmp_path: Path) -> None:
    assert transposes(zoo.create(name, img_size=32), tmp_path) == 0


def test_a_net_with_channel_norms_turns_twice_a_layer(tmp_path: Path) -> None:
    model = zoo.create("convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}, img_size=64)
    layers, others = 5, 3 + 1
    assert transposes(model, tmp_path) == 2 * (layers + others)


def test_lowering_leaves_the_net_as_it_is() -> None:
    model = fused(zoo.create("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, img_size=64)).eval()
    before = repr(model), [tensor.clone() for tensor in model.state_dict().values()]
    twin = lowering.lowered(model)
    assert repr(model) == before[0] and repr(twin) != before[0]
    assert all(torch.equal(a, b) for a, b in zip(before[1], model.state_dict().values(), strict=True))
