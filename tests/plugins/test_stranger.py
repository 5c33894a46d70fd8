"""From nothing to a green conformance report, as the README of the template says, in an environment of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest

from zoo.authoring.scaffold import template

ROOT = pathlib.Path(__file__).parents[2]
MIXER = """
import torch
from torch import Tensor, nn

import blocks


@blocks.block("local_average", kind="token_mixer", layout="BCHW", abilities=("noncausal", "any_resolution"))
class LocalAverage(nn.Module):
    '''y = scale * mean of the 3 x 3 neighbours.'''

    def __init__(self, dim: int, *, start: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim, 1, 1), start))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {}
"""


class Stranger:
    """An environment with nothing installed but what this one has, and no plugin; counts the commands that are typed."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.commands = folder, 0
        subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
        paths = sysconfig.get_paths(vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
        here = [sysconfig.get_path("purelib"), str(ROOT)]
        pathlib.Path(paths["purelib"], "beside.pth").write_text("\n".join(here) + "\n")

    def types(self, *words: str) -> str:
        """The output of a command, which must succeed."""
        self.commands += 1
        python = str(self.folder / "env" / "bin" / "python")
        tools = {
            "zoo": [python, "-m", "zoo"],
            "pytest": [python, "-m", "pytest"],
            "pip": [python, "-m", "pip"],
        }
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ZOO_PLUGINS")}
        done = subprocess.run(
            [*tools[words[0]], *words[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


INSTALL = ("pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    return Stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def stranger(environment: Stranger) -> Stranger:
    """The same environment, the count begun anew."""
    environment.commands = 0
    return environment


def test_a_stranger_with_a_block_has_a_conforming_plugin_in_eight_commands(stranger: Stranger) -> None:
    (stranger.folder / "my_block.py").write_text(MIXER)
    stranger.types("zoo", "new-plugin", "beta", "--from", "my_block.py")
    stranger.types(*INSTALL, "beta-blocks")
    stranger.types("zoo", "train", "digits", "beta/local_averagenet_nano", "--epochs", "2", "--publish")
    stranger.types("zoo", "index", "beta")
    assert "loaded" in stranger.types("zoo", "plugins")
    report = stranger.types("pytest", "--zoo-conformance", "beta")
    assert "| beta/local_average@1 | 16 of 16 |  |" in report
    assert "| beta/local_averagenet_nano | 10 of 10 |  |  |" in report
    assert stranger.commands <= 8


@pytest.mark.slow  # the package of another block is made, installed and held to all checks above
def test_the_template_under_another_name_conforms_with_its_own_weights(stranger: Stranger) -> None:
    stranger.types("zoo", "new-plugin", "delta")
    text = "".join(
        path.read_text()
        for path in (stranger.folder / "delta-blocks").rglob("*.*")
        if path.suffix not in (".safetensors",)
    )
    assert "acme" not in text
    stranger.types(*INSTALL, "delta-blocks")
    report = stranger.types("pytest", "--zoo-conformance", "delta")
    assert "| delta/shift_mixer@1 | 16 of 16 |  |" in report
    assert "| delta/shiftnet_nano | 10 of 10 |  |  |" in report
    assert "token_mixer" in stranger.types("zoo", "blocks", "delta/shift_mixer")
    assert "delta/shift_mixer" in stranger.types(
        "zoo", "create", "convformer_s18", "--swap", "token_mixer=delta/shift_mixer"
    )


def test_the_files_of_the_template_are_up_to_date(stranger: Stranger) -> None:
    stranger.types(*INSTALL, str(template()))
    assert stranger.types("zoo", "index", "acme", "--check") == "all up to date\n"
    report = stranger.types("pytest", "--zoo-conformance", "acme")
    assert "| acme/shiftnet_nano | 10 of 10 |  |  |" in report


def test_blocks_of_one_plugin_stand_in_models_of_another(stranger: Stranger) -> None:
    fourier = ROOT / "plugins" / "zoo-fourier"
    stranger.types(*INSTALL, str(fourier), str(template()))
    changed = stranger.types(
        "zoo", "create", "acme/shiftnet_nano", "--swap", "token_mixer=fourier/global_filter", "--json"
    )
    assert '"after": "fourier/global_filter"' in changed


@pytest.mark.slow
def test_the_fourier_plugin_holds_all_that_is_asked(stranger: Stranger) -> None:
    fourier = ROOT / "plugins" / "zoo-fourier"
    stranger.types(*INSTALL, str(fourier))
    assert stranger.types("zoo", "index", "fourier", "--check") == "all up to date\n"
    report = stranger.types("pytest", "--zoo-conformance", "fourier")
    assert "| fourier/gfnet_nano | 10 of 10 |  |  |" in report
    stranger.types("pytest", "-q", "--import-mode=importlib", str(fourier / "tests"))
