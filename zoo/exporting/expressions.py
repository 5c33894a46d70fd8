"""A module tree as constructor expressions; expressions that differ in numbers alone become one function."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import nn

from blocks.tables import Table
from blocks.wiring.parallel import Parallel
from zoo.exporting.sources import Sources

WIDTH = 120
NUMBER = re.compile(r"(?<![\w.\"'-])\d+(?![\w.\"'])")
PLAIN = (int, float, str, bool, type(None))
NATIVE = (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.Linear, nn.LayerNorm)
"""Layers of torch that are written with the arguments of their own constructors."""


class Call(NamedTuple):
    """name(*arguments), each an expression or text."""

    name: str
    arguments: list[Any]  # of text, Call, or (keyword, text or Call)

    def flat(self) -> str:
        return f"{self.name}({', '.join(_flat(argument) for argument in self.arguments)})"

    def lines(self, indent: int = 0, lead: str = "", tail: str = "") -> list[str]:
        """The expression within WIDTH columns."""
        whole = " " * indent + lead + self.flat() + tail
        if len(whole) <= WIDTH or not self.arguments:
            return [whole]
        out = [" " * indent + lead + self.name + "("]
        for argument in self.arguments:
            key, value = argument if _is_keyword(argument) else ("", argument)
            prefix = f"{key}=" if key else ""
            if isinstance(value, Call):
                out += value.lines(indent + 4, prefix, ",")
            else:
                out.append(" " * (indent + 4) + f"{prefix}{value},")
        return [*out, " " * indent + ")" + tail]


def _is_keyword(argument: Any) -> bool:
    return isinstance(argument, tuple) and not isinstance(argument, Call)


def _flat(argument: Any) -> str:
    if _is_keyword(argument):
        return f"{argument[0]}={_flat(argument[1])}"
    return argument.flat() if isinstance(argument, Call) else str(argument)


def expression(module: nn.Module, sources: Sources) -> Call:
    """The call that makes a module like this one, with values of its own."""
    kind = type(module)
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        return Call("modules", [expression(child, sources) for child in module])
    native = _native(module, kind)
    if native is not None:
        owner = _owner(kind)
        name = f"nn.{native.__name__}" if owner.__module__.startswith("torch.nn") else sources.class_name(owner)
        return Call(name, _native_arguments(module, native))
    name = sources.class_name(kind)
    used = sources.attributes_used(kind)
    children = {key: child for key, child in module._modules.items() if child is not None}
    arguments: list[Any] = []
    if all(key.isdigit() for key in children):
        at = {int(key): child for key, child in children.items()}
        absent = "nn.Identity()" if type(module) is Parallel else "None"  # a branch without parts is x itself
        count = max(at, default=-1) + 1 if type(module) is not Parallel else len(module._modules)
        arguments += [expression(at[i], sources) if i in at else absent for i in range(count)]
        children = {}
    if any(key.isdigit() for key in children):  # the order of the parts is the order in which they run
        pairs = [Call("part", [literal(key), expression(child, sources)]) for key, child in children.items()]
        arguments += pairs
        children = {}
    arguments += [(key, expression(child, sources)) for key, child in children.items()]
    for key, parameter in module._parameters.items():
        arguments.append((key, _shape("Shape", parameter)))
    for key, buffer in module._buffers.items():
        persistent = key not in module._non_persistent_buffers_set
        arguments.append((key, _shape("Kept" if persistent else "Made", buffer)))
    for key, value in module.__dict__.items():
        if key in used and isinstance(value, Table):
            make = sources.refer(value.make, value.make.__name__)
            arguments.append((key, f"{sources.refer(Table, 'Table')}({make}, {literal(value.arguments)})"))
        elif key in used and not key.startswith("_") and key != "training" and _is_simple(value):
            arguments.append((key, literal(value)))
    keywords = {argument[0] for argument in arguments if _is_keyword(argument)}
    for key in sorted(used - keywords):
        if key in module._modules and module._modules[key] is None:
            arguments.append((key, "None"))
    return Call(name, arguments)


def _shape(kind: str, tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "None"
    if kind == "Made":
        suffix = "" if tensor.dtype.is_floating_point else f", dtype={tensor.dtype}"
        return f"Made({', '.join(map(str, tensor.shape))}{suffix})" if tensor.ndim else f"Made({suffix.lstrip(', ')})"
    return f"{kind}({', '.join(map(str, tensor.shape))})"


def literal(value: Any) -> str:
    """A plain value as Python; strings in double quotes where nothing in them needs an escape."""
    if isinstance(value, str):
        return f'"{value}"' if repr(value) == f"'{value}'" and '"' not in value else repr(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if type(value) in (list, tuple):
        inside = ", ".join(map(literal, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
    if type(value) is dict:
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    return repr(value)


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_simple(item) for item in value)
    if isinstance(value, dict):
        return all(_is_simple(item) for item in value.values())
    return isinstance(value, PLAIN)


def _owner(kind: type) -> type:
    """Where the forward pass of a layer comes from: torch's own class, or one of ours that changes it."""
    return next(base for base in kind.__mro__ if "forward" in base.__dict__)


