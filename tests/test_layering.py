"""What may import what, and what listing may load."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = {"torch", "timm", "torchvision"}


def imported(path: pathlib.Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "blocks").rglob("*.py")), ids=lambda path: path.stem)
def test_blocks_never_import_the_zoo(path: pathlib.Path) -> None:
    assert "zoo" not in imported(path)


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "zoo" / "specs").glob("*.py")), ROOT / "zoo" / "naming.py"], ids=lambda path: path.stem
)
def test_specs_never_import_torch(path: pathlib.Path) -> None:
    assert not imported(path) & HEAVY


def test_listing_describing_and_resolving_load_no_torch() -> None:
    code = (
        "import sys, zoo, blocks; zoo.list_models('*'); blocks.list_blocks(kind='norm'); blocks.describe('mlp');"
        "zoo.spec('convformer_s18').digest; zoo.info('convformer_s18');"
        f"print({HEAVY!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
