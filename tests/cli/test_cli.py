"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

import msgspec
import pytest
from PIL import Image

from zoo import catalog
from zoo.catalog.collection import CORE
from zoo.catalog.listing import list_models
from zoo.cli import main, quantity
from zoo.cli.commands.demo import MAIN_BLOCK
from zoo.data import digits
from zoo.weights.manifest import read_manifest


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",), ("list", "--json"), ("list", "inception"), ("info", "inceptionnext_atto"), ("info", "linear_vit_nano", "--tree"),
        ("blocks",), ("blocks", "mlp"), ("blocks", "--kind", "norm", "--json"), ("spec", "convformer_s18"),
        ("spec", "convformer_s18", "--filled"), ("create", "linear_vit_nano"), ("schema",), ("doctor",), ("--version",), (),
    ],
)  # fmt: skip
def test_a_command_prints_and_succeeds(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out
    if "--json" in arguments:
        json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lst",), "zoo: no command `lst`; nearest `list`"),
        (
            ("profile", "linear_vit_nano", "--by", "stages"),
            "zoo: --by: expected one of `block`, `stage` or `op`; found `stages`; nearest `stage`",
        ),
        (
            ("cache", "lst"),
            "zoo: action: expected one of `list`, `verify`, `prune` or `clear`; found `lst`; nearest `list`",
        ),
        (("train", "digit", "x"), "zoo: no command `digit`; nearest `digits`; `zoo train --help` lists them all"),
        (("find", "--max-params", "25x"), "expected a number like 25M, 4.1G, 1e9 or 512MiB; found `25x`"),
        (("info", "convfrmer_s18"), "UnknownModelError: no model `convfrmer_s18`: expected one of"),
        (("blocks", "mpl"), "nearest `mlp`"),
        (
            ("create", "convformer_s18", "--set", "dims.2=abc"),
            'expected int from 1 to 1,000,000; found "abc", a string',
        ),
        (("create", "convformer_s18", "--set", "dims"), "zoo: --set dims: expected PATH=VALUE"),
        (
            ("create", "convformer_s18", "--swap", "token_mixer=mamba"),
            "expected a mixer that sees the whole image; found `mamba` is causal",
        ),
        (("spec", "convformer_s18", "--why", "stages.9"), "--why stages.9"),
        (("check", "missing.toml"), "expected a readable spec file; found No such file or directory"),
        (("info", "linear_vit_nano.digts"), "nearest `digits`"),
        (("train", "digits", "fpn_nano"), "found one for semantic-segmentation, 1 channels, 4 classes"),
        (("train", "digits", "gla_nano"), "found one for language-modeling, 256 classes"),
        (("train", "digits", "gmlp_nano", "--epochs", "0"), "expected a whole number from 1; found `0`"),
        (("train", "digits", "gmlp_nano", "--seed", "-1"), "expected a whole number from 0; found `-1`"),
        (
            ("train", "digits", "gmlp_nano", "--out", "weights.pth"),
            "expected a file that ends in .safetensors, or a folder",
        ),
        (
            ("train", "text", "gla_nano", "--out", "/dev/null/w.safetensors"),
            "expected a place to write to; found Not a directory",
        ),
        (
            ("train", "scenes", "espcn_nano", "--out", "/dev/null/w.safetensors"),
            "expected a place to write to; found Not a directory",
        ),
        (("evaluate", "gmlp_nano.digits", "--data", "x", "--out", "/dev/null/x.md"), "expected a place to write to"),
        (("evaluate", "fpn_nano", "--data", "scenes", "--deploy", "auto"), "leave out `--deploy`"),
    ],
)
def test_a_users_error_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "value"),
    [("25M", 25e6), ("4.1 G", 4.1e9), ("1e9", 1e9), ("512MiB", 512 * 2**20), ("2gib", None), ("64Ki", 65536), ("3", 3), ("1.2.3M", None),
     ("", None), ("nan", None), ("-5M", None)],
)  # fmt: skip
def test_quantities_have_prefixes(text: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number like 25M"):
            quantity(text)
    else:
        assert quantity(text) == pytest.approx(value)


def test_why_says_where_a_value_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "spec", "unireplknet_a", "--why", "stages.1.layers.0.0.parts.0.kernel_size")
    assert (
        out == "stages.1.layers.0.0.parts.0.kernel_size = 13\n  from unireplknet.toml: spec.define.large.kernel_size\n"
    )


def test_a_swap_is_reported_site_by_site(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "create", "convformer_s18", "--swap", "token_mixer=pooling", "--at", "stages.2-3", "--json"
    )
    report = json.loads(out)
    assert code == 0
    assert [row["path"] for row in report["swaps"]] == [f"stages.2.layers.{j}.0.1" for j in range(9)] + [
        f"stages.3.layers.{j}.0.1" for j in range(3)
    ]
    assert all(row["after"] == "pooling" and row["params_after"] == 0 for row in report["swaps"])


