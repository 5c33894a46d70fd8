"""The data phase of checking: every block, parameter, type and range of an expanded tree, all problems at once, each at its origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from blocks import registry
from blocks.registry.calls import complete_call
from blocks.registry.schema import INVALID, Issue, complete, fragment, shown
from blocks.registry.slots import NONE
from blocks.registry.words import PART, is_name
from blocks.wiring import nodes
from zoo.errors import Problem, listed
from zoo.specs.backbones import BACKBONE_SCHEMA
from zoo.specs.inputs import complete_input, complete_inputs
from zoo.specs.tree import Path, Table, calls, graft, origin_of, walk


class Init(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How convolutions and linear layers begin. `fan_out`: normal with variance 2 / fan out (ResNet's); `torch`: torch's default.

    `fan_out` is a law of convolutions; `fan_out_all` is that of linear layers, too, in nets where these are 1 x 1 convolutions.

    Where `head_std` is not 0, those of the head begin as truncated normals of that deviation, whatever the rest does. With `layers`
    "linear" the law is that of linear layers alone, and convolutions begin as torch's. `bias`: where the law decides, biases begin at zero,
    or as torch's, evenly within 1 / sqrt(fan in); those of a head with `head_std` at zero.
    """

    weight: Literal["trunc_normal", "normal", "fan_out", "fan_out_all", "xavier_uniform", "torch"] = "trunc_normal"
    std: Annotated[float, Meta(gt=0, le=10)] = 0.02
    head_std: Annotated[float, Meta(ge=0, le=10)] = 0.0
    layers: Literal["all", "linear"] = "all"
    bias: Literal["zero", "torch"] = "zero"


WIDTHS_SCHEMA = fragment(Annotated[list[Annotated[int, Meta(ge=1, le=1_000_000)]], Meta(min_length=1, max_length=64)])
INIT_SCHEMA = fragment(Init)
RATE_SCHEMA = fragment(Annotated[float, Meta(ge=0, lt=1)])
CLASSES_SCHEMA = fragment(Annotated[int, Meta(ge=0, le=10_000_000)])

OPTIONAL_CALL: dict[str, Any] = {"anyOf": [{"$ref": "#/$defs/call"}, {"const": "none"}]}
VIEW: dict[str, Any] = {"anyOf": [{"$ref": "#/$defs/call", "kinds": ["view"]}, {"const": "none"}]}
HEAD: dict[str, Any] = {"$ref": "#/$defs/call", "kinds": ["head"]}
GRAPH: dict[str, Any] = {"$ref": "#/$defs/call", "kinds": ["wiring"]}
STAGE = ("downsample", "view", "layers", "post")


def complete_tree(tree: Table, problems: list[Problem]) -> Table:
    """The expanded tree with every default written in and every call in canonical form, origins kept."""
    issues: list[Issue] = []
    filled: dict[str, Any] = {"input": complete_input(tree.get("input", {}), issues)}
    if "inputs" in tree:
        filled["inputs"] = complete_inputs(tree["inputs"], issues)
    classes = tree.get("num_classes", _classes(filled["input"]))
    filled["num_classes"] = complete(classes, CLASSES_SCHEMA, ("num_classes",), issues, complete_call)
    if "stem" in tree:
        filled["stem"] = complete(tree["stem"], OPTIONAL_CALL, ("stem",), issues, complete_call)
    if "dims" in tree:
        filled["dims"] = complete(tree["dims"], WIDTHS_SCHEMA, ("dims",), issues, complete_call)
    filled["stages"] = _complete_stages(tree["stages"], issues)
    if "graph" in tree:
        filled |= {"stem": filled.get("stem", NONE), "head": NONE}
        filled["graph"] = complete(tree["graph"], GRAPH, ("graph",), issues, complete_call)
    if "backbone" in tree:
        filled["backbone"] = complete(tree["backbone"], BACKBONE_SCHEMA, ("backbone",), issues, complete_call)
    if "head" in tree and not ("graph" in tree and tree["head"] == NONE):
        filled["head"] = complete(tree["head"], HEAD, ("head",), issues, complete_call)
    filled["init"] = complete(tree.get("init", {}), INIT_SCHEMA, ("init",), issues, complete_call)
    for key in ("drop_rate", "drop_path_rate"):
        filled[key] = complete(tree.get(key, 0.0), RATE_SCHEMA, (key,), issues, complete_call)
    if not issues and not any(value is INVALID for _, value in walk(filled)):
        issues += list(_semantic_issues(filled))
    add_unique(problems, [Problem(str(origin_of(tree, issue.path)), *issue[1:]) for issue in issues])
    grafted: Table = graft(filled, tree, tree.origin)
    return grafted


