"""JSON Schema 2020-12 of spec files, made from the registry: what we accept, the schema accepts. Imports no torch for core blocks.

The schema knows each block with its parameters; what needs the whole spec at once (parts in use, list lengths, selectors,
causality) is the checker's alone. A file is held to it as its bare [spec], but that variants may add keys to it.
"""

from __future__ import annotations

from typing import Any

from blocks import registry
from blocks.registry import BlockInfo
from blocks.registry.errors import BlockError
from blocks.registry.schema import CALL
from blocks.wiring.nodes import GRAPH
from zoo.specs.backbones import BACKBONE_SCHEMA
from zoo.specs.check import CLASSES_SCHEMA, INIT_SCHEMA, RATE_SCHEMA, WIDTHS_SCHEMA
from zoo.specs.expand import TOP
from zoo.specs.graphs import NODE
from zoo.specs.indexed import GROWTH, MOST_GROWN
from zoo.specs.inputs import INPUT_SCHEMA, NAMED_SCHEMA
from zoo.specs.laws import DEPTH_SCHEMA, GROWTH_SCHEMA
from zoo.specs.patch import EXTENDS
from zoo.specs.read import LEVEL, SCHEMA, TASKS, FamilyText
from zoo.specs.stages import STAGE
from zoo.specs.width import WIDTH_SCHEMA

ID = "urn:blockzoo:schema:zoo.spec:1"
VALUE = {"$ref": "#/$defs/value"}
GROW = {
    "type": "object", "required": ["from", "by"], "additionalProperties": False,
    "properties": {key: {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_GROWN} for key in GROWTH}
    | {"times": {"type": "integer", "minimum": 1, "maximum": MOST_GROWN}},
}  # fmt: skip


def export(plugins: bool = False) -> dict[str, Any]:
    """The schema of a spec file; with `plugins`, the blocks of installed plugins too."""
    infos = _infos(plugins)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "A family of models",
        "type": "object",
        "required": ["schema", "spec"],
        "additionalProperties": False,
        "properties": {
            "schema": {"const": SCHEMA},
            "family": _family(),
            "spec": {"$ref": "#/$defs/spec"},
            "variants": {
                "type": "object",
                "propertyNames": {"pattern": "^[a-z0-9][a-z0-9_]*$"},
                "additionalProperties": {"type": "object", "properties": {EXTENDS: {"type": "string"}}},
            },
            "keys": _keys(),
        },
        "anyOf": [
            {"properties": {"spec": {"required": ["input", "stem", "dims", "head"]}}},
            {"properties": {"spec": {"required": ["input", "graph"]}}},
            {"properties": {"spec": {"required": ["backbone"]}}},
            {"properties": {"spec": {"required": ["input", "stem", "growth", "head"]}}},
            {"required": ["variants"], "properties": {"variants": {"minProperties": 1}}},
        ],
        "$defs": _defs(infos),
    }


def _infos(plugins: bool) -> list[BlockInfo]:
    names = [name for name in registry.identities() if plugins or name.startswith("core/")]
    infos = []
    for name in names:
        try:
            infos.append(registry.describe(name))
        except BlockError:
            continue  # a broken plugin has no schema; `zoo doctor` names it
    return infos


