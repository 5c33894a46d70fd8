"""Exported files stand alone: torch only, the names of the state, and the same outputs to the last bit."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import blocks.ops
import zoo
from zoo import catalog
from zoo.errors import InputError
from zoo.exporting.python import export_python, python_text

NANO = catalog.list_models("*_nano")
FIRST = [
    next(name for name, entry in catalog.entries().items() if entry.family == family) for family in zoo.list_modules()
]
VISION = [name for name in sorted({*NANO, *FIRST}) if catalog.entry(name).task == "image-classification"]
CONVNETS = [
    "convnext_tiny",
    "resnet50",
    "starnet_s1",
    "mobilenetv4_conv_small",
    "moganet_xtiny",
    "mambaout_femto",
    "inceptionnext_tiny",
    "poolformer_s12",
    "riformer_s12",
    "unireplknet_a",
    "unireplknet_xl",
    "mobileone_s4",
    "convformer_s18",
    "poolformerv2_s12",
    "identityformer_s12",
]
QUICK = {name for name in VISION if catalog.entry(name).params < 3_000_000}
ALONE = """
import sys, importlib.util, torch
for name in ("zoo", "blocks", "timm", "torchvision"):
    sys.modules[name] = None
spec = importlib.util.spec_from_file_location("net", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["net"] = module
spec.loader.exec_module(module)
from safetensors.torch import load_file
data = load_file(sys.argv[3])
net = getattr(module, sys.argv[2])()
net.load_state_dict({key[6:]: value for key, value in data.items() if key.startswith("state.")})
with torch.no_grad():
    found = net(data["input"])
assert torch.equal(found, data["output"]), (found - data["output"]).abs().max()
"""


def stands_alone(model: Any, folder: pathlib.Path) -> None:
    """The exported file gives the model's outputs where nothing of ours can be imported."""
    spec = model.spec
    x = torch.randn(
        2, spec.input.channels, spec.input.size, spec.input.size, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad(), blocks.ops.backend("eager"):  # what the file holds; C++ cannot be in it
        output = model(x)
    state = {f"state.{key}": tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    save_file(state | {"input": x, "output": output.contiguous()}, folder / "data.safetensors")
    file = export_python(model, folder / "net.py")
    command = [sys.executable, "-c", ALONE, str(file), spec.name, str(folder / "data.safetensors")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in VISION if name in QUICK])
def test_the_file_gives_the_same_outputs(name: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    stands_alone(zoo.create(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VISION if name not in QUICK])
def test_the_file_of_every_family_gives_the_same_outputs(name: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    stands_alone(zoo.create(name), tmp_path)


@pytest.mark.parametrize("name", CONVNETS)
def test_a_convnet_takes_at_most_400_lines(name: str) -> None:
    text = python_text(zoo.create(name, device="meta"))
    assert len(text.splitlines()) <= 400
    assert max(map(len, text.splitlines())) <= 130


def test_the_text_is_the_same_each_time_and_formatted(tmp_path: pathlib.Path) -> None:
    text = python_text(zoo.create("starnet_nano", device="meta"))
    assert text == python_text(zoo.create("starnet_nano", device="meta"))
    (tmp_path / "net.py").write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F", str(tmp_path / "net.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_file_that_is_there_is_not_written_over(tmp_path: pathlib.Path) -> None:
    model = zoo.create("starnet_nano", device="meta")
    (tmp_path / "net.py").write_text("mine")
    with pytest.raises(
        InputError, match="expected a new file; found one that exists; next: pass force=True, or --force"
    ):
        export_python(model, tmp_path / "net.py")
    assert (tmp_path / "net.py").read_text() == "mine"
    export_python(model, tmp_path / "net.py", force=True)
    assert "def starnet_nano" in (tmp_path / "net.py").read_text()


def test_a_folder_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="expected a folder to write to; found No such file or directory"):
        export_python(zoo.create("starnet_nano", device="meta"), tmp_path / "none" / "net.py")


def test_the_command_exports(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo.cli import main

    file = tmp_path / "net.py"
    assert main(["export", "starnet_nano", "--to", "python", str(file), "--set", "num_classes=3"]) == 0
    assert "net.py" in capsys.readouterr().out
    assert "3)" in file.read_text().rpartition("LinearHead(")[2]
