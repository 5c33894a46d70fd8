"""`zoo new-plugin`: a package of one's own, made from the template that the zoo carries, or around a file with a block."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

from blocks.registry import registration as registry
from blocks.registry.plugins import NAMESPACE, RESERVED, owner_of
from zoo.authoring import indexing
from zoo.catalog.collection import Collection
from zoo.catalog.local_files import load_file
from zoo.errors import InputError, Problem, SpecError
from zoo.system.folders import making

ACME = "acme"
TEXT = (".toml", ".md", ".py", ".json", ".jsonl")
HOST = """schema = "zoo.spec/1"

[family]
name = "{name}net"
title = "A small MetaFormer with {block}"
task = "image-classification"
licence = "Apache-2.0"

[spec]
input = {{ kind = "image", channels = 1, size = 32 }}
num_classes = 10
stem = {{ block = "conv_stack", convs = [{{ kernel_size = 4, stride = 4, norm = "batch_norm" }}] }}
dims = [32, 64]
depths = [2, 2]
downsample = {{ block = "conv_stack", convs = [{{ kernel_size = 2, stride = 2, norm = "batch_norm" }}] }}
layer = [
  {{ residual = ["{norm}", "{token_mixer}"] }},
  {{ residual = ["{norm}", {channel_mixer}] }},
]
head = "linear_head"

