"""Calls: how a spec names a block with its parameters, brought to one canonical, checked and filled form.

A call is a string (a block's name), a table with `block = NAME`, the short form `{ WIRING = parts, … }`, or a list of
calls (a chain). Filled, a call is a table whose `block` is the full identity and which states every parameter.
"""

from __future__ import annotations

from typing import Any

from blocks.registry import registration as registry
from blocks.registry.errors import MOST_PROBLEMS, BlockError, listed, nearest
from blocks.registry.schema import CALL, INVALID, Issue, Path, complete, shown
from blocks.registry.slots import NONE
from blocks.registry.words import PART, is_name

GENERIC = ("block", "name", "out_dim")
"""Keys that any call may carry beside its block's own parameters."""


def complete_call(value: Any, path: Path, schema: dict[str, Any], issues: list[Issue]) -> Any:
    """A call, a chain or "none", filled. `schema["kinds"]` narrows which kinds of block may stand here."""
    if value == NONE or value is None:
        if path:
            issues.append(Issue(path, "a block", f'"{NONE}"'))
        return NONE
    if isinstance(value, list):
        return complete_chain(value, path, schema, issues)
    call, parts_key = expand(value, path, issues)
    if call is None:
        return value
    return _complete_block(call, parts_key, path, schema.get("kinds"), issues)


def complete_chain(value: list[Any], path: Path, schema: dict[str, Any], issues: list[Issue]) -> Any:
    """A list of calls. "none" keeps its position; a list of one is that one."""
    if all(part == NONE for part in value):
        found = f"{shown(value)}, none of them a block" if value else shown(value)
        issues.append(Issue(path, "a block, or a list with at least one", found))
        return value
    part_schema = {"anyOf": [{"const": NONE}, {**schema, "$ref": CALL}]}
    chain = [complete(part, part_schema, (*path, i), issues, complete_call) for i, part in enumerate(value)]
    return chain[0] if len(chain) == 1 else chain


def expand(value: Any, path: Path, issues: list[Issue]) -> tuple[dict[str, Any] | None, str]:
    """(table form of a string, a table or a wiring's short form; the key under which its parts were written).

    None and an issue when the value is none of these.
    """
    if isinstance(value, str):
        return {"block": value}, "parts"
    if not isinstance(value, dict):
        issues.append(Issue(path, "a block: a name, a table with `block`, or a list of these", shown(value)))
        return None, "parts"
    if "block" in value:
        return value, "parts"
    wirings = [key for key in value if is_wiring(key)]
    if len(wirings) != 1:
        found = (
            f"a table with {listed(list(value)) or 'no keys'}"
            if not wirings
            else " and ".join(f"`{key}`" for key in wirings)
        )
        names = [] if wirings else ["block", *wiring_names()]
        near = next((near for key in value if (near := nearest(key, names))), "")
        issues.append(Issue(path, "a table with `block`, or with the name of one wiring", found, near))
        return None, "parts"
    call = {"block": wirings[0], "parts": value[wirings[0]]}
    call.update((key, item) for key, item in value.items() if key != wirings[0])
    return call, wirings[0]


def is_wiring(name: str) -> bool:
    identity = registry.identity_of(name)
    return identity is not None and registry.describe(identity).kind == "wiring"


def wiring_names() -> list[str]:
    return registry.list_blocks(kind="wiring")


def _complete_block(
    call: dict[str, Any], parts_key: str, path: Path, kinds: list[str] | None, issues: list[Issue]
) -> dict[str, Any]:
    name = call["block"]
    if name is INVALID:
        return call
    identity = registry.identity_of(name) if isinstance(name, str) else None
    if identity is None:
        issues.append(_unknown_block(name, (*path, "block")))
        return call
    try:
        info = registry.describe(identity)
    except BlockError as broken:
        issues.extend(
            Issue((*path, "block"), problem.expected, problem.found, problem.nearest, problem.next)
            for problem in broken.problems
        )
        return call
    if kinds and info.kind not in kinds:
        issues.append(Issue(path, f"a block of kind {' or '.join(kinds)}", f"`{info.name}`, of kind {info.kind}"))
        return call
    filled: dict[str, Any] = {"block": identity}
    _complete_generic(call, info, path, filled, issues)
    for key, item in call.items():
        if len(issues) >= MOST_PROBLEMS:
            break
        if key in info.params:
            written = parts_key if key == "parts" else key
            filled[key] = complete(item, info.params[key].schema, (*path, written), issues, complete_call)
        elif key not in GENERIC:
            issues.append(_unknown_parameter(key, info, path))
    for key, param in info.params.items():
        if key in call:
            continue
        if param.required:
            issues.append(
                Issue((*path, key), f"parameter `{key}` of block `{info.name}`, which has no default", "nothing")
            )
        else:
            filled[key] = complete(param.default, param.schema, (*path, key), issues, complete_call)
    return filled


def _complete_generic(
    call: dict[str, Any], info: registry.BlockInfo, path: Path, filled: dict[str, Any], issues: list[Issue]
) -> None:
    if call.get("name", INVALID) is not INVALID:
        name = call["name"]
        if is_name(name, PART):
            filled["name"] = name
        else:
            issues.append(
                Issue((*path, "name"), "a name of letters, digits and _ that does not begin with a digit", shown(name))
            )
    if "out_dim" in call:
        if "out_dim" not in info.supplied:
            issues.append(
                Issue((*path, "out_dim"), f"no `out_dim`: block `{info.name}` keeps its width", shown(call["out_dim"]))
            )
        else:
            filled["out_dim"] = complete(
                call["out_dim"], {"type": "integer", "minimum": 1}, (*path, "out_dim"), issues, complete_call
            )


def _unknown_block(name: Any, path: Path) -> Issue:
    if not isinstance(name, str):
        return Issue(path, "the name of a block", shown(name), next="`zoo blocks` lists them all")
    problem = registry.unknown(name).problems[0]
    return Issue(path, "a registered block", f"`{name}`", problem.nearest, problem.next)


def _unknown_parameter(key: str, info: registry.BlockInfo, path: Path) -> Issue:
    supplied = key in info.supplied
    found = f"`{key}`, which the builder supplies" if supplied else f"`{key}`"
    hint = "" if supplied or info.params else "it takes none"
    return Issue(
        (*path, key), f"a parameter of block `{info.name}`", found, "" if supplied else nearest(key, info.params), hint
    )
