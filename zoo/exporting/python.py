"""One readable Python file that needs torch alone, with the state's names of the model it came from."""

from __future__ import annotations

import ast
import builtins
import keyword
import os
import pathlib
import re
from collections.abc import Collection
from itertools import groupby
from typing import Any

from torch import nn

from blocks.chain import run
from blocks.context import Context
from blocks.packing import unpacked
from blocks.registry.words import LONGEST_NAME, LONGEST_TEXT, printable
from zoo.errors import InputError, Problem
from zoo.exporting.expressions import Call, Functions, constants, expression, leaves, repeated, replaced, without
from zoo.exporting.pruning import pruned
from zoo.exporting.sources import Sources, docstring_text
from zoo.system.folders import replacing

BLOCK = '''class Shape(tuple):
    """The shape of a parameter."""

    def __new__(cls, *sides: int):
        return super().__new__(cls, sides)


class Kept(Shape):
    """The shape of a buffer that is part of the state."""


class Made:
    """A buffer that is computed, and no part of the state."""

    def __init__(self, *sides: int, dtype: torch.dtype = torch.float32):
        self.sides, self.dtype = sides, dtype


def part(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    return name, module


def modules(*members: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(members)


class Block(nn.Module):
    """Holds what it is given: parts by position or name, parameters and buffers by shape, and plain values."""

    def __init__(self, *parts, **members):
        super().__init__()
        for i, given in enumerate(parts):
            name, module = given if isinstance(given, tuple) else (str(i), given)
            if module is not None:
                self.add_module(name, module)
        for name, value in members.items():
            if isinstance(value, Kept):
                self.register_buffer(name, torch.zeros(value))
            elif isinstance(value, Made):
                self.register_buffer(name, torch.empty(*value.sides, dtype=value.dtype), persistent=False)
            elif isinstance(value, Shape):
                self.register_parameter(name, nn.Parameter(torch.zeros(value)))
            else:
                setattr(self, name, value)
        if hasattr(self, "reset_buffers"):
            self.reset_buffers()'''

STAGE = '''class Stage(nn.Module):
    """y = post(exit(layers(enter(downsample(x))))); what is not given is not there."""

    def __init__(self, layers, downsample=None, view=None, post=None):
        super().__init__()
        self.layers, self.downsample, self.view, self.post = layers, downsample, view, post

    def forward(self, x: Tensor, ctx=None) -> Tensor:
        if self.downsample is not None:
            x = run(self.downsample, x, ctx)
        if self.view is not None:
            x, memo = self.view.enter(x)
        for layer in self.layers:
            x = layer(x, ctx)
        if self.view is not None:
            x = self.view.exit(x, memo)
        return x if self.post is None else run(self.post, x, ctx)'''

PLAIN_STAGE = '''class Stage(nn.Module):
    """y = layers(downsample(x)); what is not given is not there."""

    def __init__(self, layers, downsample=None):
        super().__init__()
        self.layers, self.downsample = layers, downsample

    def forward(self, x: Tensor, ctx=None) -> Tensor:
        if self.downsample is not None:
            x = run(self.downsample, x, ctx)
        for layer in self.layers:
            x = layer(x, ctx)
        return x'''


def export_python(model: Any, path: str | os.PathLike[str], force: bool = False) -> pathlib.Path:
    """Writes the file, whole or not at all, and returns its path.

    Raises InputError for a file that is there already, unless `force`, and for a model of tokens.
    """
    target = pathlib.Path(path)
    if os.path.exists(target) and not force:  # and not target.exists(), which raises for a name that is too long
        raise InputError(str(target), Problem("", "a new file", "one that exists", next="pass force=True, or --force"))
    text = python_text(model)
    try:
        with replacing(target) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(str(target), Problem("", "a folder to write to", error.strerror or str(error))) from None
    return target


