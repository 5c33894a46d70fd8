"""What is stated by difference: variants that extend a sibling, key rules with a base."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zoo.catalog import sources
from zoo.cli.commands.specs import _find
from zoo.errors import SpecError
from zoo.specs.model import Spec
from zoo.specs.read import family_of
from zoo.specs.resolve import resolve

NET: dict[str, Any] = {
    "schema": "zoo.spec/1",
    "spec": {
        "input": {"kind": "image", "size": 32},
        "stem": {"block": "conv_stack", "convs": [{"kernel_size": 4, "stride": 4}]},
        "dims": [8, 16],
        "depths": [1, 1],
        "downsample": {"block": "conv_stack", "convs": [{"kernel_size": 2, "stride": 2}]},
        "layer": {"residual": ["@mixer"]},
        "head": "linear_head",
        "define": {"mixer": {"block": "depthwise_conv", "kernel_size": 3}},
    },
    "variants": {
        "small": {},
        "large": {"dims": [16, 32], "define": {"mixer": {"kernel_size": 5}}},
        "deep": {"extends": "large", "depths": [1, 4]},
        "deep_biased": {"extends": "deep", "define": {"mixer": {"bias": True}}, "dims": [24, 32]},
    },
    "keys": {
        "official": {"unwrap": ["model"], "rules": [["stem.{p}", "stem.0.{p}"], ["body.{p*}", "stages.{p*}"], ["head.{p}", "head.fc.{p}"]]},
        "timm": {"base": "official", "unwrap": [], "drop": ["stem.{p}"], "rules": [["conv.{p}", "stem.0.{p}"], ["head.{p}", "head.classifier.{p}"]]},
        "hub": {"base": "timm", "strip_prefix": ["net."]},
    },
}  # fmt: skip


def net(variant: str = "small", **changes: Any) -> Spec:
    """A variant of NET, with other values at dotted paths."""
    tree = copy.deepcopy(NET)
    for path, value in changes.items():
        *above, last = path.split("__")
        node = tree
        for step in above:
            node = node[step]
        node[last] = value
    return resolve(family_of(tree, "net.toml"), variant)


def problem(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        net(**changes)
    return str(caught.value).split("\n", 1)[1]


def test_a_variant_has_the_changes_of_those_that_it_extends_and_its_own_last() -> None:
    spec = net("deep_biased")
    mixer = spec.stages[0].layers[0][0]["parts"][0]
    assert (spec.dims, len(spec.stages[1].layers), mixer["kernel_size"], mixer["bias"]) == ([24, 32], 4, 5, True)
    assert net("large").dims == [16, 32], "a sibling stays as it is"


def test_a_value_comes_from_the_variant_that_states_it() -> None:
    spec = net("deep_biased")
    assert _find(spec, ("dims", 0))[1] == ("net.toml", "variants.deep_biased.dims.0")
    place = ("stages", 0, "layers", 0, 0, "parts", 0, "kernel_size")
    assert _find(spec, place)[1] == ("net.toml", "variants.large.define.mixer.kernel_size")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"variants__deep__extends": "lagre"}, "  variants.deep.extends\n    expected one of `small`, `large` or `deep_biased`; found `lagre`; nearest `large`"),
        ({"variants__deep__extends": 3}, "  variants.deep.extends\n    expected the name of another variant; found 3"),
        (
            {"variants__large__extends": "large", "variants__deep": {}, "variants__deep_biased": {}},
            "  variants.large.extends\n    expected a variant that stands on the family in the end; found a circle: large -> large",
        ),
    ],
)  # fmt: skip
def test_a_sibling_that_cannot_be_extended_is_named(change: dict[str, Any], text: str) -> None:
    assert problem(**change) == text


def test_each_variant_of_a_circle_is_named() -> None:
    text = problem(variants__large__extends="deep")
    assert (
        "  variants.large.extends\n    expected a variant that stands on the family in the end; found a circle: large -> deep -> large"
        in text
    )
    assert "a circle: deep -> large -> deep" in text


def test_variants_extend_each_other_over_few_steps_only() -> None:
    chain = {f"net_{i}": {"extends": f"net_{i - 1}"} if i else {} for i in range(12)}
    assert "found more than 8 steps: net_9 -> net_8" in problem(variants=chain)


def test_key_rules_have_those_of_their_base_but_for_the_differences() -> None:
    assert net().keys["timm"] == {
        "unwrap": [],
        "rules": [["conv.{p}", "stem.0.{p}"], ["body.{p*}", "stages.{p*}"], ["head.{p}", "head.classifier.{p}"]],
    }
    assert net().keys["hub"] == net().keys["timm"] | {"strip_prefix": ["net."]}


def test_a_rule_comes_from_the_entry_that_states_it() -> None:
    assert _find(net(), ("keys", "hub", "rules", 0))[1] == ("net.toml", "keys.timm.rules.0")
    assert _find(net(), ("keys", "hub", "rules", 1))[1] == ("net.toml", "keys.official.rules.1")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keys__timm__base": "offical"}, "  keys.timm.base\n    expected one of `official` or `hub`; found \"offical\"; nearest `official`"),
        ({"keys__timm__base": 3}, "  keys.timm.base\n    expected one of `official` or `hub`; found 3"),
        ({"keys__timm__drop": ["stem.{q}"]}, "  keys.timm.drop.0\n    expected the source name of a rule of `official`; found `stem.{q}`; nearest `stem.{p}`"),
        ({"keys__timm__drop": "stem"}, "  keys.timm.drop\n    expected a list of source names; found \"stem\""),
        ({"keys__official__drop": []}, "  keys.official.drop\n    expected a `base` beside it, whose rules it drops; found none"),
        ({"keys__timm": 3, "keys__hub": "official"}, "  keys.timm\n    expected rules, or the name of an entry to share its rules; found 3"),
        ({"keys": {"a": {"base": "a"}}}, "  keys.a.base\n    expected an entry whose bases come to an end; found a circle: a -> a"),
        ({"keys": {"a": {}} | {f"b{i}": {"base": "a"} for i in range(20)}}, "  keys\n    expected at most 16 entries with a `base`; found 20"),
    ],
)  # fmt: skip
def test_differences_that_cannot_be_are_named(change: dict[str, Any], text: str) -> None:
    assert problem(**change).startswith(text)


def test_a_wrong_rule_is_named_where_it_is_written() -> None:
    from zoo.weights.convert import KeyRules

    spec = net(keys__official={"rules": [["stem.{p", "stem.0.{p}"]]}, keys__timm={"base": "official", "rules": [["a"]]})
    with pytest.raises(SpecError) as caught:
        KeyRules.from_data(spec.keys["timm"], "net.toml: keys.timm")
    assert [problem.where for problem in caught.value.problems] == ["rules.0", "keys.official.rules.0"]


def test_families_are_shorter_by_differences() -> None:
    large, distilled = sources.spec("efficientvim_m4"), sources.spec("efficientvim_m4_dist")
    assert distilled.dims == large.dims
    assert distilled.head["distilled"] and not large.head["distilled"]
    assert (
        large.keys["timm"]["unwrap"] == []
        and len(large.keys["timm"]["rules"]) == len(large.keys["official"]["rules"]) - 1
    )
