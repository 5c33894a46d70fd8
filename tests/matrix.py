"""`python -m tests.matrix [SET@PYTHON …]`: installs, runs and tests the project in environments of its own, and prints a table.

A set is `pinned` (constraints.txt), `newest` (nothing pinned, torchvision beside its own torch) or `oldest` (the lowest release of
each dependency that pyproject.toml allows). In each: installation, `zoo doctor`, `zoo demo`, and the quick suite, which is one test file
of each part. `--only-install` leaves the suite out; `--keep DIR` keeps the environments and finds them there again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SETS = ("pinned", "newest", "oldest")
DEFAULT = ["pinned@3.11", "newest@3.11", "newest@3.13", "oldest@3.11"]
SHOWN = ("torch", "torchvision", "timm", "numpy", "huggingface_hub", "msgspec")
QUICK = (
    "tests/test_timm_import.py",
    "tests/catalog/test_catalog.py",
    "tests/data/test_transforms.py",
    "tests/specs/test_bad_specs.py",
    "tests/build",
    "tests/weights/test_load.py",
    "tests/artifacts/test_hub.py",
    "tests/ops",
    "tests/blocks/test_fuse_forms.py",
    "tests/models/test_families.py",
    "tests/measure/test_profile.py",
)


@dataclass
class Cell:
    """One environment and how far it came."""

    set: str
    python: str
    versions: str = ""
    outcome: str = ""
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        return self.outcome.startswith(("passed", "cannot be had"))


def oldest() -> list[str]:
    """The lowest release of each dependency of the package and of its timm extra, as pip's requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["timm"],
        *project["optional-dependencies"]["train"],
    ]
    return [requirement.replace(">=", "==") for requirement in wanted]


def requirements(set: str) -> list[str]:
    """What pip is asked for beside the project."""
    return {
        "pinned": ["-c", str(ROOT / "constraints.txt")],
        "newest": ["torch", "torchvision"],
        "oldest": oldest(),
    }[set]  # fmt: skip


def run(cell: Cell, home: Path, suite: bool) -> None:
    """Fills in `outcome`, `versions` and `seconds`."""
    began = time.monotonic()
    python = home / "bin" / "python"
    interpreter = found_python(cell.python)
    if interpreter is None:
        cell.outcome = f"cannot be had: no Python {cell.python} on this machine"
        return
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", home], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements(cell.set), "-e"]
    installed = output_of([*pip, f"{ROOT}[test]"])
    if installed.returncode:
        lines = installed.stderr.strip().splitlines()
        clash = "ResolutionImpossible" in installed.stderr
        cell.outcome = f"{'failed to install' if clash else 'cannot be had'}: {lines[-1] if lines else 'pip fails'}"
        return
    cell.versions = versions(python)
    steps = [[home / "bin" / "zoo", "doctor"], [home / "bin" / "zoo", "demo"]]
    if suite:
        steps.append([python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *QUICK])
    for step in steps:
        done = output_of(step)
        if done.returncode:
            print((done.stdout + done.stderr)[-6000:], file=sys.stderr)
            cell.outcome = f"failed: {' '.join(map(str, step[1:4]))}"
            break
    else:
        cell.outcome = f"passed: {done.stdout.strip().splitlines()[-1].strip('= ') if suite else 'zoo demo'}"
    cell.seconds = time.monotonic() - began


def found_python(version: str) -> str | None:
    """An interpreter of a version, on the path or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    names = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    runs = (name for name in names if name and not output_of([name, "--version"]).returncode)
    return next(runs, None)


def output_of(command: list[Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)


def versions(python: Path) -> str:
    code = f"""
import importlib.metadata as m
for name in {SHOWN}:
    try: print(name, m.version(name))
    except m.PackageNotFoundError: pass
"""
    listed = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout
    return ", ".join(listed.split("\n")).strip(", ")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument(
        "cells", nargs="*", default=DEFAULT, help=f"SET@PYTHON, of {', '.join(SETS)}; {' '.join(DEFAULT)}"
    )
    parser.add_argument("--only-install", action="store_true", help="without the quick suite")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the environments")
    options = parser.parse_args()
    cells = [Cell(*name.split("@")) for name in options.cells]
    for cell in cells:
        if cell.set not in SETS:
            parser.error(f"expected one of {', '.join(SETS)} before the @; found {cell.set!r}")
    print("| set | Python | versions | minutes | outcome |\n|---|---|---|---|---|")
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            home = options.keep / f"{cell.set}-{cell.python}" if options.keep else Path(folder, "env")
            run(cell, home.absolute(), not options.only_install)
        print(
            f"| {cell.set} | {cell.python} | {cell.versions} | {cell.seconds / 60:.1f} | {cell.outcome} |", flush=True
        )
    return int(not all(cell.right for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