def add_unique(problems: list[Problem], more: list[Problem]) -> None:
    """One part used in thirty layers is wrong once."""
    present = set(problems)
    problems += [problem for problem in dict.fromkeys(more) if problem not in present]


def _complete_stages(stages: Any, issues: list[Issue]) -> list[dict[str, Any]]:
    """The stages, whose outer form only a selector can have spoilt."""
    if not isinstance(stages, list):
        issues.append(Issue(("stages",), "a list of stages", shown(stages)))
        return []
    return [_complete_stage(stage, ("stages", i), issues) for i, stage in enumerate(stages)]


def _classes(table: Any) -> int:
    """What a model tells apart where nobody says: the next token of a text, the classes of ImageNet in a picture."""
    tokens = table.get("vocab_size") if isinstance(table, dict) else None
    return tokens if isinstance(tokens, int) else 1000


def _complete_stage(stage: Any, path: Path, issues: list[Issue]) -> dict[str, Any]:
    if not isinstance(stage, dict) or set(stage) != set(STAGE):
        found = listed([key for key in stage if key not in STAGE]) if isinstance(stage, dict) else shown(stage)
        issues.append(Issue(path, f"a stage with {listed(STAGE)}", found))
        return {}
    if not isinstance(stage["layers"], list):
        issues.append(Issue((*path, "layers"), "a list of layers", shown(stage["layers"])))
        return {}
    filled = {
        "downsample": complete(stage["downsample"], OPTIONAL_CALL, (*path, "downsample"), issues, complete_call),
        "view": complete(stage["view"], VIEW, (*path, "view"), issues, complete_call),
        "layers": [],
        "post": complete(stage["post"], OPTIONAL_CALL, (*path, "post"), issues, complete_call),
    }
    for j, layer in enumerate(stage["layers"]):
        branches = layer if isinstance(layer, list) else [layer]
        at = (*path, "layers", j)
        if not branches:
            issues.append(
                Issue(at, "a block, or a list of at least one", "a list of 0", next='write "none" for nothing')
            )
        filled["layers"].append(
            [
                complete(branch, OPTIONAL_CALL, (*at, k) if isinstance(layer, list) else at, issues, complete_call)
                for k, branch in enumerate(branches)
            ]
        )
    return filled


def _semantic_issues(filled: dict[str, Any]) -> Iterator[Issue]:
    """What no single value shows: causal mixers before images, slots that nobody writes, names used twice."""
    yield from _causality(filled)
    for path, call in calls(filled):
        if call["block"] == nodes.GRAPH:
            faults = nodes.faults(call["parts"], call["inputs"], call["outputs"])
            yield from (issue._replace(path=(*path, *issue.path)) for issue in faults)
    written = {call["writes"] for _, call in calls(filled) if call.get("writes", "none") != "none"}
    for path, call in calls(filled):
        for key in ("reads", "writes"):
            if not is_name(call.get(key, "none"), PART):
                yield Issue((*path, key), "a name of letters, digits and _", shown(call[key]))
        read = call.get("reads", "none")
        if read != "none" and read not in written:
            wrote = f"only {', '.join(sorted(written))}" if written else "nothing"
            yield Issue(
                (*path, "reads"),
                f"a slot that a block writes: `{read}`",
                f"{wrote} is written",
                next='give a mixer writes = "' + str(read) + '"',
            )
    for path, node in walk(filled):
        parts = node if isinstance(node, list) else ()
        names = [part["name"] for part in parts if isinstance(part, dict) and "name" in part]
        for twice in sorted({name for name in names if names.count(name) > 1}):
            yield Issue(path, "parts with different names", f"`{twice}` twice")