def _native(module: nn.Module, kind: type) -> type | None:
    return next((base for base in NATIVE if issubclass(kind, base)), None)


def _native_arguments(module: Any, native: type) -> list[Any]:
    if native is nn.Linear:
        return [
            str(module.in_features),
            str(module.out_features),
            *([("bias", "False")] if module.bias is None else []),
        ]
    if native is nn.LayerNorm:
        shape = module.normalized_shape
        return [
            str(shape[0] if len(shape) == 1 else shape),
            *([("eps", repr(module.eps))] if module.eps != 1e-5 else []),
        ]
    arguments: list[Any] = [str(module.in_channels), str(module.out_channels), _one(module.kernel_size)]
    for key, usual in (("stride", 1), ("padding", 0), ("dilation", 1)):
        value = getattr(module, key)
        if isinstance(value, str):
            arguments.append((key, f'"{value}"'))
        elif any(side != usual for side in value):
            arguments.append((key, _one(value)))
    if module.groups != 1:
        arguments.append(("groups", str(module.groups)))
    if module.bias is None:
        arguments.append(("bias", "False"))
    return arguments


def _one(sides: tuple[int, ...]) -> str:
    return str(sides[0]) if len(set(sides)) == 1 else str(sides)


def constants(calls: list[Call], layers: set[str]) -> dict[str, dict[str, str]]:
    """Class -> plain values that every call of it is given alike: they can stand in the class, unless torch's constructor takes them."""
    by_class: dict[str, list[dict[str, str]]] = {}
    for call in walk(calls):
        values = {key: value for key, value in filter(_is_keyword, call.arguments) if _is_literal(value)}
        by_class.setdefault(call.name, []).append(values)
    return {
        name: {key: text for key, text in rows[0].items() if all(row.get(key) == text for row in rows)}
        for name, rows in by_class.items()
        if not name.startswith("nn.") and name not in layers
    }


def without(call: Call, known: dict[str, dict[str, str]]) -> Call:
    """The expression with the values left out that stand in the classes."""
    arguments = []
    for argument in call.arguments:
        key, value = argument if _is_keyword(argument) else ("", argument)
        if key and known.get(call.name, {}).get(key) == value:
            continue
        value = without(value, known) if isinstance(value, Call) else value
        arguments.append((key, value) if key else value)
    return Call(call.name, arguments)


def walk(calls: list[Call]) -> list[Call]:
    """All calls in some expressions, outermost first."""
    nested = []
    for call in calls:
        nested.append(call)
        values = [argument[1] if _is_keyword(argument) else argument for argument in call.arguments]
        nested += walk([value for value in values if isinstance(value, Call)])
    return nested


def replaced(call: Call, by: dict[str, str]) -> Any:
    """The expression with the calls of some functions in place of what they make."""
    text = call.flat()
    if text in by:
        return by[text]
    parts = []
    for argument in call.arguments:
        key, value = argument if _is_keyword(argument) else ("", argument)
        value = replaced(value, by) if isinstance(value, Call) else value
        parts.append((key, value) if key else value)
    return Call(call.name, parts)


def leaves(calls: list[Call]) -> list[Call]:
    """Calls long enough to be worth a function that hold no other call."""
    return [call for call in walk(calls) if _is_block(call) and len(call.flat()) > 40 and not walk([call])[1:]]


