"""The code of the blocks in use, cut out of this package: forward passes and what they call, without the registry around them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types
from typing import Any

import torch
from torch import nn

from zoo.exporting.pruning import without_checks

ENTRIES = ("forward", "enter", "exit")
"""Methods that somebody outside a block calls."""
LEFT_OUT = {"no_decay", "is_head"}
"""Class attributes that matter to training or to the registry alone."""


def docstring_text(text: str) -> str:
    """A text as it can stand between three double quotes: none of its letters ends the string or begins an escape."""
    text = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'{text[:-1]}\\"' if text.endswith('"') else text


class Sources:
    """Definitions by name, in the order in which they can stand in a file."""

    def __init__(self, with_context: bool = False) -> None:
        self.with_context = with_context
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []  # keeps what was named alive, so that ids stay unique
        self.definitions: dict[str, str] = {}
        self.layers: set[str] = set()
        """Classes made from torch's layers, whose constructors they keep."""
        self.imports: set[str] = set()
        self.ops: dict[str, str] = {}

    def class_name(self, cls: type) -> str:
        """Emits a block's class, and all that its methods need; returns its name in the file."""
        if id(cls) in self.names:
            return self.names[id(cls)]
        name = self._claim(cls, cls.__name__)
        node: Any = _parsed(cls)[1].body[0]
        base = self._base(cls)
        if base.startswith("nn.") or base in self.layers:
            self.layers.add(name)
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        head, bodies = [f"class {name}({base}):"], []
        if doc := ast.get_docstring(node):
            formula = docstring_text(doc.split("\n\n")[0])  # what follows is on training and folding
            head.append(textwrap.indent(f'"""{formula}"""', "    "))
        attributes = _attributes(cls, node)
        if attributes:
            head += ["", *(f"    {line}" for line in attributes)]
        parent = next((other for other in cls.__mro__[1:] if other.__module__.startswith("blocks.")), None)
        inherited = set(self.reached(parent)) if parent else set()
        for method in self.reached(cls):
            if method in methods or method not in inherited:
                owner = next(base for base in cls.__mro__ if method in base.__dict__)
                source, module = _parsed(owner)
                definition: Any = module.body[0]
                function = next(item for item in definition.body if getattr(item, "name", "") == method)
                bodies.append(textwrap.indent(self._text(function, source, owner), "    "))
        if len(head) == 1 and not bodies:
            head.append("    pass")
        lines = ["\n".join(head), *bodies]
        self.definitions[name] = "\n\n".join(lines)
        return name

    def reached(self, cls: type) -> list[str]:
        """Methods of `cls` and its bases that a forward pass gets to, in the order of the source."""
        methods = _methods(cls)
        todo = [
            name for name in (*ENTRIES, *(["reset_buffers"] if "reset_buffers" in methods else [])) if name in methods
        ]
        names: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in names:
                names.add(name)
                todo += [other for other in _reads(cls, name) if other in methods]
        return [name for name in methods if name in names]

    def attributes_used(self, cls: type) -> set[str]:
        """What the emitted methods read from `self`."""
        return {name for method in self.reached(cls) for name in _reads(cls, method)}

    def _base(self, cls: type) -> str:
        for base in cls.__mro__[1:]:
            if base.__module__.startswith("torch.nn"):
                return "Block" if base is nn.Module else f"nn.{base.__name__}"
            if base.__module__.startswith("blocks.") and (
                self.reached(base) or _attributes(base, _parsed(base)[1].body[0])
            ):
                return self.class_name(base)
        return "Block"

    def _function(self, function: Any) -> None:
        name = self._claim(function, function.__name__)
        text, tree = _parsed(function)
        self.definitions[name] = ""  # claims its place before what it needs, so that recursion ends
        body = self._text(tree.body[0], text, function)
        del self.definitions[name]
        self.definitions[name] = re.sub(r"^def \w+", f"def {name}", body, count=1)

    def _claim(self, thing: Any, wanted: str) -> str:
        names = set(self.names.values())
        name = wanted
        if name in names:
            name = f"{wanted}_{thing.__module__.rpartition('.')[2]}"
        self.names[id(thing)] = name
        self.kept.append(thing)
        return name

    def _text(self, node: Any, text: str, owner: Any) -> str:
        """The source of a function, with what it refers to emitted, and renamed where two modules use one name."""
        module = sys.modules[owner.__module__]
        renamed = {}
        for name in sorted(_global_names(node)):
            if hasattr(module, name) and (name != "Context" or self.with_context):
                renamed[name] = self.refer(getattr(module, name), name, owner.__module__)
        decorators = [
            line.lineno for line in node.decorator_list if isinstance(line, ast.Name)
        ]  # staticmethod, property
        start = min([node.lineno, *decorators])
        body = textwrap.dedent("\n".join(text.split("\n")[start - 1 : node.end_lineno]))
        for name, new in renamed.items():
            if new != name:
                body = re.sub(rf"(?<![\w.]){name}\b", new, body)
        if not self.with_context:
            body = body.replace("ctx: Context | None", "ctx: None")
        return re.sub(r"  # (?:type: ignore|noqa)[^\n]*", "", body)

    def refer(self, thing: Any, name: str, caller: str = "") -> str:
        """The name by which a global is to be called in the file; emits it when it is ours."""
        if getattr(thing, "__module__", "") == "blocks.ops.dispatch":
            return self._dispatch(thing, caller)
        if id(thing) in self.names:
            return self.names[id(thing)]
        if isinstance(thing, types.ModuleType):
            self.imports.add(_import_of(thing, name))
            return name
        home = getattr(thing, "__module__", "")
        if isinstance(thing, torch.library.CustomOpDef):
            thing = thing._init_fn
            home = thing.__module__
            if id(thing) in self.names:
                return self.names[id(thing)]
        if home.startswith("blocks."):
            if isinstance(thing, type):
                return self._plain_class(thing)
            plain = inspect.unwrap(thing)
            if id(plain) not in self.names:
                self._function(plain)
            return self.names.setdefault(id(thing), self.names[id(plain)])
        if isinstance(thing, types.GenericAlias) or (home == "typing" and hasattr(thing, "__args__")):
            homes = r"\b(typing|collections\.abc)\.(\w+)"
            self.imports |= {f"from {module} import {word}" for module, word in re.findall(homes, repr(thing))}
            text = re.sub(homes, r"\2", repr(thing)).replace("'", '"')
            self.definitions.setdefault(name, f"{name} = {text}")
            return name
        if isinstance(thing, (int, float, str, tuple, list, dict)) and not home:
            value = repr(thing).replace("inf", 'float("inf")') if isinstance(thing, float) else repr(thing)
            if self.definitions.get(name, f"{name} = {value}") != f"{name} = {value}":
                name = f"{name}_{caller.rpartition('.')[2]}"  # another module's constant of that name
            self.definitions[name] = f"{name} = {value}"
            return name
        if home.startswith("torch") and name in ("Tensor", "nn"):
            self.imports.add(f"from torch import {name}")
            return name
        if (isinstance(thing, type) and home in ("typing", "collections.abc")) or name in ("Any", "NamedTuple"):
            self.imports.add(
                f"from typing import {name}" if name in ("Any", "NamedTuple") else f"from {home} import {name}"
            )
            return name
        self.imports.add(f"from {home} import {name}")
        return name

    def _plain_class(self, cls: type) -> str:
        """A class that is no block: a named tuple, the context."""
        if issubclass(cls, nn.Module):
            return self.class_name(cls)
        name = self._claim(cls, cls.__name__)
        text, tree = _parsed(cls)
        node: Any = tree.body[0]
        if issubclass(cls, tuple):
            self.imports.add("from typing import NamedTuple")
        elif not issubclass(cls, Exception):
            self.imports |= {"from dataclasses import dataclass, field", "from typing import Any"}
        self.definitions[name] = ""  # claims its place before what it needs
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        end = methods[0].lineno - 1 if methods else node.end_lineno
        fields = textwrap.dedent("\n".join(text.split("\n")[node.lineno - 1 : end])).rstrip()
        bodies = [textwrap.indent(self._text(item, text, cls), "    ") for item in methods]
        del self.definitions[name]
        body = "\n\n".join([fields, *bodies])
        self.definitions[name] = body if issubclass(cls, (tuple, Exception)) else f"@dataclass\n{body}"
        return name

    def _dispatch(self, thing: Any, caller: str) -> str:
        """Every op runs its eager form, and where a gradient is wanted the reference, which autograd can follow."""
        from blocks.ops.dispatch import _known

        name = self.names.get(id(thing)) or self._claim(thing, "implementation")
        called = {value for value in vars(sys.modules[caller]).values() if isinstance(value, str)}
        for op, backends in _known.items():
            if op in called and "reference" in backends and op not in self.ops:
                self.ops[op] = ""  # claims its place before what it needs
                kinds = [backends["eager"], backends["reference"]]
                names = [self.refer(kind, kind.__name__, kind.__module__) for kind in kinds]
                self.ops[op] = f"({', '.join(names)})"
        self.definitions[name] = (
            f"def {name}(op: str, *tensors):\n"
            '    """The fast form of an op, or the one that autograd can follow."""\n'
            "    return OPS[op][torch.is_grad_enabled()]"
        )
        return name

    def finished(self) -> dict[str, str]:
        """All definitions, with the table of ops behind what it names."""
        if not self.ops:
            return self.definitions
        rows = "\n".join(f'    "{op}": {kinds},' for op, kinds in self.ops.items())
        return self.definitions | {"OPS": "OPS = {\n" + rows + "\n}"}


