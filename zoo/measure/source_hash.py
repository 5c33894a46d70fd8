"""Which code of blocks something was made of; it is another where what computes changed. Imports no torch, and no block."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys

from blocks import registry


@functools.lru_cache(maxsize=4096)
def source_hash(blocks: tuple[str, ...]) -> str:
    """12 hexadecimal digits for the source files of these blocks, as `code_of` reads them; what is defined in no file does not count."""
    homes = {registry.describe(block).target.partition(":")[0] for block in blocks}
    digest = hashlib.sha256()
    for home in sorted(homes):
        spec = importlib.util.find_spec(home) if home in sys.modules or home.startswith("blocks.") else None
        if spec is not None and spec.origin:
            digest.update(_code_in(spec.origin))
    return digest.hexdigest()[:12]


@functools.lru_cache(maxsize=4096)
def _code_in(path: str) -> bytes:
    with open(path, encoding="utf-8") as file:
        return code_of(file.read()).encode()


def code_of(text: str) -> str:
    """The lines of a source file that can change what it computes: without comments, docstrings, imports, what blocks are called, and empty
    lines.

    What is imported may have moved to another file; what it does is told by the rows of the blocks that are defined there.
    """
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        for part in _without_effect(node):
            for number in range(part.lineno - 1, part.end_lineno or part.lineno):
                lines[number] = ""
    stripped = (line.strip() for line in lines)
    return "\n".join(line for line in stripped if line and not line.startswith("#"))


def _without_effect(node: ast.AST) -> list[ast.stmt | ast.expr]:
    """Parts of the tree that compute nothing: imports, docstrings, the names and papers that a block is registered under."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [node]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return [node]
    return list(node.decorator_list) if isinstance(node, ast.ClassDef) else []