def repeated(calls: list[Call]) -> list[Call]:
    """Longer calls that hold torch's layers alone and stand, but for numbers, in several places."""
    long = [
        call
        for call in walk(calls)
        if _is_block(call) and len(call.flat()) > 80 and all(inner.name.startswith("nn.") for inner in walk([call])[1:])
    ]
    shapes = [NUMBER.sub("#", call.flat()) for call in long]
    return [call for call, shape in zip(long, shapes, strict=True) if shapes.count(shape) >= 3]


def _is_block(call: Call) -> bool:
    return not call.name.startswith("nn.") and call.name not in ("part", "modules", "Stage")


def _is_literal(text: Any) -> bool:
    return isinstance(text, str) and not text.startswith(("Shape(", "Kept(", "Made(", "Table("))


class Functions:
    """Expressions of one shape as functions of the numbers in which they differ."""

    def __init__(self, calls: list[Call], stem: str = "", taken: Collection[str] = ()):
        shapes: dict[str, dict[str, Call]] = {}
        for call in calls:
            shapes.setdefault(NUMBER.sub("#", call.flat()), {})[call.flat()] = call
        self.calls: dict[str, str] = {}
        self.definitions: list[str] = []
        counts: dict[str, int] = {}
        for members in shapes.values():
            name = stem or _snake(next(iter(members.values())).name)
            name = f"{name}_part" if name in taken else name  # a block may be called like a function that it calls
            counts[name] = counts.get(name, 0) + 1
            self._define(name if counts[name] == 1 else f"{name}_{counts[name]}", list(members.values()))

    def _define(self, name: str, members: list[Call]) -> None:
        rows = [[int(number) for number in NUMBER.findall(member.flat())] for member in members]
        words, vectors = _words(list(zip(*rows, strict=True)), _roles(members[0].flat()))
        numbers = iter(words)
        body = _substituted(members[0], numbers)
        parameters = ", ".join(f"{word}: int" for word in vectors)
        lines = [f"def {name}({parameters}) -> nn.Module:", *body.lines(4, "return ")]
        self.definitions.append("\n".join(lines))
        for i, member in enumerate(members):
            self.calls[member.flat()] = f"{name}({', '.join(str(vector[i]) for vector in vectors.values())})"


def _roles(text: str) -> list[str]:
    """What each number of an expression is: the keyword before it, or its place among a convolution's arguments."""
    roles = []
    for match in NUMBER.finditer(text):
        before = text[: match.start()]
        keyword = re.search(r"(\w+)=$", before)
        place = re.search(r"nn\.Conv[12]d\(([^()]*)$", before)
        roles.append(
            keyword[1] if keyword else ("dim", "out_dim", "kernel_size")[min(2, place[1].count(","))] if place else ""
        )
    return roles


def _words(columns: list[tuple[int, ...]], roles: list[str]) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """A word for each number position: itself where all agree, else a parameter or a multiple of one."""
    vectors: dict[str, tuple[int, ...]] = {}
    return [_word(column, role, vectors) for column, role in zip(columns, roles, strict=True)], vectors


def _word(column: tuple[int, ...], role: str, vectors: dict[str, tuple[int, ...]]) -> str:
    if len(set(column)) == 1:
        return str(column[0])
    for name, vector in vectors.items():
        if column == vector:
            return name
        if role in ("kernel_size", "padding", "stride", "dilation"):
            continue  # a multiple of a width by chance
        for text, over, under in ((f"{{}} * {name}", column, vector), (f"{name} // {{}}", vector, column)):
            if all(v and c % v == 0 for c, v in zip(over, under, strict=True)):
                factors = {c // v for c, v in zip(over, under, strict=True)}
                if len(factors) == 1:
                    return text.format(factors.pop())
    usual = "dim" if not vectors else "hidden_dim" if len(vectors) == 1 else f"n{len(vectors)}"
    name = role if role and role not in vectors else usual if usual not in vectors else f"n{len(vectors)}"
    vectors[name] = column
    return name


def _substituted(node: Any, words: Any) -> Any:
    """The expression with its numbers replaced, in the order of its text."""
    if isinstance(node, Call):
        return Call(node.name, [_substituted(argument, words) for argument in node.arguments])
    if isinstance(node, tuple):
        return (node[0], _substituted(node[1], words))
    return NUMBER.sub(lambda _: next(words), node)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