def test_predict_classifies_files_and_names_those_it_cannot_read(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    images, labels = digits.held_out()
    paths = []
    for i, size in enumerate((8, 20, 64)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(images[i]).resize((size, size)).save(paths[-1])
    (tmp_path / "bad.png").write_text("no image")
    code, out, _ = run(capsys, "predict", "gmlp_nano", *paths, tmp_path / "bad.png", "--json")
    rows = json.loads(out)
    assert code == 1
    assert [row["classes"][0]["label"] for row in rows[:3]] == [str(label) for label in labels[:3]]
    assert rows[3]["error"].endswith("found a file that is no image")


def test_demo_runs_an_embedded_model_for_each_kind_of_block(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "demo", "--json")
    report = json.loads(out)
    kinds = [row["block"] for row in report["models"]]
    assert code == 0
    assert sorted(kinds) == sorted(MAIN_BLOCK.values())
    assert min(row["accuracy"] for row in report["models"]) >= 0.95
    assert report["swap"]["params_after"] < report["swap"]["params_before"]


@pytest.mark.slow
def test_demo_of_all_runs_every_embedded_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "demo", "--all", "--json")
    rows = json.loads(out)["models"]
    assert code == 0
    assert [row["model"] for row in rows] == list_models(pretrained=True, task="image-classification")
    for row in rows:
        figure = read_manifest(catalog.weights_manifest(row["model"], "digits")).metrics["digits/top1@32"]
        assert row["accuracy"] == pytest.approx(figure.value, abs=2.5 / figure.n)


def test_a_spec_file_and_a_block_file_are_checked(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    code, out, _ = run(capsys, "check", CORE.folder / "gmlp.toml")
    assert code == 0
    assert "gmlp_nano" in out
    block = tmp_path / "mine.py"
    block.write_text(
        "import blocks\nfrom torch import Tensor, nn\n\n\n"
        '@blocks.block("cli_act", kind="act", abilities=("noncausal", "any_resolution"))\n'
        "class CliAct(nn.Module):\n"
        '    """y = 2 x."""\n\n'
        "    def forward(self, x: Tensor) -> Tensor:\n        return 2 * x\n"
    )
    code, out, _ = run(capsys, "check", block)
    assert code == 0, out
    code, out, _ = run(capsys, "--with", block, "create", "gmlp_nano", "--set", "**.<gelu>=cli_act")
    assert code == 0


def test_bash_completes_commands_options_and_models(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    code, out, _ = run(capsys, "completion", "bash")
    assert code == 0
    script = tmp_path / "zoo.bash"
    script.write_text(out)
    program = tmp_path / "zoo"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zoo "$@"\n')
    program.chmod(0o755)

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        ask = (
            f"source {script}; COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
            "$(complete -p zoo | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env=environment, check=True)
        return done.stdout.split()

    assert "profile" in completed("zoo prof")
    assert "--tree" in completed("zoo info --t")
    assert "gmlp_nano" in completed("zoo info gmlp_n")


@pytest.mark.parametrize("command", ["find", "pick", "compare", "predict", "bench", "calibrate", "study"])
def test_every_option_has_a_help_that_tells_its_default(command: str) -> None:
    from zoo.cli import parser

    known = parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr, index]
    for action in known._actions:
        assert action.help, action.dest
        if action.default not in (None, "", False, "==SUPPRESS==") and action.option_strings:
            told = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            assert f"default {told}" in action.help, action.dest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("compare a b --rounds 4", "--rounds: expected a whole number from 5; found `4`"),
        ("find --threads 0", "--threads: expected a whole number from 1; found `0`"),
        ("find --limit -1", "--limit: expected a whole number from 0; found `-1`"),
        ("find --batch 1.5", "--batch: expected a whole number from 1; found `1.5`"),
        ("pick --latency-ms nan", "--latency-ms: expected a number above 0; found `nan`"),
        ("calibrate --minutes -3", "--minutes: expected a number above 0; found `-3`"),
        ("study pooling --seeds 1", "--seeds: expected a whole number from 2; found `1`"),
    ],
)
def test_numbers_out_of_bounds_are_told(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert sentence in capsys.readouterr().err


def test_compare_names_the_nearest_before_anything_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "resnet5"]) == 2
    assert "nearest `resnet50`" in capsys.readouterr().err


def test_find_offers_the_devices_whose_rows_ship(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoo.measure.store import shipped_devices
    from zoo.selection import find

    stranger = msgspec.structs.replace(shipped_devices()[0], name="A machine that nobody has seen")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr(find, "this_device", lambda: stranger)
    assert main(["find", "--max-params", "5M"]) == 0
    said = capsys.readouterr().err
    for device in shipped_devices():
        assert f"zoo find --device {device.id}   ({device.name}, " in said
