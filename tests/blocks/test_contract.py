"""The contract of a block names every member that is looked up, and nothing that nobody looks up."""

from __future__ import annotations

import ast
import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from blocks import contract, registry
from blocks.registry.schema import SUPPLIED
from zoo.testing.isolation import own_registrations

ROOT = pathlib.Path(__file__).parents[2]

ELSEWHERE = {
    "n_frames": "pictures of Pillow",
    "tokenizer": "language models",
    "request": "a thread of a deployed folder's `run.py`",
    "padding": "convolutions and pools of torch",
    "root": "tracers of torch.fx",
    "failures": "an error of torch.distributed.checkpoint",
    "O_NONBLOCK": "os",
    "geteuid": "os",
    "sched_getaffinity": "os",
    "malloc_trim": "the C library",
    "errno": "errors of the network",
    "strerror": "errors of the system",
    "adapt_report": "models that were changed to fit",
    "head_hidden_size": "models",
    "reason": "errors of the network",
    "response": "errors of the network",
    "status_code": "responses",
    "decorator_list": "nodes of ast",
    "name": "nodes of ast",
    "ndim": "numbers of NumPy and torch",
    "tolist": "numbers of NumPy and torch",
    "is_meta": "tensors",
    "groups": "convolutions of torch",
    "_orig_mod": "compiled models of torch",
    "grid_size": "patch embeddings of timm",
    "init_non_persistent_buffers": "modules of timm",
    "patch_embed": "models of timm",
    "pretrained_cfg": "models of timm",
    "window_size": "attentions of timm",
    "approximate": "the parameter of `gelu`, which packing spells out",
    "channels": "the input of a spec",
    "count": "whole numbers among the inputs of a spec",
    "frames": "the input of a spec",
    "input": "specs",
    "size": "the input of a spec",
    "vocab_size": "the input of a spec",
    "ctx": "features of a model that reads slots",
    "generate": "language models",
    "logits": "predictions of language models",
    "num_classes": "models that a plugin's factory makes",
    "out_indices": "models",
    "pretrained": "models",
    "spec": "models",
    "deploy": "factories of plugins",
    "digest": "specs",
    "plain": "specs",
    "namespace": "plugins",
    "tag": "what stands for a spec where a plugin's code builds the model",
    "preprocess": "deployed models",
    "holds_code": "runtimes",
    "disable_telemetry_events": "onnxruntime",
}
"""Names that are looked up on something that is no block."""
ROOMS_WITHOUT_BLOCKS = ("zoo.cli", "zoo.display", "zoo.system")


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Module -> syntax tree of every file of `blocks` and `zoo`."""
    paths = sorted(path for package in ("blocks", "zoo") for path in (ROOT / package).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
        if "_template" not in path.parts
    }


def looked_up(tree: ast.Module) -> Iterator[str]:
    """The names that `getattr` and `hasattr` ask for by a literal; those of Python's own protocols aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and not name.value.startswith("__"):
                yield name.value


def mentioned(tree: ast.Module) -> set[str]:
    """Every attribute that a file takes, every function that it defines and every literal word in it."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return names | {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@functools.cache
def lookups() -> dict[str, set[str]]:
    """Name -> the modules that look it up."""
    modules: dict[str, set[str]] = {}
    for module, tree in sources().items():
        for name in looked_up(tree) if not module.startswith(ROOMS_WITHOUT_BLOCKS) else ():
            modules.setdefault(name, set()).add(module)
    return modules


def test_every_name_that_is_looked_up_is_in_the_contract() -> None:
    step = "describe it in blocks/contract.py, or name its owner in ELSEWHERE if that is no block"
    unknown = {name: where for name, where in lookups().items() if (name in contract.NAMES) == (name in ELSEWHERE)}
    assert unknown == {}, step


def test_no_name_elsewhere_is_stale() -> None:
    assert {*ELSEWHERE} - {*lookups()} == set(), "nobody looks them up: take them out of ELSEWHERE"


def test_every_caller_of_a_member_mentions_it() -> None:
    callers = {module for member in contract.MEMBERS for module in member.callers}
    words = {module: mentioned(sources()[module]) for module in callers}
    for member in contract.MEMBERS:
        assert member.callers, member.name
        assert [module for module in member.callers if member.name not in words[module]] == [], member.name


def test_every_module_that_looks_up_a_member_is_among_its_callers() -> None:
    callers = {member.name: {*member.callers} for member in contract.MEMBERS}
    silent = {name: lookups()[name] - callers[name] for name in callers.keys() & lookups().keys()}
    assert {name: modules for name, modules in silent.items() if modules} == {}


def test_members_are_of_kinds_that_there_are_and_stand_there_once() -> None:
    assert len(contract.NAMES) == len(contract.MEMBERS)
    assert {kind for member in contract.MEMBERS for kind in member.kinds} <= {*registry.KINDS}


def test_members_of_the_decorator_are_those_that_it_writes() -> None:
    class Plain:
        def forward(self) -> None: ...

    before = {*vars(Plain)}
    with own_registrations():
        registry.block("plain", kind="act")(Plain)
    assert {*vars(Plain)} - before - {"__init__"} == {
        member.name for member in contract.MEMBERS if member.status == contract.DECORATOR
    }


def test_arguments_are_those_that_the_builder_supplies() -> None:
    assert [argument.name for argument in contract.ARGUMENTS] == [*SUPPLIED, "bias"]


def test_the_page_is_what_the_contract_says() -> None:
    assert contract.PAGE.read_text(encoding="utf-8") == contract.markdown(), "stale: run `python -m blocks.contract`"


def test_check_answers_by_its_exit_code(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.md"
    assert contract.main(["--check"], path) == 1
    assert capsys.readouterr().out == "page.md is stale: run `python -m blocks.contract`\n"
    assert contract.main([], path) == 0
    assert contract.main(["--check"], path) == 0


def test_the_contract_loads_no_torch() -> None:
    code = "import sys, blocks.contract; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
