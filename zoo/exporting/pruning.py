"""Lines that can never run in an exported net, taken out: branches on what no block has, helpers that nothing calls."""

from __future__ import annotations

import ast
import re


def pruned(text: str, has_views: bool) -> str:
    """The same program with fewer lines. Every step may free the next, so they are repeated until nothing changes."""
    if not has_views and 'layout = "BLC"' not in text:
        text = _without_layouts(text)
    while (shorter := _unreferenced(_unused_methods(_settled(text)))) != text:
        text = shorter
    return text


def without_checks(text: str) -> str:
    """Source for an exported net, which is given neither masks nor packed sequences: what asks for them, refuses them or takes them
    out of ctx goes. So does what cares for inputs of no values, and refusals of one line, of what torch refuses as well."""
    text = re.sub(r"^ +refuse_places\(self, ctx\)\n", "", text, flags=re.MULTILINE).replace(
        "without_places(ctx)", "ctx"
    )
    doomed: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.If) and not node.orelse and _is_check(node):
            doomed |= _lines(node)
    return _cut(text, doomed)


def _is_check(node: ast.If) -> bool:
    """Whether a branch is about masks and packed sequences, or about no values, or all that it does is to call `_refuse_…`."""
    test = ast.unparse(node.test)
    return "has_places(" in test or "not x.numel()" in test or ast.unparse(node.body[0]).startswith("_refuse_")


def _without_layouts(text: str) -> str:
    """Where no block wants tokens, and no view makes any, a block is simply called: `run` takes the body of `_call`."""
    call = re.search(r"^def _call\(.*?\n(    return [^\n]*)\n\n\n", text, re.MULTILINE)
    run = re.search(r"^def run\(.*?^    return _call\(module, x, ctx\)$", text, re.MULTILINE | re.DOTALL)
    if run is None or call is None:
        return text
    head = run[0].split("\n")[0]
    text = text.replace(run[0], f"{head}\n{call[1]}")
    return re.sub(r'\n    layout = "BCHW"(?=\n)', "", text)


def _settled(text: str) -> str:
    """Without `if self.x is not None:` where x is None in the class and never given, and without drops at a rate of zero."""
    tree = ast.parse(text)
    keywords = {keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords}
    doomed: set[int] = set()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for cls in classes:
        values = {name: item for name, item in _values(cls, classes, text).items() if name not in keywords}
        for node in ast.walk(cls):
            if isinstance(node, ast.If) and not node.orelse and _asks_for(node.test, values):
                doomed |= _lines(node)
            if isinstance(node, ast.Assign) and _drops_nothing(node, values):
                doomed |= _lines(node)
    text = _cut(text, doomed)
    for cls in [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]:
        for item in cls.body:
            unread = [name for name in _assigned(item) if not re.search(rf"\.{name}\b", text) and name not in SPOKEN]
            if unread:
                return _settled(_cut(text, _lines(item)))
    return text


def _values(cls: ast.ClassDef, classes: list[ast.ClassDef], text: str) -> dict[str, ast.stmt]:
    """What a class says of itself; of one that is there for an heir alone, what that one says."""
    values = {name: item for item in cls.body for name in _assigned(item)}
    heir = _heir(cls, classes, text)
    return values if heir is None else values | _values(heir, classes, text)


def _heir(cls: ast.ClassDef, classes: list[ast.ClassDef], text: str) -> ast.ClassDef | None:
    """The class for whose sake alone this one is there: the only one that extends it, where nothing is made of it itself."""
    heirs = [heir for heir in classes if any(isinstance(base, ast.Name) and base.id == cls.name for base in heir.bases)]
    return heirs[0] if len(heirs) == 1 and not re.search(rf"(?<!class )\b{cls.name}\(", text) else None


SPOKEN = {"layout", "takes_ctx", "fresh"}
"""Attributes that are read by their names as text."""
SPOKEN_METHODS = {"forward", "enter", "exit", "reset_buffers"}
"""Methods that are called by torch, by views, or by their names as text."""


def _assigned(item: ast.stmt) -> list[str]:
    if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
        return [item.targets[0].id]
    return []


def _constant(name: str, values: dict[str, ast.stmt]) -> object:
    item = values.get(name)
    return item.value.value if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant) else ...


def _asks_for(test: ast.expr, values: dict[str, ast.stmt]) -> bool:
    """`self.x is not None`, of an x that is None; `self.x`, of one that is False; or these and more."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_asks_for(part, values) for part in test.values)
    if isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and test.value.id == "self":
        return _constant(test.attr, values) is False
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and isinstance(test.left, ast.Attribute)
        and isinstance(test.left.value, ast.Name)
        and test.left.value.id == "self"
        and _constant(test.left.attr, values) is None
    )


def _drops_nothing(node: ast.Assign, values: dict[str, ast.stmt]) -> bool:
    """`y = drop_path(y, self.drop_path, self.training)` at a rate of zero."""
    call = node.value
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "drop_path"
        and isinstance(call.args[1], ast.Attribute)
        and _constant(call.args[1].attr, values) == 0
    )


def _unreferenced(text: str) -> str:
    """Without functions, classes and members of `Block` that no other line names."""
    tree = ast.parse(text)
    for node in tree.body[:-1]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            source = "\n".join(text.split("\n")[node.lineno - 1 : node.end_lineno])
            rest = text.replace(source, "")
            called = re.search(rf"\b{node.name}\(", rest) or re.search(rf"[(\[ ,=]{node.name}\b[^(=:]", rest)
            is_unused_made = node.name == "Made" and not re.search(r"\bMade\(", rest)
            named = node.name == "part" and 'part("' not in rest
            if is_unused_made or named or not called:
                text = _cut(text, _lines(node))
                return _unreferenced(_without_made(text) if is_unused_made else text)
    return text


def _unused_methods(text: str) -> str:
    """Without methods that no other line calls; `forward` and its like are called by torch and by views, if no heir has its own."""
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    for cls in classes:
        heir = _heir(cls, classes, text)
        own = [item for item in heir.body if isinstance(item, ast.FunctionDef)] if heir is not None else []
        replaced = {item.name for item in own if "super()" not in ast.unparse(item)}
        for method in [item for item in cls.body if isinstance(item, ast.FunctionDef)]:
            rest = _cut(text, _lines(method))
            is_spoken = method.name in SPOKEN_METHODS and method.name not in replaced
            is_called = method.name.startswith("__") or is_spoken
            if not is_called and not re.search(rf"\.{method.name}\b", rest):
                return _unused_methods(rest)
    return text


def _without_made(text: str) -> str:
    """`Block` where no buffer is computed."""
    text = re.sub(r"\n            elif isinstance\(value, Made\):\n[^\n]*", "", text)
    return text.replace('\n        if hasattr(self, "reset_buffers"):\n            self.reset_buffers()', "")


def _lines(node: ast.stmt) -> set[int]:
    """The lines of a statement, decorators included."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return set(range(first, (node.end_lineno or node.lineno) + 1))


def _cut(text: str, doomed: set[int]) -> str:
    lines = [line for number, line in enumerate(text.split("\n"), 1) if number not in doomed]
    text = "\n".join(lines)
    text = re.sub(r"\n\n\n\n+", "\n\n\n", text)
    return re.sub(r'("""\n)\n+(?=\n\n(?:class|def) )', r"\1", text)