def _parsed(thing: Any) -> tuple[str, ast.Module]:
    text = without_checks(textwrap.dedent(inspect.getsource(thing)))
    return text, ast.parse(text)


def _methods(cls: type) -> dict[str, ast.FunctionDef]:
    """Functions of a class and of those of its bases that are ours; its own go before."""
    methods: dict[str, ast.FunctionDef] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("blocks."):
            node: Any = _parsed(base)[1].body[0]
            methods |= {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    return methods


def _reads(cls: type, method: str) -> set[str]:
    """What a method reads from `self`; where it goes on with `super()`, what that of the base reads, too."""
    names: set[str] = set()
    for base in cls.__mro__:
        node: Any = _parsed(base)[1].body[0] if base.__module__.startswith("blocks.") else None
        function = next((item for item in node.body if getattr(item, "name", "") == method), None) if node else None
        if function is not None:
            names |= _self_names(function)
            if "super()" not in ast.unparse(function):
                break
    return names


def _self_names(node: ast.AST) -> set[str]:
    return {
        item.attr
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self"
    }


def _global_names(node: ast.FunctionDef) -> set[str]:
    """Names that a function reads, but not its decorators; the annotations are text, and name types only."""
    parts = [part for part in ast.iter_child_nodes(node) if part not in node.decorator_list]
    return {item.id for part in parts for item in ast.walk(part) if isinstance(item, ast.Name)}


def _attributes(cls: Any, node: Any) -> list[str]:
    lines = []
    if cls.__dict__.get("layout", "any") != "any":
        lines.append(f'layout = "{cls.layout}"')
    if cls.__dict__.get("takes_ctx") and not any(getattr(base, "takes_ctx", False) for base in cls.__mro__[1:]):
        lines.append("takes_ctx = True")
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            name = item.targets[0].id
            if name not in LEFT_OUT and name != "takes_ctx":
                lines.append(ast.unparse(item))
    return lines


def _import_of(module: types.ModuleType, name: str) -> str:
    if module.__name__ == "torch.nn":
        return "from torch import nn"
    if module.__name__ == "torch.nn.functional":
        return "from torch.nn import functional as F"
    return f"import {module.__name__}" + (f" as {name}" if name != module.__name__ else "")
