"""Many plugins at once: listing them imports none of them."""

from __future__ import annotations

import json
import pathlib

from tests.plugins.conftest import Run
from tests.plugins.packages import Package, install

PLUGINS, BLOCKS, MODELS = 20, 20, 25


def many() -> list[Package]:
    """20 packages with 400 blocks and 500 models; the code of each ends the process."""
    packages = []
    for i in range(PLUGINS):
        module = f"many_{i}"
        identities = [f"{module}/block_{j}@1" for j in range(BLOCKS)]
        infos = [{"id": identity, "kind": "act", "target": f"{module}.code:Made"} for identity in identities]
        entry = {
            "family": "net",
            "file": "net.toml",
            "task": "image-classification",
            "digest": "0" * 64,
            "params": 1,
            "macs": 1,
        }
        entries = [entry | {"name": f"net_{j}", "input_size": [32, 32]} for j in range(MODELS)]
        points = {
            "zoo.blocks": {identity: f"{module}.code:Made" for identity in identities},
            "zoo.models": {module: module},
        }
        files = {
            "__init__.py": "import os\nos._exit(9)\n", "code.py": "import os\nos._exit(9)\n",
            "blocks.json": json.dumps(infos), "models/index.json": json.dumps(entries),
        }  # fmt: skip
        packages.append(Package(f"many-{i}", points, {f"{module}/{path}": text for path, text in files.items()}))
    return packages


def test_listing_imports_no_plugin(tmp_path: pathlib.Path, run_in: Run) -> None:
    site = install(many(), tmp_path)
    code = """
import sys, zoo, blocks
reports = zoo.plugins()
acts = blocks.list_blocks("many_*", kind="act")
models = zoo.list_models("many_*")
loaded = [name for name in sys.modules if name.startswith("many_")]
print(len(reports), len(acts), len(models), loaded, {"torch", "timm"} & set(sys.modules))
"""
    done = run_in(site, "-c", code)
    assert (done.returncode, done.stdout.split()) == (0, ["20", "400", "500", "[]", "set()"]), done.stderr
