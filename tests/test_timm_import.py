"""timm beside torchvision's own torch and beside another one, whoever imports first. Each order in a process of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

OWN = """
import os, sys
import torch
if hasattr(torch.ops.torchvision, "nms"):
    os.abort()  # as the library of torchvision does when somebody has registered its operators before
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
OTHER = """
import torch
from . import extension
torch.library.register_fake("torchvision::nms")(lambda *_: None)
"""
ORDERS = {
    "torchvision first": """
        try:
            import torchvision
        except RuntimeError as error:
            assert "torchvision::nms does not exist" in str(error), error
        from zoo._timm import import_timm; import_timm()""",
    "the zoo first, and twice": "from zoo._timm import import_timm; import_timm(); import_timm(); import torchvision, timm",
}


def run(code: str, *folders: pathlib.Path) -> subprocess.CompletedProcess[str]:
    paths = [*map(str, folders), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(params=["built for this torch", "built for another torch"])
def packages(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a torchvision that behaves as the real one of either build, and a timm that imports it."""
    for name, text in {
        "torchvision/__init__.py": OWN if request.param == "built for this torch" else OTHER,
        "torchvision/extension.py": "",
        "timm/__init__.py": "import torchvision",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("order", ORDERS)
def test_timm_is_imported_beside_either_build(order: str, packages: pathlib.Path) -> None:
    done = run(ORDERS[order], packages)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_the_installed_timm_is_imported(order: str) -> None:
    done = run(ORDERS[order])
    assert done.returncode == 0, done.stderr


def test_a_timm_that_is_not_there_is_named_with_its_command(tmp_path: pathlib.Path) -> None:
    (tmp_path / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\")")
    done = run("from zoo._timm import import_timm; import_timm()", tmp_path)
    assert 'pip install "blockzoo[timm]"' in done.stderr
