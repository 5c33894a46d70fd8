"""The Spec: a filled, checked description of one model, with its digest. Pure data; making one imports no torch."""

from __future__ import annotations

import abc
import functools
import hashlib
import json
from typing import Any, Protocol

import msgspec

from blocks import registry
from zoo.specs.check import Init
from zoo.specs.inputs import AnyInput, Named, input_of, inputs_of
from zoo.specs.read import SCHEMA, FamilyText
from zoo.specs.tree import Table, calls, plain

DROP_RATES = ("drop", "attn_drop", "proj_drop")
"""What blocks call the shares that they leave out in training."""


NOT_ESSENTIAL = ("init", "drop_rate", "drop_path_rate", "backbone")
"""Keys of a tree that do not change which function of its weights a model is; of a backbone its stages do."""


class Stage(msgspec.Struct, frozen=True):
    """One stage: an optional downsample, an optional view around the layers, the layers (each a list of branches), an optional post."""

    downsample: Any
    view: Any
    layers: list[list[Any]]
    post: Any


class NetFactory(Protocol):
    """What makes a net where no spec says of which blocks: the code of a plugin, with what is asked of it."""

    options: dict[str, Any]
    tag: str
    """The weights that are to follow; they may ask for other classes than usual."""

    def build(self, device: Any) -> Any:
        """The net in eval mode, with its first values. Raises InputError."""
        ...

    def deploy(self, net: Any) -> Any:
        """The deploy form of a net that it built, a copy."""
        ...


class Described(abc.ABC):
    """What records hang on, whoever builds the net: a Spec, or what stands for one where the code of a plugin builds it."""

    name: str
    family: FamilyText
    source: str
    """The owner of the collection that lists it, or the file that it stood in."""

    @property
    def factory(self) -> NetFactory | None:
        """What makes the net, where the builder does not make it of blocks."""
        return None

    @property
    @abc.abstractmethod
    def input(self) -> AnyInput: ...

    @property
    def inputs(self) -> tuple[Named, ...]:
        """What goes in beside the first input, in the order of a call."""
        return ()

    @property
    @abc.abstractmethod
    def num_classes(self) -> int: ...

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """sha256 of what the model computes."""

    @abc.abstractmethod
    def blocks(self) -> list[str]:
        """The identities of the blocks in use, sorted."""

    @abc.abstractmethod
    def plain(self) -> dict[str, Any]:
        """The model as it would stand in a file of its own. Raises InputError where there is no spec to show."""


def description_of(net: Any) -> Described | None:
    """What describes a net of the zoo; None of a module of others, whatever it keeps under `spec`."""
    described = getattr(net, "spec", None)
    return described if isinstance(described, Described) else None


class Spec(Described):
    """One model as data. `tree` is the filled tree with origins; the properties are its typed reading."""

    def __init__(self, name: str, family: FamilyText, tree: Table, source: str, keys: dict[str, Any] | None = None):
        self.name, self.family, self.tree, self.source = name, family, tree, source
        self.keys = keys or {}

    @functools.cached_property
    def input(self) -> AnyInput:
        return input_of(plain(self.tree["input"]))

    @functools.cached_property
    def inputs(self) -> tuple[Named, ...]:
        return inputs_of(plain(self.tree.get("inputs", [])))

    @functools.cached_property
    def init(self) -> Init:
        return msgspec.convert(plain(self.tree["init"]), Init)

    @functools.cached_property
    def stages(self) -> list[Stage]:
        return msgspec.convert(plain(self.tree["stages"]), list[Stage])

    @property
    def dims(self) -> list[int]:
        return list(self.tree.get("dims", []))

    @property
    def stem(self) -> Any:
        return self.tree["stem"]

    @property
    def head(self) -> Any:
        return self.tree["head"]

    @property
    def graph(self) -> Any:
        """The call of the graph behind the stages; None for a chain."""
        return self.tree.get("graph")

    @property
    def num_classes(self) -> int:
        return int(self.tree["num_classes"])

    @property
    def drop_rate(self) -> float:
        return float(self.tree["drop_rate"])

    @property
    def drop_path_rate(self) -> float:
        return float(self.tree["drop_path_rate"])

    def plain(self) -> dict[str, Any]:
        """The filled spec as it would stand in a file of its own: reading it back gives an equal Spec."""
        facts = {key: value for key, value in msgspec.to_builtins(self.family).items() if value}
        family = {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}
        return {"schema": SCHEMA, "family": family, "spec": plain(self.tree)}

    def to_json(self, indent: int | None = None) -> str:
        """Canonical JSON: sorted keys, no NaN, one spelling of every number."""
        return json.dumps(self.plain(), sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of what the model computes: the filled tree without text, init and drop rates."""
        canonical = json.dumps(
            essence(plain(self.tree)), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def blocks(self) -> list[str]:
        """The identities of the blocks in use, sorted."""
        return sorted({call["block"] for _, call in calls(self.tree)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.plain() == other.plain()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        stages = f"{len(self.tree['dims'])} stages, " if "dims" in self.tree else ""
        return f"<Spec {self.name}: {stages}digest {self.digest[:12]}>"


def essence(tree: dict[str, Any]) -> dict[str, Any]:
    """The part of a filled tree that decides which function of its weights the model is."""
    essential = {key: value for key, value in tree.items() if key not in NOT_ESSENTIAL}
    sized = any("input_size" in registry.describe(call["block"]).supplied for _, call in calls(tree))
    if not sized:
        essential["input"] = _unsized(essential["input"])
        if "inputs" in essential:
            essential["inputs"] = [_unsized(row) for row in essential["inputs"]]
    return {key: _without_neutral(value) for key, value in essential.items()}


def _unsized(declared: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in declared.items() if key not in ("size", "length", "frames", "shape")}


def _without_neutral(node: Any) -> Any:
    """Leaves out parameters that were added after their block was published, while they are at their default.

    A block's drop rates count as if at their default: they are no part of what the trained model computes.
    """
    if isinstance(node, list):
        return [_without_neutral(item) for item in node]
    if not isinstance(node, dict):
        return node
    params = registry.describe(node["block"]).params if "block" in node else {}
    node = {key: _default(params[key], key) if _is_rate(key, params) else value for key, value in node.items()}
    return {
        key: _without_neutral(value)
        for key, value in node.items()
        if not (key in params and params[key].added and value == _default(params[key], key))
    }


def _is_rate(key: str, params: dict[str, Any]) -> bool:
    return key in DROP_RATES and key in params and params[key].schema.get("type") == "number"


def _default(param: Any, key: str) -> Any:
    from blocks.registry.calls import complete_call
    from blocks.registry.schema import complete

    return complete(param.default, param.schema, (key,), [], complete_call)
