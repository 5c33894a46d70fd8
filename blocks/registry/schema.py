"""What a value may be: JSON Schema fragments derived from a block's signature, and the one checker that reads them.

The fragments are data, so a spec is checked and filled from the generated index without importing torch. A `$ref` to
`#/$defs/call` marks a slot for another block (`kinds` narrows it); `{"const": "none"}` marks an optional value.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from blocks.registry.errors import MOST_PROBLEMS, listed, nearest
from blocks.registry.slots import NONE, Slot

Path = tuple[str | int, ...]


class _Invalid:
    """Stands where a value was whose fault is reported, so that it is not reported again. There is one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Invalid:
        return self

    def __repr__(self) -> str:
        return "INVALID"


INVALID = _Invalid()
CALL = "#/$defs/call"

SUPPLIED = (
    "dim",
    "dims",
    "out_dim",
    "layer_dim",
    "input_size",
    "depth_index",
    "num_classes",
    "drop_path",
    "stage_dims",
)
"""Constructor parameters that the builder fills in; `linear` blocks are given `bias` by their host too."""


class Issue(NamedTuple):
    """A problem at a path of the tree under check; the reader of the tree knows which file and line of thought that is."""

    path: Path
    expected: str = ""
    found: str = ""
    nearest: str = ""
    next: str = ""


