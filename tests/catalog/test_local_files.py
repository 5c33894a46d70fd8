"""A user's file of blocks: what it defines is found, and whatever is wrong with it is one sentence."""

from __future__ import annotations

import sys

import pytest

import blocks
from zoo.catalog.local_files import load_file, private_name
from zoo.errors import InputError
from zoo.testing.isolation import own_registrations

BLOCK = '''
import blocks
from torch import nn

@blocks.block("{name}", kind="act")
class Mine(nn.Module):
    """y = x."""

    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x
'''


@pytest.fixture(autouse=True)
def _alone():
    with own_registrations():
        yield


@pytest.fixture
def file(tmp_path):
    """Writes a file; its module is forgotten afterwards."""
    path = tmp_path / "my_block.py"

    def write(content: str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    yield write
    sys.modules.pop(private_name(path), None)


def test_a_file_gives_the_blocks_that_it_defines_and_no_others(file):
    path = file(
        "from blocks.primitives.activations import Gelu\n"
        + BLOCK.format(name="mine")
        + BLOCK.format(name="acme/mine").replace("Mine", "Second")
    )
    assert load_file(path) == ["local/mine", "acme/mine"]
    assert "local/mine" in blocks.list_blocks()


def test_the_module_has_a_private_name_that_shadows_nothing(tmp_path):
    path = tmp_path / "torch.py"
    path.write_text(BLOCK.format(name="mine"))
    torch = sys.modules["torch"]
    load_file(path)
    assert sys.modules["torch"] is torch
    assert blocks.get("mine").__module__ == private_name(path)
    del sys.modules[private_name(path)]


def test_a_changed_file_replaces_its_blocks(file):
    load_file(file(BLOCK.format(name="mine")))
    first = blocks.get("mine")
    load_file(file("# longer\n" + BLOCK.format(name="mine")))
    assert blocks.get("mine") is not first


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("def broken(:\n    pass\n", "  line 1\n    expected Python; found invalid syntax"),
        ("x = 1\nif x:\ny = 2\n", "  line 3\n    expected Python; found expected an indented block after 'if' statement on line 2"),
        (b"\x00\x01", "    expected Python; found bytes that are no text"),
        (b"\xff\xfe = 1", "    expected Python; found bytes that are no text"),
        ("\nimport einx_that_is_not_here\n", "  line 2\n    expected a file that runs; found ModuleNotFoundError: No module named 'einx_that_is_not_here'"),
        ("def f():\n    raise SystemExit(3)\nf()\n", "  line 2\n    expected a file that runs; found SystemExit: 3"),
        ("raise RuntimeError\n", "  line 1\n    expected a file that runs; found RuntimeError"),
        ("def f(): f()\nf()\n", "  line 1\n    expected a file that runs; found RecursionError: maximum recursion depth exceeded"),
        ("x = 3\n", "    expected a class decorated with `@blocks.block(...)`; found none; next: see CONTRIBUTING, a block in ten minutes"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told_with_its_line(file, content, text):
    path = file(content)
    with pytest.raises(InputError) as caught:
        load_file(path)
    assert str(caught.value) == f"{path}: 1 error\n{text}"


def test_a_file_that_raises_leaves_no_module(file):
    path = file("raise RuntimeError\n")
    with pytest.raises(InputError):
        load_file(path)
    assert private_name(path) not in sys.modules


def test_a_bad_registration_in_a_file_is_told_with_its_line(file):
    path = file(BLOCK.format(name="Mine"))
    with pytest.raises(InputError) as caught:
        load_file(path)
    assert caught.value.problems[0].where == "line 5"
    assert "a name like `my_mixer`" in caught.value.problems[0].found


@pytest.mark.parametrize(("name", "found"), [("absent.py", "nothing: there is no such file"), (".", "Is a directory")])
def test_a_missing_block_file_is_a_sentence(tmp_path, name, found):
    with pytest.raises(InputError) as caught:
        load_file(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: 1 error\n    expected a Python file; found {found}"