def python_text(model: Any) -> str:
    """The file for a Backbone of images, in train or deploy form, as text. Layers that are packed are written as the
    plain ones that they were. Raises InputError for a model of tokens.
    """
    model = unpacked(model)
    if hasattr(model.spec.input, "vocab_size"):
        instead = "torch.export.export(model, (ids,)) takes it"
        raise InputError("export", Problem(model.spec.name, "a model of images", "a model of tokens", next=instead))
    sources = Sources(with_context=model.reads_slots)
    sources.refer(run, "run")
    if model.reads_slots:
        sources.refer(Context, "Context")
    trees = _trees(model, sources)
    fixed = constants(list(trees.values()), sources.layers)
    trees = {name: without(tree, fixed) for name, tree in trees.items()}
    taken = sources.finished()
    small = Functions(leaves(list(trees.values())), taken=taken)
    trees = {name: replaced(tree, small.calls) for name, tree in trees.items()}
    middle = Functions(repeated([tree for tree in trees.values() if isinstance(tree, Call)]), taken=taken)
    trees = {name: replaced(tree, middle.calls) if isinstance(tree, Call) else tree for name, tree in trees.items()}
    functions = Functions(
        [tree for name, tree in trees.items() if ".layers." in name and isinstance(tree, Call)], "layer", taken
    )
    classes = [_with_values(text, fixed.get(name, {})) for name, text in taken.items()]
    parts = ["from __future__ import annotations\n\n" + _imports(sources.imports), BLOCK]
    stage = PLAIN_STAGE if all(part.view is None and part.post is None for part in model.stages) else STAGE
    parts += [*classes, stage, *small.definitions, *middle.definitions, *functions.definitions]
    try:
        name = python_name(model.spec.name, _defined("\n\n\n".join(parts)))
        whole = [f"{_header(model, name)}\n\n{parts[0]}", *parts[1:], _net(model, name, trees, functions)]
        text = pruned("\n\n\n".join(whole) + "\n", has_views=any(part.view is not None for part in model.stages))
        ast.parse(text)
    except SyntaxError as error:  # the code of a block that we cannot cut out
        problem = Problem(f"line {error.lineno}", "Python", error.msg, next="please report which model this is")
        raise InputError(f"export of {model.spec.name}", problem) from None
    return text


def python_name(name: str, taken: Collection[str]) -> str:
    """What a model is called in its file: its name, as far as it can be that of a function, and of a class, that nothing there has."""
    word = re.sub(r"[^a-z0-9_]+", "_", name.rpartition("/")[2].lower()).strip("_")[:LONGEST_NAME] or "net"
    word = word if word[0].isalpha() else f"net_{word}"
    while any(keyword.iskeyword(spelling) or spelling in taken for spelling in (word, _camel(word))):
        word += "_net"
    return word


def _defined(text: str) -> set[str]:
    """The names that mean something at the top of a file: Python's own, and those that it defines or imports."""
    nodes = ast.walk(ast.parse(text))
    definitions = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return definitions | {*dir(builtins), "torch", "nn", "Tensor", "F", "math", "OPS"}


def _imports(lines: set[str]) -> str:
    """Python's own first, then torch; several names of one module on one line."""
    names: dict[str, set[str]] = {"torch": {"Tensor", "nn"}}
    plain = {"import torch"}
    for line in lines:
        if line.startswith("import "):
            plain.add(line)
        else:
            module, name = line.removeprefix("from ").split(" import ", 1)
            names.setdefault(module, set()).update(name.split(", "))
    froms = {
        f"from {module} import {', '.join(sorted(members, key=lambda name: (name[0].islower(), name)))}"
        for module, members in names.items()
    }
    groups = [
        sorted(line for line in source if ("torch" in line.split()[1]) == ours)
        for ours in (False, True)
        for source in (plain, froms)
    ]
    first, second = "\n".join([*groups[0], *groups[1]]), "\n".join([*groups[2], *groups[3]])
    return f"{first}\n\n{second}" if first else second


