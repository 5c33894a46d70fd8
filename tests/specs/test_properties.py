"""Laws of specs: there and back, any text gives a spec or a typed error, and the JSON Schema refuses nothing that we accept."""

from __future__ import annotations

import copy
import json
import tomllib
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sampled import sampled
from zoo.catalog import sources
from zoo.catalog.listing import list_models
from zoo.errors import SpecError
from zoo.specs.json_schema import export
from zoo.specs.model import Spec
from zoo.specs.read import read_bytes
from zoo.specs.resolve import resolve

SCHEMA = jsonschema.Draft202012Validator(export())
NET = """
schema = "zoo.spec/1"
[family]
name = "net"
[spec]
input = { size = [32, "@edge"] }
stem = { block = "conv_stack", convs = [{ kernel_size = 4, stride = "@four", norm = "layer_norm" }] }
dims = [8, 16]
depths = ["@one", 4]
downsample = ["@norm", { block = "conv_stack", convs = [{ kernel_size = 2, stride = 2 }] }]
layer = { residual = ["@mixer", "none", { block = "mlp", ratio = { per_stage = [1, 2] }, act = "none" }], scale = 1e-6 }
head = { block = "linear_head" }
stages.1.post = [{ per_stage = ["none", "relu"] }]
[spec.define]
edge = 64
four = 4
one = 1
norm = { block = { per_stage = ["layer_norm", "batch_norm"] } }
mixer = { per_stage = ["@small", { cycle = ["@large", { runs = [["@small", 2], ["pooling", "rest"]] }] }] }
small = { block = "depthwise_conv", kernel_size = 3 }
large = { use = "@small", kernel_size = 7 }
"""  # fmt: skip
TREE = tomllib.loads(NET)
EXAMPLES = 100
"""Of each kind of change; `python -m tests.fuzz` tries as many as there is time for."""
BOUNDED = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

numbers = st.one_of(st.integers(-1, 70), st.integers(), st.floats(), st.booleans())
WORDS = "none mlp core/mlp@1 pooling @small @four @mixer @gone relu layer_norm scan_2d residual rest é"
KEYS = "block use residual core/residual parts per_stage cycle runs ratio act name out_dim repeat layer layers 0 1 scale kernel_size size extra"
STEPS = "stages * ** 0 1 0-1 <mlp> <token_mixer> layers parts define small ratio kernel_size dims head input size"
words = st.sampled_from(["", *WORDS.split()])
keys = st.sampled_from(KEYS.split())
values = st.recursive(
    numbers | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything below a plain tree."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for step, child in children for found in ((*path, step), *places(child, (*path, step)))]


def mutated(tree: dict[str, Any], path: tuple[Any, ...], how: str, key: str, value: Any) -> dict[str, Any]:
    """`tree` with the value at `path` replaced, removed, or given another key."""
    twin = copy.deepcopy(tree)
    node = twin
    for step in path[:-1]:
        node = node[step]
    if how == "remove":
        del node[path[-1]]
    elif how == "add" and isinstance(node[path[-1]], dict):
        node[path[-1]][key] = value
    else:
        node[path[-1]] = value
    return twin


def read(data: str, source: str) -> Spec | None:
    """The spec in a text, None where it is refused as it should be: with a typed error that has something to say."""
    try:
        return resolve(read_bytes(data.encode(), source))
    except SpecError as error:
        assert error.problems
        assert str(error).encode()
        assert all(problem.sentence() for problem in error.problems)
        return None


def check(spec: Spec) -> None:
    """What holds for every spec that we accept."""
    again = resolve(read_bytes(spec.to_json().encode(), "again.json"))
    assert again.plain() == spec.plain()
    assert again.digest == spec.digest
    assert SCHEMA.is_valid(spec.plain())


def test_the_net_that_is_changed_is_good() -> None:
    spec = read(NET, "net.toml")
    assert spec is not None
    check(spec)
    assert SCHEMA.is_valid(TREE)


@pytest.mark.parametrize("name", sampled(list_models()))
def test_a_published_spec_written_and_read_again_is_the_same(name: str) -> None:
    check(sources.spec(name))


@settings(BOUNDED, max_examples=EXAMPLES)
@given(st.integers(0, len(NET) - 1), st.sampled_from("\x00\t\n 01-+.,=@#_abEé\"'[]{}\\😀") | st.just(""))
def test_any_changed_character_gives_a_spec_or_a_typed_error(place: int, character: str) -> None:
    text = NET[:place] + character + NET[place + 1 :]
    spec = read(text, "net.toml")
    if spec is not None:
        check(spec)
        assert SCHEMA.is_valid(tomllib.loads(text))


@settings(BOUNDED, max_examples=EXAMPLES)
@given(st.sampled_from(places(TREE)), st.sampled_from(["replace", "remove", "add"]), keys, values)
def test_any_changed_value_gives_a_typed_error_or_a_spec_that_the_schema_accepts(
    path: tuple[Any, ...], how: str, key: str, value: Any
) -> None:
    tree = mutated(TREE, path, how, key, value)
    spec = read(json.dumps(tree), "net.json")
    if spec is not None:
        check(spec)
        assert SCHEMA.is_valid(tree)


@settings(BOUNDED, max_examples=200)
@given(
    st.lists(st.sampled_from(["", *STEPS.split()]), min_size=1, max_size=5),
    values,
)
def test_any_override_gives_a_spec_or_a_typed_error(steps: list[str], value: Any) -> None:
    try:
        spec = resolve(read_bytes(NET.encode(), "net.toml"), overrides={".".join(steps): value})
    except SpecError as error:
        assert error.problems
    else:
        check(spec)


@pytest.mark.parametrize(
    "text",
    ['stem = "nothing_such"', 'dims = ["8"]', "drop_rate = 2", "depht = [1]", 'layer = { block = "mlp", ratoi = 2 }'],
)
def test_the_schema_refuses_what_is_plainly_wrong(text: str) -> None:
    tree = copy.deepcopy(TREE)
    tree["spec"].update(tomllib.loads(text))
    assert not SCHEMA.is_valid(tree)


def test_values_that_every_variant_states_may_be_missing_from_the_spec() -> None:
    tree = copy.deepcopy(TREE)
    dims = tree["spec"].pop("dims")
    assert not SCHEMA.is_valid(tree)
    assert SCHEMA.is_valid(tree | {"variants": {"net_a": {"dims": dims}}})