def _causality(filled: dict[str, Any]) -> Iterator[Issue]:
    """A token mixer must have the pattern that its place asks for: all of an image, or only the past of a text."""
    mixers = [(path, call) for path, call in calls(filled["stages"], ("stages",)) if _is_causal(call)]
    if filled["input"].get("kind") != "image":
        if mixers:
            yield from _routing(filled, registry.describe(mixers[0][1]["block"]).name)
        head = filled.get("head") if filled["input"].get("kind") == "tokens" else None
        if isinstance(head, dict) and "causal" in registry.describe(head["block"]).abilities:
            yield from _foresight(filled)
        return
    for path, call in mixers:
        if not _scanned(filled, path):
            name = registry.describe(call["block"]).name
            hint = (
                "causal = false" if "causal" in call else f'{{ within = ["{name}"], view = {{ block = "scan_2d" }} }}'
            )
            yield Issue(path, "a mixer that sees the whole image", f"`{name}` is causal", next=f"write {hint}")


def _is_causal(call: dict[str, Any]) -> bool:
    """Whether a call is that of a token mixer which sees only the past."""
    info = registry.describe(call["block"])
    if info.kind != "token_mixer" or not {"causal", "noncausal"} & set(info.abilities):
        return False
    return bool(call.get("causal", "noncausal" not in info.abilities))


def _foresight(filled: dict[str, Any]) -> Iterator[Issue]:
    """Where a head tells the next token (it can be causal), no mixer may see it."""
    for path, call in calls(filled["stages"], ("stages",)):
        info = registry.describe(call["block"])
        mixes = info.kind == "token_mixer" and {"causal", "noncausal"} & set(info.abilities)
        if mixes and not ("causal" in info.abilities and call.get("causal", True)):
            hint = "write causal = true" if "causal" in call else ""
            yield Issue(path, "a mixer that sees the past only", f"`{info.name}` sees what follows, too", next=hint)


def _routing(filled: dict[str, Any], mixer: str) -> Iterator[Issue]:
    """Beside a causal mixer a router must not look ahead either."""
    for path, call in calls(filled["stages"], ("stages",)):
        info = registry.describe(call["block"])
        if info.kind == "router" and "causal" not in info.abilities:
            yield Issue(
                path,
                f"a router that sees only the past, in a causal model (`{mixer}`)",
                f"`{info.name}`, which looks at later tokens too",
                next="`zoo blocks --kind router --ability causal` lists those that do not",
            )


def _ends_in_class_token(call: dict[str, Any]) -> bool:
    """Whether what is read of the view is a class token behind all others, which has seen the whole image."""
    return str(call.get("block")).startswith("core/tokens@") and (call.get("cls_token"), call.get("keep")) == (
        "last",
        "cls",
    )


BOTH_WAYS = ("core/scan_2d@", "core/multi_scan@", "core/bidirectional@")
"""Views and wirings that show a causal mixer its input from both ends."""


def _scanned(filled: dict[str, Any], path: Path) -> bool:
    """Whether a scan view or a wiring around the call shows it the image from both ends, or the last token alone is read."""
    node: Any = filled
    for step in path:
        around = [node, node.get("view")] if isinstance(node, dict) else []
        calls_around = [call for call in around if isinstance(call, dict)]
        if any(str(call.get("block")).startswith(BOTH_WAYS) or _ends_in_class_token(call) for call in calls_around):
            return True
        node = node[step]
    return False