class Param(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter: its JSON Schema fragment, its default in spec form, and since when it exists if it was added later."""

    schema: dict[str, Any]
    default: Any = None
    required: bool = False
    added: str = ""


def signature_params(cls: type, kind: str) -> tuple[dict[str, Param], tuple[str, ...]]:
    """(parameters of the spec, names that the builder supplies) of a block class, from `__init__`."""
    init = inspect.unwrap(cls.__init__)  # type: ignore[misc]
    if _is_torchs(init, cls):  # a block without parameters need not write a constructor
        return {}, ()
    hints = typing.get_type_hints(init, include_extras=True)
    supplied_names = SUPPLIED + (("bias",) if kind == "linear" else ())
    params: dict[str, Param] = {}
    supplied: list[str] = []
    for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
        if name in supplied_names:
            supplied.append(name)
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{cls.__qualname__}.__init__ takes `*{name}`; the parameters of a block are named and typed one by one"
            )
        if name not in hints:
            raise TypeError(
                f"{cls.__qualname__}.__init__: parameter `{name}` has no type; every parameter of a block is typed"
            )
        schema = fragment(hints[name])
        required = parameter.default is parameter.empty
        default = None if required else as_spec(parameter.default)
        params[name] = Param(schema, default, required, schema.pop("added", ""))
    return params, tuple(supplied)


def _is_torchs(init: Any, cls: type) -> bool:
    """Whether this is the constructor of nn.Module, as it was or as torch.compile has replaced it."""
    torchs = [base for base in cls.__mro__ if (base.__module__, base.__name__) == ("torch.nn.modules.module", "Module")]
    return init.__qualname__ == "Module.__init__" or any(init is base.__init__ for base in torchs)  # type: ignore[misc]


def fragment(annotation: Any) -> dict[str, Any]:
    """The JSON Schema fragment of a type: msgspec's, with slots as references, structs in place and None as "none"."""
    _refuse_tuple_in_union(annotation)
    schema = msgspec.json.schema(annotation, schema_hook=_slot_schema)
    return _inline(schema, schema.get("$defs", {}))


def _refuse_tuple_in_union(annotation: Any) -> None:
    """msgspec (to 0.22 at least) corrupts memory on a union of a bounded type and a tuple of fixed length."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and any(
        typing.get_origin(part) is tuple for part in arguments
    ):
        raise TypeError(
            f"{annotation}: write a list with bounds instead of the tuple, as in Annotated[list[int], Meta(min_length=2, max_length=2)]"
        )
    for part in arguments:
        _refuse_tuple_in_union(part)


def _slot_schema(custom: type) -> dict[str, Any]:
    if issubclass(custom, Slot):
        return {"$ref": CALL}
    raise TypeError(
        f"`{custom.__qualname__}` cannot stand in a block's signature; use numbers, strings, lists, structs and Slot"
    )


def _inline(node: Any, defs: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, defs) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "null":
        return {"const": NONE}
    if "$ref" in node and node["$ref"] != CALL:
        return _inline(defs[node["$ref"].rsplit("/", 1)[-1]], defs)
    out = {key: _inline(value, defs) for key, value in node.items() if key not in ("$defs", "title", "description")}
    if "default" in out:
        out["default"] = as_spec(node["default"])
    return out


def as_spec(value: Any) -> Any:
    """A Python default as it would be written in a spec."""
    if value is None:
        return NONE
    if isinstance(value, Slot):
        return value.call
    if isinstance(value, msgspec.Struct):
        return {name: as_spec(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [as_spec(item) for item in value]
    if isinstance(value, dict):
        return {key: as_spec(item) for key, item in value.items()}
    return value


CallFiller = Callable[[Any, Path, dict[str, Any], list[Issue]], Any]


def complete(value: Any, schema: dict[str, Any], path: Path, issues: list[Issue], call: CallFiller) -> Any:
    """`value` checked against `schema` with every default written in; what is wrong goes to `issues`.

    `call(value, path, schema, issues)` checks and fills the blocks that stand in slots. After `MOST_PROBLEMS` nothing is looked at.
    """
    if value is INVALID or len(issues) >= MOST_PROBLEMS:
        return value
    if "anyOf" in schema:
        return _complete_any(value, schema["anyOf"], path, issues, call)
    if schema.get("$ref") == CALL:
        return call(value, path, schema, issues)
    kind = schema.get("type")
    if kind == "array" and isinstance(value, list):
        return _complete_list(value, schema, path, issues, call)
    if kind == "object" and isinstance(value, dict):
        return complete_table(value, schema, path, issues, call)
    if not fits(value, schema):
        issues.append(Issue(path, words(schema), shown(value), _near(value, schema), _hint(value, schema)))
    elif kind == "number":
        value = float(value)
    return value


def _complete_any(value: Any, options: list[dict[str, Any]], path: Path, issues: list[Issue], call: CallFiller) -> Any:
    """The first option that takes the value; else the complaint of the option nearest in shape."""
    if (
        {"const": NONE} in options
        and isinstance(value, list)
        and value
        and all(part in (NONE, INVALID) for part in value)
    ):
        return value[0] if len(value) == 1 else value
    complaints: list[list[Issue]] = []
    for option in sorted(options, key=lambda option: "const" not in option):
        trial: list[Issue] = []
        filled = complete(value, option, path, trial, call)
        if not trial:
            return filled
        if _same_shape(value, option):
            complaints.append(trial)
    if complaints:
        issues.extend(complaints[0])
    else:
        issues.append(Issue(path, words({"anyOf": options}), shown(value)))
    return value


def _same_shape(value: Any, option: dict[str, Any]) -> bool:
    if "$ref" in option:
        return isinstance(value, (str, dict, list))
    shapes: dict[str, Any] = {"array": list, "object": dict, "integer": int, "number": (int, float), "string": str}
    return isinstance(value, shapes.get(option.get("type", ""), ()))


def _complete_list(
    value: list[Any], schema: dict[str, Any], path: Path, issues: list[Issue], call: CallFiller
) -> list[Any]:
    low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not low <= len(value) <= high:
        issues.append(Issue(path, words(schema), f"a list of {len(value)}"))
        return value
    prefix = schema.get("prefixItems", [])
    items = [prefix[i] if i < len(prefix) else schema.get("items", {}) for i in range(len(value))]
    return [
        complete(item, kind, (*path, i), issues, call) for i, (item, kind) in enumerate(zip(value, items, strict=True))
    ]


def complete_table(
    value: dict[str, Any], schema: dict[str, Any], path: Path, issues: list[Issue], call: CallFiller
) -> dict[str, Any]:
    """A table with known keys (a struct) or with any keys of one type (`additionalProperties` a schema)."""
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", False)
    filled: dict[str, Any] = {}
    for key, item in value.items():
        if len(issues) >= MOST_PROBLEMS:
            break
        if key in properties or isinstance(rest, dict):
            filled[key] = complete(item, properties.get(key, rest), (*path, key), issues, call)
        else:
            issues.append(
                Issue((*path, key), f"one of {listed(sorted(properties), 20)}", f"`{key}`", nearest(key, properties))
            )
    for key, kind in properties.items():
        if key in value:
            continue
        if key in schema.get("required", ()):
            issues.append(Issue((*path, key), words(kind), "nothing: this key is required"))
        elif "default" in kind:
            filled[key] = complete(kind["default"], kind, (*path, key), issues, call)
    return filled


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a scalar meets a fragment. Booleans are not numbers and floats are finite."""
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return any(value == option and type(value) is type(option) for option in schema["enum"])
    kind = schema.get("type")
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        pattern_free = isinstance(value, str) and value != NONE
        return pattern_free and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10_000)
    if kind not in ("integer", "number") or isinstance(value, bool):
        return False
    if not isinstance(value, int if kind == "integer" else (int, float)):
        return False
    if abs(value) > 2**53 if isinstance(value, int) else not math.isfinite(value):
        return False
    return (
        value >= schema.get("minimum", -math.inf)
        and value <= schema.get("maximum", math.inf)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
        and ("multipleOf" not in schema or value % schema["multipleOf"] == 0)
    )


