"""One block in the place of another at the same cost: the hosts' channel mixers grow or shrink until the whole net costs as much."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from blocks import registry
from zoo.build.builder import build
from zoo.build.params import count_params
from zoo.catalog.sources import spec as find_spec
from zoo.errors import InputError, Problem
from zoo.measure.macs import count_macs
from zoo.specs.inputs import TokenInput
from zoo.specs.model import Spec
from zoo.specs.patch import swap_edits
from zoo.specs.read import SCHEMA, family_of
from zoo.specs.resolve import resolve, respec
from zoo.specs.tree import calls

Budget = Literal["macs", "params"]
TOLERANCE = 0.02
WIDEST, NARROWEST = 16.0, 1 / 16
"""How far channel mixers may be scaled."""


class Fitted(NamedTuple):
    """A host with a contestant in it, at the budget; `scale` is what its channel mixers were scaled by."""

    spec: Spec
    cost: float
    scale: float


def placed(host: str, block: str, kind: str) -> Spec:
    """The host with `block` in every place of that kind, as the host needs it. Raises SpecError where it cannot stand.

    In a net of images a causal mixer scans rows and columns both ways; in a language model a mixer that can be causal is.
    """
    published = find_spec(host)
    return respec(published, swap_edits({kind: call_for(block, isinstance(published.input, TokenInput))}))


def call_for(block: str, tokens: bool) -> Any:
    """How a spec of token ids, or of images, calls a block."""
    info = registry.describe(block)
    if tokens:
        return {"block": info.name, "causal": True} if "causal" in info.params else info.name
    sequential = info.kind == "token_mixer" and "causal" in info.abilities and "noncausal" not in info.abilities
    return {"within": [info.name], "view": "scan_2d"} if sequential else info.name


def cost_of(spec: Spec, budget: Budget) -> float:
    """Parameters, or MACs with half the FLOPs of scans and FFTs, which are no multiply-accumulates."""
    model = build(spec)
    if budget == "params":
        return float(count_params(model))
    counted = count_macs(model)
    return counted.total + counted.scan_flops / 2


def fitted(spec: Spec, target: float, budget: Budget) -> Fitted:
    """The spec with its channel mixers scaled to cost `target` within 2 %. Raises InputError when no scale does."""
    cost = cost_of(spec, budget)
    if _near(cost, target):
        return Fitted(spec, cost, 1.0)
    if not list(_widths(spec.plain()["spec"])):
        raise InputError(
            spec.name, _refusal(cost, target, budget, "there is no channel mixer whose width could make up for it")
        )
    low, high = (NARROWEST, 1.0) if cost > target else (1.0, WIDEST)
    tried = Fitted(spec, cost, 1.0)
    for _ in range(24):
        scale = (low * high) ** 0.5
        changed = scaled(spec, scale)
        tried = Fitted(changed, cost_of(changed, budget), scale)
        if _near(tried.cost, target):
            return tried
        low, high = (scale, high) if tried.cost < target else (low, scale)
    raise InputError(
        spec.name, _refusal(tried.cost, target, budget, f"at channel mixers of {tried.scale:.2f} times their width")
    )


def scaled(spec: Spec, scale: float) -> Spec:
    """The same net with the hidden width of every channel mixer scaled."""
    tree = copy.deepcopy(spec.plain()["spec"])
    for call, key in list(_widths(tree)):
        value = call[key] * scale
        call[key] = max(1, round(value)) if key == "hidden_dim" else value
    result = resolve(family_of({"schema": SCHEMA, "spec": tree}, spec.name), "")
    result.name, result.family = spec.name, spec.family
    return result


def _widths(tree: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every call of a channel mixer, and the parameter that is its width."""
    for _, call in calls(tree):
        if registry.describe(call["block"]).kind == "channel_mixer":
            numbers = [key for key in ("hidden_dim", "ratio") if isinstance(call.get(key), (int, float))]
            yield from ((call, key) for key in numbers[:1])


def _near(cost: float, target: float) -> bool:
    return abs(cost - target) <= TOLERANCE * target


def _refusal(cost: float, target: float, budget: Budget, why: str) -> Problem:
    return Problem(
        budget,
        f"{target:,.0f} within {TOLERANCE:.0%}",
        f"{cost:,.0f}: {why}",
        next="study another host, or another budget",
    )