def _header(model: Any, name: str) -> str:
    spec = model.spec
    title, paper, code, licence = (
        docstring_text(printable(text, LONGEST_TEXT))
        for text in (spec.family.title, spec.family.paper, spec.family.code, spec.family.licence)
    )
    lines = [f'"""{docstring_text(printable(spec.name))}: {title or "a model of its own"}.', ""]
    lines += [f"{key}: {value}" for key, value in (("Paper", paper), ("Code of the authors", code)) if value]
    lines += [f"Licence: {licence}", f"Spec: {spec.digest}", ""]
    lines += ["Made by blockzoo; needs torch alone. The state has the names of the model it came from:", ""]
    lines += [f"    net = {name}()", "    net.load_state_dict(safetensors.torch.load_file(path))", '"""']
    return "\n".join(lines)


def _trees(model: Any, sources: Sources) -> dict[str, Any]:
    """The expressions of all parts, by their path."""
    parts: dict[str, nn.Module | None] = {"stem": model.stem, "head": model.head}
    for i, stage in enumerate(model.stages):
        parts |= {f"stages.{i}.{key}": getattr(stage, key) for key in ("downsample", "view", "post")}
        parts |= {f"stages.{i}.layers.{j}": layer for j, layer in enumerate(stage.layers)}
    return {path: expression(part, sources) for path, part in parts.items() if part is not None}


def _with_values(text: str, values: dict[str, str]) -> str:
    """A class with plain values put before its methods."""
    if not values:
        return text
    lines = "".join(f"\n    {key} = {value}" for key, value in values.items())
    at = min((i for i in (text.find("\n\n    def "), text.find("\n\n    @")) if i >= 0), default=len(text))
    gap = "" if re.search(r"\n    \w+ = [^\n]*$", text[:at]) else "\n"
    return text[:at] + gap + lines + text[at:]


def _stage(model: Any, index: int, trees: dict[str, Any], functions: Functions) -> Call:
    texts = []
    for j in range(len(model.stages[index].layers)):
        tree = trees[f"stages.{index}.layers.{j}"]
        texts.append(functions.calls[tree.flat()] if isinstance(tree, Call) else tree)
    runs = [(text, len(list(group))) for text, group in groupby(texts)]
    layers = [text if count == 1 else f"*({text} for _ in range({count}))" for text, count in runs]
    parts = [(key, trees[path]) for key in ("downsample", "view", "post") if (path := f"stages.{index}.{key}") in trees]
    return Call("Stage", [Call("modules", layers), *parts])


def _net(model: Any, name: str, trees: dict[str, Any], functions: Functions) -> str:
    ctx = "Context()" if model.reads_slots else "None"
    stages = [_stage(model, i, trees, functions) for i in range(len(model.stages))]
    lines = [
        f"class {_camel(name)}(nn.Module):",
        f'    """{docstring_text(printable(model.spec.name))}."""',
        "",
        "    def __init__(self) -> None:",
        "        super().__init__()",
    ]
    head = trees.get("head")
    lines += _lines(trees.get("stem", Call("nn.Identity", [])), "self.stem = ")
    lines += Call("modules", list(stages)).lines(8, "self.stages = ")
    if head is not None:
        lines += _lines(head, "self.head = ")
    lines += [
        "        self.to(memory_format=torch.channels_last)",
        "",
        "    def forward(self, x: Tensor) -> Tensor:",
        f"        ctx = {ctx}",
        "        x = run(self.stem, x.contiguous(memory_format=torch.channels_last), ctx)",
        "        for stage in self.stages:",
        "            x = stage(x, ctx)",
        "        return self.head(x, ctx)" if head is not None else "        return x",
        "",
        "",
        f"def {name}() -> {_camel(name)}:",
        '    """The net in eval mode, without its weights."""',
        f"    return {_camel(name)}().eval()",
    ]
    return "\n".join(lines)


def _lines(tree: Any, lead: str) -> list[str]:
    return tree.lines(8, lead) if isinstance(tree, Call) else [" " * 8 + lead + str(tree)]


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
