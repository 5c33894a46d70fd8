"""A user's own blocks.py beside their script: one sentence that names it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import zoo

ROOT = pathlib.Path(zoo.__file__).parent.parent


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in `folder`, which stands first on its path, with our packages behind it as if they were installed."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def sentence(file: pathlib.Path) -> str:
    return (
        f"ImportError: {file} hides the package `blocks` that blockzoo needs, for it comes first on Python's path; "
        "next: give that file another name, or run from another folder"
    )


@pytest.mark.parametrize(
    "program", ["import zoo", "import zoo; zoo.create", "import blocks, zoo", "from zoo import create"]
)
def test_a_file_that_hides_blocks_is_named(tmp_path: pathlib.Path, program: str) -> None:
    mine = tmp_path / "blocks.py"
    mine.write_text("wood = 3\n")
    found = run(tmp_path, "-c", program)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == sentence(mine)


def test_a_package_that_hides_blocks_is_named(tmp_path: pathlib.Path) -> None:
    mine = tmp_path / "blocks" / "__init__.py"
    mine.parent.mkdir()
    mine.write_text("")
    assert run(tmp_path, "-m", "zoo", "list").stderr.splitlines()[-1] == sentence(mine)


def test_a_folder_that_is_no_package_hides_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "blocks").mkdir()
    found = run(tmp_path, "-c", "import zoo, blocks; print(len(blocks.list_blocks()) > 10)")
    assert (found.stdout, found.stderr) == ("True\n", "")


def test_the_command_does_not_look_in_the_working_folder(tmp_path: pathlib.Path) -> None:
    for name in ("zoo.py", "blocks.py"):
        (tmp_path / name).write_text("raise RuntimeError('not meant to be imported')\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-P",
        "-m",
        "zoo",
        "list",
        "*_nano",
    ]  # -P: as an installed command starts, without the folder
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "unireplknet_nano" in found.stdout, found.stderr
