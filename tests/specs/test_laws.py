"""The laws of growth and depth: RegNet's widths, EfficientNet's depths, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import zoo
from zoo.errors import SpecError
from zoo.specs.laws import Depth, Growth, deepened, grown
from zoo.specs.model import Spec
from zoo.specs.read import read_bytes
from zoo.specs.resolve import resolve

LINE = "{ layers = 13, start = 24, slope = 36.44, ratio = 2.49, group_dim = 8 }"
NET = f"""
schema = "zoo.spec/1"
[spec]
input = {{ kind = "image", channels = 1, size = 32 }}
stem = {{ block = "conv", out_dim = 24 }}
growth = {LINE}
layer = {{ block = "conv", kernel_size = 3 }}
head = "linear_head"
"""
PLAIN = NET.replace(f"growth = {LINE}", "dims = [24, 56, 152]\ndepths = [1, 2, 3]")


def net(text: str = NET, overrides: dict[str, Any] | None = None) -> Spec:
    return resolve(read_bytes(text.encode(), "net.toml"), "", overrides)


def problem(text: str = NET, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(SpecError) as refusal:
        net(text, overrides)
    return str(refusal.value)


def test_widths_and_depths_follow_from_a_line() -> None:
    spec = net()
    assert (list(spec.dims), [len(stage.layers) for stage in spec.stages]) == ([24, 56, 152, 368], [1, 1, 4, 7])


def test_a_width_becomes_whole_groups_the_nearest_or_one_that_is_not_much_less() -> None:
    law = Growth(layers=22, start=24, slope=24.48, ratio=2.54, group_dim=16)
    assert [width for width, _ in grown(law)] == [32, 64, 160, 384]
    assert [width for width, _ in grown(Growth(layers=1, start=200, slope=0, ratio=2, group_dim=144))] == [144]
    assert [width for width, _ in grown(Growth(layers=1, start=200, slope=0, ratio=2, group_dim=144, least=0.9))] == [
        288
    ]


def test_growth_beside_dims_is_refused() -> None:
    assert "either `growth`, which gives `dims` and `depths`, or both; found both" in problem(
        NET.replace("layer =", "dims = [24]\nlayer =")
    )


def test_growth_without_its_line_names_the_keys() -> None:
    text = problem(NET.replace(LINE, "{ layers = 3 }"))
    assert (
        "expected a table { layers, start, slope, ratio, round_to, group_dim, least }; found the keys `layers`" in text
    )


def test_growth_out_of_its_bounds_is_refused_where_it_stands() -> None:
    assert "growth.ratio" in problem(NET.replace("ratio = 2.49", "ratio = 1.0"))


def test_growth_into_too_many_stages_is_refused() -> None:
    assert "a growth of at most 64 stages" in problem(
        NET.replace("layers = 13", "layers = 900").replace("2.49", "1.001")
    )


def test_depths_are_scaled_upward_and_without_ends_but_the_first_and_last() -> None:
    assert deepened([1, 2, 2, 3, 3, 4, 1], Depth(1.1)) == [2, 3, 3, 4, 4, 5, 2]
    assert deepened([1, 2, 2, 3, 3, 4, 1], Depth(1.8, ends=False)) == [1, 4, 4, 6, 6, 8, 1]
    assert [len(stage.layers) for stage in net(PLAIN, {"depth": {"scale": 1.5}}).stages] == [2, 3, 5]


def test_an_unknown_key_of_the_depth_law_names_those_there_are() -> None:
    assert "expected a table { scale, ends }; found the keys `scale`, `stem`" in problem(
        PLAIN, {"depth": {"scale": 2, "stem": False}}
    )


def test_the_width_law_scales_the_head_where_it_is_told_to() -> None:
    wide = {"head.pre.out_dim": 100}
    text = PLAIN.replace('head = "linear_head"', 'head = { block = "linear_head", pre = { block = "conv" } }')
    law = {"scale": 2.0, "round_to": 8}
    assert net(text, {**wide, "width": law}).head["pre"]["out_dim"] == 100
    assert net(text, {**wide, "width": law | {"head": True}}).head["pre"]["out_dim"] == 200


def test_the_rest_may_stand_before_the_last_run() -> None:
    layer = {"block": "conv", "kernel_size": {"runs": [[1, "rest"], [5, 1]]}}
    sizes = [[each[0]["kernel_size"] for each in stage.layers] for stage in net(PLAIN, {"layer": layer}).stages]
    assert sizes == [[5], [1, 5], [1, 1, 5]]


def test_a_gate_counts_from_the_width_of_its_layer() -> None:
    model: Any = zoo.create("regnety_002", device="meta")
    hidden = [stage.layers[0].get_submodule("0.2").down.out_features for stage in model.stages]
    assert hidden == [8, 6, 14, 38]