[variants.{name}net_nano]
"""


class Made(NamedTuple):
    """A new package: its folder, its models, and a sentence where a model could not be made."""

    folder: pathlib.Path
    models: list[str]
    note: str = ""


def new_plugin(namespace: str, folder: str = "", file: str = "") -> Made:
    """Writes the package `<namespace>-blocks`: the template with its weights under the new name, or the blocks of a Python file.

    It is made whole or not at all. With a file, each of its blocks becomes `<namespace>/<name>@1`, and the first one that fits gets a small
    net to stand in. Raises InputError for a name or a folder that is taken, and for a file that defines no block.
    """
    _check(namespace)
    target = pathlib.Path(folder or f"{namespace}-blocks")
    if os.path.exists(target):
        raise InputError("new-plugin", Problem(str(target), "a folder that is not there yet", "one that is"))
    try:
        with making(target) as draft:
            return _filled(draft, namespace, file)._replace(folder=target)
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError("new-plugin", Problem(str(target), "a place for a package", found)) from None


def _filled(draft: pathlib.Path, namespace: str, file: str) -> Made:
    """The whole package, in a folder that is there and empty."""
    _copy(draft, namespace)
    package = draft / f"{namespace}_blocks"
    home = Collection("", package / "models", "")
    if file:
        return _around(draft, namespace, pathlib.Path(file), home)
    with _alone(draft):
        _rename_weights(package, namespace)
    _describe(draft, namespace, ["shift_mixer"], home)
    return Made(draft, [f"{namespace}/shiftnet_nano"])


def template() -> pathlib.Path:
    """The folder of the template: in the wheel, or beside this package in a checkout."""
    inside = pathlib.Path(__file__).parents[1] / "_template"
    return inside if inside.is_dir() else pathlib.Path(__file__).parents[2] / "plugins" / "zoo-plugin-template"


def _check(namespace: str) -> None:
    if not NAMESPACE.fullmatch(namespace):
        raise InputError(
            "new-plugin",
            Problem("name", "a namespace of lower-case letters, digits and _, as `acme`", f"`{namespace}`"),
        )
    if namespace in RESERVED:
        raise InputError(
            "new-plugin", Problem("name", "a namespace that can be claimed", f"`{namespace}`, which cannot")
        )
    if (owner := owner_of(namespace)) is not None:
        raise InputError(
            "new-plugin", Problem("name", "a namespace that nobody has", f"`{namespace}`, which is {owner.owner}'s")
        )


def _copy(target: pathlib.Path, namespace: str) -> None:
    """The template with the namespace in place of its own, in paths and in texts."""
    origin = template()
    for path in sorted(origin.rglob("*")):
        inside = path.relative_to(origin)
        if path.is_dir() or any(part.startswith((".", "__pycache__")) for part in inside.parts):
            continue
        place = target / str(inside).replace(ACME, namespace)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in TEXT:
            place.write_text(path.read_text(encoding="utf-8").replace(ACME, namespace), encoding="utf-8")
        else:
            shutil.copyfile(path, place)


@contextlib.contextmanager
def _alone(target: pathlib.Path) -> Iterator[None]:
    """Within, the modules of the new package import, and what they register is forgotten afterwards."""
    from zoo.testing.isolation import own_registrations

    before = set(sys.modules)
    sys.path.insert(0, str(target.resolve()))
    try:
        with own_registrations():
            yield
    finally:
        sys.path.remove(str(target.resolve()))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(target.resolve())):
                del sys.modules[name]


def _rename_weights(package: pathlib.Path, namespace: str) -> None:
    """The template's weights are those of another name's digest: the proof that they compute the same carries them over."""
    import msgspec

    from zoo.authoring.renaming import Names, prove
    from zoo.specs.read import read_file
    from zoo.specs.resolve import resolve
    from zoo.weights.manifest import read_manifest, write_manifest

    origin = template() / "acme_blocks"
    for file in (origin / "shift_mixer.py", package / "shift_mixer.py"):
        load_file(file)
    names = Names(f"{ACME}/shift_mixer@1", f"{namespace}/shift_mixer@1")
    for path in sorted((package / "models" / "weights").glob("*.json")):
        variant = path.name.partition(".")[0]
        before, after = (resolve(read_file(root / "models" / "shiftnet.toml"), variant) for root in (origin, package))
        names.check(before, after)
        manifest = read_manifest(path)
        prove(before, after, path.with_name(manifest.source.partition(":")[2]))
        write_manifest(msgspec.structs.replace(manifest, digest=after.digest), path)


def _describe(target: pathlib.Path, namespace: str, modules: list[str], home: Collection) -> None:
    """The data by which the package is listed, written by its own modules."""
    with _alone(target):
        for module in modules:
            importlib.import_module(f"{namespace}_blocks.{module}")
        blocks = [identity for identity in registry._loaded if identity.startswith(f"{namespace}/")]
        indexing.write(home.folder.parent, blocks, home)


def _around(target: pathlib.Path, namespace: str, file: pathlib.Path, home: Collection) -> Made:
    """The package of a file: the file with its blocks renamed, entry points for them, and a net for one of them."""
    package, module = home.folder.parent, _module_name(file)
    with _alone(target):
        load_file(file)  # it runs, and defines blocks: said before anything is written
    for path in (package / "shift_mixer.py", package / "blocks.json", target / "tests" / "test_shift_mixer.py"):
        path.unlink()
    shutil.rmtree(home.folder)
    home.folder.mkdir()
    classes = _renamed(file, package / f"{module}.py", namespace)
    points = "\n".join(f'"{identity}" = "{namespace}_blocks.{module}:{cls}"' for cls, identity in classes.items())
    project = target / "pyproject.toml"
    point = f'"{namespace}/shift_mixer@1" = "{namespace}_blocks.shift_mixer:ShiftMixer"'
    project.write_text(project.read_text(encoding="utf-8").replace(point, points), encoding="utf-8")
    name = next(iter(classes.values())).partition("/")[2].partition("@")[0]
    _write_readme(target, namespace, module, name)
    with _alone(target):
        importlib.import_module(f"{namespace}_blocks.{module}")
        infos = [registry.describe(identity) for identity in classes.values()]
        note = next((_host(info, name, home) for info in infos), "")
    if note:
        text = project.read_text(encoding="utf-8")
        project.write_text(
            re.sub(r'# the package with the folder `models`\n\[project.entry-points."zoo.models"\]\n.*\n\n', "", text),
            encoding="utf-8",
        )
        shutil.rmtree(home.folder)
    _describe(target, namespace, [module], home)
    return Made(target, [] if note else [f"{namespace}/{name}net_nano"], note)


def _renamed(file: pathlib.Path, place: pathlib.Path, namespace: str) -> dict[str, str]:
    """Writes the file with `<namespace>/<name>@1` as the names of its blocks; returns class -> identity."""
    text = file.read_text(encoding="utf-8")
    lines, identities = text.splitlines(keepends=True), {}
    for node in ast.walk(ast.parse(text)):
        calls = [
            decorator
            for decorator in getattr(node, "decorator_list", [])
            if isinstance(decorator, ast.Call) and _is_block(decorator.func)
        ]
        if isinstance(node, ast.ClassDef) and calls and calls[0].args and isinstance(calls[0].args[0], ast.Constant):
            first = calls[0].args[0]
            name = str(first.value).rpartition("/")[2]
            identities[node.name] = f"{namespace}/{name}" + ("" if "@" in name else "@1")
            line = lines[first.lineno - 1].encode()
            head, tail = line[: first.col_offset], line[first.end_col_offset :]
            lines[first.lineno - 1] = (head + f'"{identities[node.name]}"'.encode() + tail).decode()
    if not identities:
        expected = 'a class decorated with `@blocks.block("name", ...)`'
        raise InputError("new-plugin", Problem(str(file), expected, "blocks whose names are not written out"))
    place.write_text("".join(lines), encoding="utf-8")
    return identities


def _is_block(function: ast.expr) -> bool:
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return name == "block"


def _host(info: registry.BlockInfo, name: str, home: Collection) -> str:
    """Writes a small net with the block in the slot of its kind; where that cannot be, says why."""
    from zoo.build.builder import check
    from zoo.specs.read import read_bytes
    from zoo.specs.resolve import resolve

    slots = {"norm": "batch_norm", "token_mixer": "pooling", "channel_mixer": '{ block = "mlp", ratio = 2 }'}
    if info.kind == "act":
        slots["channel_mixer"] = f'{{ block = "mlp", ratio = 2, act = "{info.name}" }}'
    elif info.kind in slots:
        slots[info.kind] = f'"{info.name}"' if info.kind == "channel_mixer" else info.name
    else:
        return f"no net was made: a block of kind {info.kind} needs one of its own; write models/<family>.toml"
    text = HOST.format(name=name, block=info.name, **slots)
    try:
        check(resolve(read_bytes(text.encode(), f"{name}net.toml"), f"{name}net_nano"))
    except SpecError as error:
        return f"no net was made: {error.problems[0].where}: {error.problems[0].sentence()}"
    (home.folder / f"{name}net.toml").write_text(text, encoding="utf-8")
    return ""


def _module_name(file: pathlib.Path) -> str:
    name = re.sub(r"\W", "_", file.stem).lower()
    return name if name.isidentifier() else f"block_{name}"


def _write_readme(target: pathlib.Path, namespace: str, module: str, name: str) -> None:
    path = target / "README.md"
    text = path.read_text(encoding="utf-8").replace("shift_mixer", module if module == name else name)
    path.write_text(text.replace("shiftnet", f"{name}net"), encoding="utf-8")
