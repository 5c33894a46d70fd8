"""Causal models refuse routers that look ahead, and only these."""

from __future__ import annotations

import pathlib

import pytest

from zoo.errors import SpecError
from zoo.specs.read import read_file
from zoo.specs.resolve import resolve

SPEC = """
schema = "zoo.spec/1"
[family]
name = "net"
task = "language-modeling"
[spec]
input = {{ kind = "tokens", vocab_size = 256 }}
dims = [32]
depths = [2]
layer = [
  {{ residual = ["layer_norm", {mixer}] }},
  {{ residual = ["layer_norm", {{ block = "moe", router = {{ block = "{router}", num_experts = 4 }} }}] }},
]
[variants.net_a]
"""
CAUSAL, BOTH_WAYS = '"mamba"', '{ block = "attention", head_dim = 16, causal = false }'


def refusals(folder: pathlib.Path, mixer: str, router: str) -> list[str]:
    """What is said of routers in the spec."""
    file = folder / "net.toml"
    file.write_text(SPEC.format(mixer=mixer, router=router))
    try:
        resolve(read_file(file), "net_a")
    except SpecError as error:
        return [problem.sentence() for problem in error.problems if "router" in problem.expected]
    return []


def test_a_router_that_looks_ahead_is_refused_beside_a_causal_mixer(tmp_path: pathlib.Path) -> None:
    (said,) = refusals(tmp_path, CAUSAL, "expert_choice_router")
    assert said == (
        "expected a router that sees only the past, in a causal model (`mamba`); "
        "found `expert_choice_router`, which looks at later tokens too; "
        "next: `zoo blocks --kind router --ability causal` lists those that do not"
    )


@pytest.mark.parametrize("mixer", [CAUSAL, '{ block = "attention", head_dim = 16, causal = true }'])
@pytest.mark.parametrize("router", ["base_router", "soft_router", "smear_router", "priority_router"])
def test_every_such_router_is_refused(tmp_path: pathlib.Path, router: str, mixer: str) -> None:
    assert len(refusals(tmp_path, mixer, router)) == 1


@pytest.mark.parametrize(
    "mixer, router", [(CAUSAL, "topk_router"), (CAUSAL, "switch_router"), (BOTH_WAYS, "soft_router")]
)
def test_the_others_are_taken(tmp_path: pathlib.Path, mixer: str, router: str) -> None:
    assert refusals(tmp_path, mixer, router) == []
