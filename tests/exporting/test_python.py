"""Exported files stand alone: torch only, the names of the state, and the same outputs to the last bit."""

from __future__ import annotations

import ast
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
from blocks.packing import Kernel, Packed, available
from tests.sampled import STAND_FOR_ALL
from zoo import catalog
from zoo.catalog.listing import list_models
from zoo.errors import InputError
from zoo.exporting.expressions import literal
from zoo.exporting.python import export_python, python_name, python_text
from zoo.exporting.sources import Sources

NANO = list_models("*_nano")
FIRST = [
    next(name for name, entry in catalog.entries().items() if entry.family == family) for family in zoo.list_modules()
]
VISION = [name for name in sorted({*NANO, *FIRST}) if catalog.entry(name).task == "image-classification"]
LONGEST = ["unireplknet_a", "moganet_xtiny"]
CONVNETS = [
    "convnext_tiny",
    "resnet50",
    "starnet_s1",
    "mobilenetv4_conv_small",
    "mambaout_femto",
    "inceptionnext_tiny",
    "poolformer_s12",
    "riformer_s12",
    "unireplknet_xl",
    "mobileone_s4",
    "convformer_s18",
    "poolformerv2_s12",
    "identityformer_s12",
]
ALONE = """
import sys, importlib.util, torch
for name in ("zoo", "blocks", "timm", "torchvision"):
    sys.modules[name] = None
from safetensors.torch import load_file
for name in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location(name, name + ".py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    data = load_file(name + ".safetensors")
    net = getattr(module, name)()
    net.load_state_dict({key[6:]: value for key, value in data.items() if key.startswith("state.")})
    with torch.no_grad():
        found = net(data["input"])
    assert torch.equal(found, data["output"]), (name, (found - data["output"]).abs().max())
"""


def written(name: str, folder: pathlib.Path) -> str:
    """The name of a model of which file, tensors and outputs are written into a folder."""
    torch.manual_seed(0)
    model: Any = zoo.create(name)
    spec = model.spec
    x = torch.randn(
        2, spec.input.channels, spec.input.size, spec.input.size, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad(), blocks.ops.backend("eager"):  # what the file holds; C++ cannot be in it
        output = model(x)
    state = {f"state.{key}": tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    save_file(state | {"input": x, "output": output.contiguous()}, folder / f"{spec.name}.safetensors")
    export_python(model, folder / f"{spec.name}.py")
    return spec.name


def stand_alone(names: list[str], folder: pathlib.Path) -> None:
    """The exported files give the models' outputs in a process where nothing of ours can be imported."""
    command = [sys.executable, "-c", ALONE, *(written(name, folder) for name in names)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr


def test_files_give_the_same_outputs(tmp_path: pathlib.Path) -> None:
    stand_alone([name for name in VISION if name in STAND_FOR_ALL], tmp_path)


@pytest.mark.slow
def test_all_files_give_the_same_outputs(tmp_path: pathlib.Path) -> None:
    stand_alone([name for name in VISION if name not in STAND_FOR_ALL], tmp_path)


@pytest.mark.parametrize("name", LONGEST + [pytest.param(name, marks=pytest.mark.slow) for name in CONVNETS])
def test_a_convnet_takes_at_most_460_lines(name: str) -> None:
    text = python_text(zoo.create(name, device="meta"))
    assert len(text.splitlines()) <= 460
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


def hostile(**family: str) -> Any:
    """A small net whose family says what others wrote; read as a spec it would be refused, so the text is put in behind the check."""
    import msgspec

    model = zoo.create("gmlp_nano", device="meta")
    model.spec.family = msgspec.structs.replace(model.spec.family, **family)
    return model


@pytest.mark.parametrize(
    "texts",
    [
        ('"""\nprint("CODE RAN")\nif \'\'\'', "a\\", 'a"', "\\N{DEAD}"),
        ('\\"""', "\x1b[31m\u202e", "'''\nimport os", "x" * 9999),
    ],
)
def test_a_hostile_text_stays_a_text(texts: tuple[str, ...]) -> None:
    model = hostile(**dict(zip(("title", "paper", "code", "licence"), texts, strict=True)))
    model.spec.name = "x(a='_'':0#'):b='_'')#'\ndef y():\n    0#"
    tree: Any = ast.parse(python_text(model))
    assert ast.get_docstring(tree) and [type(node).__name__ for node in tree.body[:2]] == ["Expr", "ImportFrom"]
    assert "CODE RAN" not in ast.dump(ast.Module(tree.body[1:], []))
    assert tree.body[-1].name == "x_a___0_b___def_y_0"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("acme/shiftnet_nano", "shiftnet_nano"), ("2net", "net_2net"), ("class", "class_net"), ("none", "none_net"), ("block", "block_net"),
        ("run", "run_net"), ("print", "print_net"), ("hub:a/b@c.json", "b_c_json"), ("é", "net"), ("", "net"),
    ],
)  # fmt: skip
def test_the_net_has_a_name_that_python_takes_and_nothing_else_has(name: str, wanted: str) -> None:
    assert python_name(name, {"Block", "run", "print"}) == wanted


@pytest.mark.parametrize(
    "value", ["x', evil(), '", "a'b'c", 'a"b', "\\", "\n", ("a", ["b'", {"c": float("inf")}]), (1,), -0.5, None, True]
)
def test_a_plain_value_is_written_as_what_it_is(value: object) -> None:
    assert eval(literal(value)) == value
    assert literal(("plain", 1)) == '("plain", 1)'


def test_a_name_of_300_letters_is_refused_in_a_sentence(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="expected a folder to write to; found File name too long"):
        export_python(hostile(), tmp_path / ("a" * 300 + ".py"))


@pytest.mark.parametrize("name", ["starnet_nano", "mobilenetv4_nano", "moe_vit_nano"])
def test_a_packed_model_is_written_as_the_plain_layers_that_it_was(name: str, tmp_path: pathlib.Path) -> None:
    packed = zoo.deploy(zoo.create(name))
    kinds = [type(module) for module in packed.modules()]
    assert python_text(packed) == python_text(zoo.create(name, form="deploy", device="meta"))
    assert kinds == [type(module) for module in packed.modules()]
    assert not available() or any(issubclass(kind, Packed) for kind in kinds)


def test_a_file_imports_what_the_aliases_in_it_name() -> None:
    sources = Sources()
    assert sources.refer(Kernel, "Kernel", "blocks.packing") == "Kernel"
    assert sources.definitions["Kernel"] == "Kernel = Callable[[torch.Tensor], torch.Tensor]"
    assert sources.imports == {"from collections.abc import Callable"}