def words(schema: dict[str, Any]) -> str:
    """A fragment as an English phrase: `int from 3 to 63`, `one of 5, 7, 9`, `a list of 4 (each float)`."""
    if "anyOf" in schema:
        return " or ".join(words(option) for option in sorted(schema["anyOf"], key=lambda option: "const" in option))
    if schema.get("$ref") == CALL:
        kinds = schema.get("kinds")
        return f"a block of kind {' or '.join(kinds)}" if kinds else "a block"
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        shown_options = [f'"{option}"' if isinstance(option, str) else str(option) for option in schema["enum"]]
        return "one of " + ", ".join(shown_options)
    kind = schema.get("type", "any value")
    if kind == "array":
        return _list_words(schema)
    if kind in ("integer", "number"):
        return ("int" if kind == "integer" else "float") + _bounds(schema)
    return {"boolean": "true or false", "string": "a string", "object": "a table"}.get(kind, kind)


def _list_words(schema: dict[str, Any]) -> str:
    items = schema.get("prefixItems", [schema.get("items") or {}])[0]
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    count = f" of {low} to {high}" if low and high else f" of at least {low}" if low else ""
    count = f" of {low}" if low and low == high else count
    return f"a list{count}" + (f" (each {words(items)})" if items else "")


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        text = f" from {low:,} to {high:,}"
    else:
        signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        text = " and".join(f" {sign} {schema[key]:,}" for key, sign in signs if key in schema)
    return text + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")


def shown(value: Any) -> str:
    """A value as found, with its type where that is the point: `"160", a string`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) > 2**53:
        return f"an int beyond {'-' if value < 0 else ''}2**53"
    if isinstance(value, str):
        return f'"{value if len(value) <= 60 else value[:57] + "..."}", a string'
    if isinstance(value, (int, float)):
        text = repr(value)
        return f"{text if len(text) <= 40 else text[:37] + '...'}" + (
            ", a float" if isinstance(value, float) and math.isfinite(value) else ""
        )
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a table"
    return f"{type(value).__name__}"


def _near(value: Any, schema: dict[str, Any]) -> str:
    options = [option for option in schema.get("enum", ()) if isinstance(option, str)]
    return nearest(value, options) if isinstance(value, str) else ""


def _hint(value: Any, schema: dict[str, Any]) -> str:
    if isinstance(value, str) and schema.get("type") in ("integer", "number", "boolean"):
        bare = value.removeprefix("-").replace(".", "", 1)
        if bare.isdigit() or value in ("true", "false"):
            return "remove the quotes"
    return ""
