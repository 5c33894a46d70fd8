"""Small packages that are really installed: wheels made here, put into a folder by pip."""

from __future__ import annotations

import base64
import hashlib
import pathlib
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

GOOD_BLOCK = """
    from torch import nn
    import blocks


    @blocks.block("{identity}", kind="act", abilities=("causal", "any_resolution"))
    class Made(nn.Module):
        '''y = 2 x.'''

        def forward(self, x):
            return 2 * x

        def macs(self, shape):
            return {{}}
"""
SPEC = """
    schema = "zoo.spec/1"
    [family]
    name = "net"
    task = "image-classification"
    [spec]
    input = {{ kind = "image", channels = 1, size = 32 }}
    stem = {{ block = "conv_stack", convs = [{{ kernel_size = 4, stride = 4, norm = "batch_norm" }}] }}
    dims = [16]
    depths = [1]
    layer = {{ residual = [{{ block = "mlp", act = "{act}" }}] }}
    num_classes = 10
    head = "linear_head"
    [variants.net_nano]
"""


class Package(NamedTuple):
    """A distribution: its entry points by group, its files by path."""

    name: str
    points: Mapping[str, Mapping[str, str]]
    files: Mapping[str, str]
    version: str = "1.0"


def block_of(
    name: str, module: str, source: str = GOOD_BLOCK, namespace: str = "", **more: Mapping[str, str]
) -> Package:
    """A distribution `name` with the one block `<namespace>/made@1`, defined in `<module>.py` by `source`."""
    space = namespace or module
    identity = f"{space}/made@1"
    points = {"zoo.blocks": {identity: f"{module}:Made"}, **more}
    return Package(name, points, {f"{module}.py": textwrap.dedent(source).format(identity=identity)})


def models_of(name: str, module: str, files: Mapping[str, str], blocks: Mapping[str, str] | None = None) -> Package:
    """A distribution `name` with a folder of models under the namespace `module`."""
    points: dict[str, Mapping[str, str]] = {"zoo.models": {module: module}}
    if blocks:
        points["zoo.blocks"] = blocks
    return Package(
        name, points, {f"{module}/__init__.py": "", **{f"{module}/{path}": text for path, text in files.items()}}
    )


def spec(act: str = "gelu") -> str:
    return textwrap.dedent(SPEC).format(act=act)


def wheel(package: Package, folder: pathlib.Path) -> pathlib.Path:
    """The wheel of a package, as any build tool would make it."""
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    info = f"{stem}.dist-info"
    points = "\n".join(
        f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in entries.items())
        for group, entries in package.points.items()
    )
    files = {
        **package.files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points + "\n",
    }
    record = [f"{path},sha256={_hash(text)},{len(text.encode())}" for path, text in files.items()]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def install(packages: Iterable[Package], folder: pathlib.Path) -> pathlib.Path:
    """The folder `site` into which pip has put them."""
    wheels, site = folder / "wheels", folder / "site"
    wheels.mkdir(parents=True)
    made = [str(wheel(package, wheels)) for package in packages]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, *made], check=True, capture_output=True)
    return site


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