def _family() -> dict[str, Any]:
    properties: dict[str, Any] = {name: {"type": "string"} for name in FamilyText.__struct_fields__}
    properties["task"] = {"enum": list(TASKS)}
    properties["levels"] = {"type": "array", "items": {"type": "string", "pattern": f"^({LEVEL.pattern})$"}}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _keys() -> dict[str, Any]:
    """Rules, the name of an entry with the same rules, or the differences from a base."""
    texts = {"type": "array", "items": {"type": "string"}}
    table = {
        "type": "object",
        "properties": {"base": {"type": "string"}, "drop": texts},
        "dependentRequired": {"drop": ["base"]},
    }
    return {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array"}, table]}}


def _defs(infos: list[BlockInfo]) -> dict[str, Any]:
    wirings = [info for info in infos if info.kind == "wiring"]
    short = {
        spelling: {"$ref": f"#/$defs/{_def_name(info)}.short"} for info in wirings for spelling in _spellings(info)
    }
    tables = [
        {
            "required": ["block"],
            "properties": {"block": {"enum": _spellings(info)}},
            "allOf": [{"$ref": f"#/$defs/{_def_name(info)}"}],
        }
        for info in infos
    ]
    tables.append({"required": ["block"], "properties": {"block": VALUE}})
    defs: dict[str, Any] = {
        "reference": {"type": "string", "pattern": "^@"},
        "use": {"type": "object", "required": ["use"], "properties": {"use": {"$ref": "#/$defs/reference"}}},
        "indexed": {
            "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False,
            "properties": {
                **{key: {"type": "array", "minItems": 1} for key in ("per_stage", "cycle", "runs")},
                "grow": GROW,
                "per_each": {"type": ["array", "object", "string"]},
            },
        },
        "variable": {"type": "string", "pattern": "^\\$"},
        "value": {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in ("reference", "use", "indexed", "variable")]},
        "name": {"enum": [spelling for info in infos for spelling in _spellings(info)]},
        "call": {"anyOf": [
            {"$ref": "#/$defs/name"}, VALUE, {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/optional_call"}},
            {"type": "object", "anyOf": tables}, {"type": "object", "anyOf": [{"required": [key], "allOf": [ref]} for key, ref in short.items()]},
        ]},
        "optional_call": {"anyOf": [{"const": "none"}, {"$ref": CALL}]},
        "nodes": _or_value({"type": "array", "minItems": 1, "items": _or_value(_node())}),
        "outputs": _or_value({"type": ["string", "array", "object"]}),
        "spec": _spec(),
    }  # fmt: skip
    for info in infos:
        defs[_def_name(info)] = _block(info)
        if info.kind == "wiring":
            defs[f"{_def_name(info)}.short"] = _block(info, short=True)
    return defs


def _def_name(info: BlockInfo) -> str:
    return "block." + info.id.replace("/", ".").replace("@", ".")


def _spellings(info: BlockInfo) -> list[str]:
    """Every way to name a block: whole, without its major, and for core blocks bare."""
    names = [info.id]
    if info.id.endswith("@1"):
        names.append(info.id.removesuffix("@1"))
    if info.id.startswith("core/"):
        names += [name.removeprefix("core/") for name in names]
    return names


def _block(info: BlockInfo, short: bool = False) -> dict[str, Any]:
    """The table of one block: its parameters, each a value of its type or one that is inlined first."""
    properties: dict[str, Any] = {
        "name": _or_value({"type": "string"}),
        "repeat": _or_value({"type": "integer", "minimum": 1}),
    }
    if not short:
        properties["block"] = True
    if "out_dim" in info.supplied:
        properties["out_dim"] = _or_value({"type": "integer", "minimum": 1})
    for name, param in info.params.items():
        for spelling in _spellings(info) if short and name == "parts" else [name]:
            properties[spelling] = _or_value(_loosen(param.schema))
    if info.id == GRAPH:
        nodes = {spelling: {"$ref": "#/$defs/nodes"} for spelling in (_spellings(info) if short else ["parts"])}
        properties |= {**nodes, "outputs": {"$ref": "#/$defs/outputs"}, "let": {"type": "object"}}
    required = [name for name, param in info.params.items() if param.required and not (short and name == "parts")]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _node() -> dict[str, Any]:
    """A node of a graph, as it is written before `each` and `let` are put in."""
    edge = {
        "type": "object",
        "required": ["of"],
        "properties": {
            "of": _or_value({"type": "string"}),
            "do": _or_value({"$ref": "#/$defs/optional_call"}),
            "like": _or_value({"type": "string"}),
            "mode": _or_value({"enum": ["nearest", "bilinear", "bicubic", "area"]}),
            "align_corners": _or_value({"type": "boolean"}),
            "each": {"type": "object"},
        },
        "additionalProperties": False,
    }
    reads = _or_value({"anyOf": [{"type": "string"}, edge]})
    properties = {
        "name": {"type": "string"},
        "from": _or_value({"anyOf": [reads, {"type": "array", "minItems": 1, "items": reads}]}),
        "merge": _or_value({"$ref": "#/$defs/optional_call"}),
        "do": _or_value({"$ref": "#/$defs/optional_call"}),
        "same_as": {"type": "string"},
        "each": {"type": "object"},
        "let": {"type": "object"},
    }
    assert set(properties) == set(NODE)
    return {"type": "object", "required": ["name"], "properties": properties, "additionalProperties": False}


def _graph() -> dict[str, Any]:
    """The graph behind the stages: `nodes` as authors write it, `parts` in a filled spec."""
    nodes = {"$ref": "#/$defs/nodes"}
    return {
        "type": "object",
        "anyOf": [{"required": ["nodes"]}, {"required": ["block", "parts"]}],
        "properties": {
            "nodes": nodes,
            "outputs": {"$ref": "#/$defs/outputs"},
            "let": {"type": "object"},
            "block": {"const": GRAPH},
            "parts": nodes,
            "inputs": {"type": "array"},
        },
        "additionalProperties": False,
    }


def _loosen(schema: Any) -> Any:
    """A fragment with inlined values allowed wherever a value stands."""
    if isinstance(schema, list):
        return [_loosen(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _loosen(value) for key, value in schema.items() if key not in ("kinds", "default")}
    for key in ("items", "prefixItems"):
        if isinstance(out.get(key), dict):
            out[key] = _or_value(out[key])
        elif isinstance(out.get(key), list):
            out[key] = [_or_value(item) for item in out[key]]
    if isinstance(out.get("additionalProperties"), dict):
        out["additionalProperties"] = _or_value(out["additionalProperties"])
    if isinstance(out.get("properties"), dict):
        out["properties"] = {name: _or_value(item) for name, item in out["properties"].items()}
    return out


def _or_value(schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, VALUE]}


def _spec() -> dict[str, Any]:
    optional, widths = _or_value({"$ref": "#/$defs/optional_call"}), _or_value(_loosen(WIDTHS_SCHEMA))
    parts: dict[str, Any] = {key: optional for key in STAGE if key != "layers"}
    parts["layers"] = _or_value({"type": "array"})
    stage = _or_value({"type": "object", "properties": parts, "additionalProperties": False})
    properties: dict[str, Any] = {
        "input": _or_value({"anyOf": [_loosen(schema) for schema in INPUT_SCHEMA.values()]}),
        "inputs": _or_value(
            {"type": "array", "items": _or_value({"anyOf": [_loosen(schema) for schema in NAMED_SCHEMA.values()]})}
        ),
        "num_classes": _or_value(CLASSES_SCHEMA),
        "stem": optional,
        "head": optional,
        "dims": widths,
        "depths": widths,
        "growth": _or_value(_loosen(GROWTH_SCHEMA)),
        "width": _or_value(_loosen(WIDTH_SCHEMA)),
        "depth": _or_value(_loosen(DEPTH_SCHEMA)),
        "define": {"type": "object"},
        "stages": _or_value(
            {"anyOf": [{"type": "array", "items": stage}, {"type": "object", "additionalProperties": stage}]}
        ),
        "init": _or_value(_loosen(INIT_SCHEMA)),
        "drop_rate": _or_value(RATE_SCHEMA),
        "drop_path_rate": _or_value(RATE_SCHEMA),
        "backbone": _or_value(_loosen(BACKBONE_SCHEMA)),
        "graph": _or_value(_graph()),
        **parts,
    }
    assert set(properties) == set(TOP)
    return {"type": "object", "properties": properties, "additionalProperties": False}
