"""What installing the wheel brings along, asked of pip without installing anything."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CUDA = re.compile(r"nvidia-|cuda-|triton|torchvision|torch$")


def pip(*arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Our wheel, built as a user's pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    built = pip("wheel", "--no-deps", "--wheel-dir", folder, ".")
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("no package index answers, so hatchling, which builds the wheel, cannot be had")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> pathlib.Path:
    """The Python of an environment in which pip finds the CPU torch of this one, and nothing else."""
    venv.create(tmp_path / "env", with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")})
    torch = importlib.metadata.distribution("torch")
    record = pathlib.Path(str(torch.locate_file(f"torch-{torch.version}.dist-info")))
    shutil.copytree(record, pathlib.Path(paths["purelib"], record.name))
    return tmp_path / "env" / "bin" / "python"


def planned(machine: pathlib.Path, report: pathlib.Path, *arguments: str | pathlib.Path) -> dict[str, str]:
    """Name -> version of what pip would install on the machine."""
    asked = pip("--python", machine, "install", "--dry-run", "--report", report, *arguments)
    if "No matching distribution found for" in asked.stderr and "(from versions: none)" in asked.stderr:
        pytest.skip("no package index answers, so pip cannot plan an installation")
    assert asked.returncode == 0, asked.stderr
    items = json.loads(report.read_text())["install"]
    return {re.sub("[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"] for item in items}


def test_the_wheel_beside_a_cpu_torch_changes_no_torch_and_brings_no_cuda(
    wheel: pathlib.Path, machine: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plan = planned(machine, tmp_path / "report.json", wheel)
    assert {"blockzoo", "safetensors", "huggingface-hub", "fvcore", "msgspec"} <= plan.keys()
    assert [name for name in plan if CUDA.match(name)] == []


def test_the_wheel_holds_the_sources_of_native_kernels_and_nothing_built(wheel: pathlib.Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("blocks/ops/native/")}
    sources = {f"blocks/ops/native/{path.name}" for path in (ROOT / "blocks/ops/native").iterdir() if path.is_file()}
    assert "blocks/ops/native/simd.h" in names and names == sources


def test_the_wheel_holds_the_models_and_the_types(wheel: pathlib.Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "zoo/__init__.pyi",
        "zoo/py.typed",
        "blocks/py.typed",
        "blocks/index.json",
        "zoo/models/index.json",
    } <= names
    assert {"zoo/models/weights/vim_nano.digits.safetensors", "zoo/models/data/digits_held_out.npz"} <= names
    assert not [name for name in names if name.startswith("tests")]
    assert wheel.stat().st_size <= 40 * 2**20
