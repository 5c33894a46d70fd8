"""The promises of SECURITY.md that no other test holds, and that the table names tests that exist."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SPEC_PATH = [
    *sorted((ROOT / "zoo" / "specs").glob("*.py")),
    *(
        ROOT / "zoo" / name
        for name in ("catalog/names.py", "catalog/sources.py", "build/builder.py", "build/backbone.py", "build/init.py")
    ),
    *(ROOT / "blocks" / name for name in ("construct.py", "signature.py", "chain.py")),
    *(ROOT / "blocks" / "registry" / name for name in ("calls.py", "schema.py", "slots.py")),
]
CODE_FROM_NAMES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "import_module",
    "find_spec",
    "load_module",
    "globals",
}
LOOKUPS = {"getattr", "setattr", "delattr"}


def calls(path: pathlib.Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def called(call: ast.Call) -> str:
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )


@pytest.mark.parametrize("path", SPEC_PATH, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_spec_path_imports_and_evaluates_nothing(path: pathlib.Path) -> None:
    """No call makes code of a string, and no attribute is looked up by a name that comes from data."""
    found = [
        f"line {call.lineno}: {called(call)}"
        for call in calls(path)
        if called(call) in CODE_FROM_NAMES and not _is_regex(call) and (call.args or called(call) != "eval")
    ]
    found += [
        f"line {call.lineno}: {called(call)} by a name that is no constant"
        for call in calls(path)
        if called(call) in LOOKUPS and len(call.args) > 1 and not isinstance(call.args[1], ast.Constant)
        and (path.name, ast.unparse(call.args[1])) not in KNOWN_LOOKUPS
    ]  # fmt: skip
    assert found == []


KNOWN_LOOKUPS = {
    ("init.py", "name"): "tensors of a block, by the names in its own state",
    ("schema.py", "name"): "fields of a struct, by the names in its own class",
}
"""Where an attribute is looked up by a variable, and why no spec decides which."""


def _is_regex(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "re"


def test_only_the_registry_turns_a_name_into_code() -> None:
    """Only the registry and the plugins, of what the spec path imports, load modules: those of the index, and of entry points."""
    loaders = {
        str(path.relative_to(ROOT))
        for path in [*(ROOT / "blocks").glob("*.py"), *(ROOT / "blocks" / "registry").glob("*.py"), *SPEC_PATH]
        if any(
            called(call) in ("import_module", "load", "__import__") and not _reads_data(call) for call in calls(path)
        )
    }
    assert loaders == {
        "blocks/__init__.py",
        "blocks/_moved.py",
        "blocks/registry/__init__.py",
        "blocks/registry/index.py",
        "blocks/registry/plugins.py",
        "blocks/registry/registration.py",
    }


def _reads_data(call: ast.Call) -> bool:
    return (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in ("json", "tomllib")
    )


def test_importing_listing_and_creating_open_no_socket() -> None:
    code = """
import socket
def refuse(*_, **__): raise AssertionError("a socket")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import zoo, blocks, torch
zoo.list_models("*"); blocks.list_blocks(); zoo.plugins(); zoo.info("gmlp_nano"); zoo.spec("convformer_s18")
zoo.create("convformer_nano" if zoo.is_model("convformer_nano") else "vim_nano")
print(zoo.create("gmlp_nano", pretrained=True)(torch.zeros(1, 1, 32, 32)).shape[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "10"), done.stderr


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    lost = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or (name and f"def {name}(" not in (ROOT / path).read_text())
    ]
    assert len(named) >= 20 and lost == []
