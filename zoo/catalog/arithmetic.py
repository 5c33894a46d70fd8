"""Numbers that follow from others: `head_dim * partial_rotary_factor`, as the tables of `transformers.toml` state them.

The text is ours and is read as a tree of a few operations; nothing is executed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Mapping

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
"""What stands between two numbers. `//` gives a whole number, as sizes are."""
BFLOAT16 = "bfloat16"
"""A function of one number: the nearest that has eight significant bits."""


def names_of(text: str) -> list[str]:
    """The names of a formula, in their order."""
    names = (node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name))
    return [name for name in dict.fromkeys(names) if name != BFLOAT16]


def number(text: str, values: Mapping[str, float]) -> float:
    """The value of a formula, an int where it is whole. Raises KeyError for a name without a value, ArithmeticError, and ValueError for what
    is no formula."""
    result = _value(ast.parse(text, mode="eval").body, values)
    if isinstance(result, complex):
        raise ArithmeticError("the root of a negative number")
    return int(result) if result == int(result) else result


def _value(node: ast.AST, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        result: float = OPERATIONS[type(node.op)](_value(node.left, values), _value(node.right, values))
        return result
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == BFLOAT16
        and len(node.args) == 1
    ):
        fraction, exponent = math.frexp(_value(node.args[0], values))
        return math.ldexp(round(fraction * 256) / 256, exponent)
    raise ValueError(f"`{ast.unparse(node)}` is no arithmetic of numbers and names")
