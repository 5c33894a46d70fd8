"""Key rules run both ways: each source tensor used once, each target filled once, or an error that names both sides."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import SpecError, WeightsError
from zoo.weights.axes import Axes
from zoo.weights.convert import KeyRules
from zoo.weights.key_patterns import PatternError
from zoo.weights.operations import bit_equal


def rules(*entries) -> KeyRules:
    return KeyRules.from_data(list(entries), "net.toml: keys.official")


def toml(text: str) -> KeyRules:
    return KeyRules.from_data(tomllib.loads(text)["keys"], "net.toml: keys")


def of(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def there_and_back(rule_set: KeyRules, source: dict, expected: dict) -> dict:
    """The converted tensors, having checked that they come back bit for bit."""
    expected = {name: (shape, torch.float32) for name, shape in expected.items()}
    zoo = rule_set.to_zoo(source, expected, "net")
    assert list(zoo) == list(expected)
    back = rule_set.to_source(zoo)
    assert sorted(back) == sorted(source)
    assert all(bit_equal(back[name], source[name]) for name in source)
    return zoo


def problems(rule_set: KeyRules, source: dict, expected: dict) -> list[str]:
    with pytest.raises(WeightsError) as caught:
        rule_set.to_zoo(source, {name: (shape, torch.float32) for name, shape in expected.items()}, "net")
    return [f"{problem.where}: {problem.sentence()}" for problem in caught.value.problems]


# what rules do


def test_a_rename_carries_any_number_of_segments():
    rule_set = rules(["blocks.{i}.fc1.{rest*}", "layers.{i}.1.fc1.{rest}"])
    there_and_back(rule_set, {"blocks.0.fc1.a.b": of(2)}, {"layers.0.1.fc1.a.b": (2,)})


def test_an_offset_may_stand_on_either_side():
    source = {"block1.0.w": of(1), "block2.0.w": of(2)}
    for rule in (["block{i+1}.{j}.w", "stages.{i}.{j}.w"], ["block{i}.{j}.w", "stages.{i-1}.{j}.w"]):
        there_and_back(rules(rule), source, {"stages.0.0.w": (1,), "stages.1.0.w": (2,)})


def test_a_number_below_zero_or_with_a_leading_zero_is_no_match():
    rule_set = rules(["b{i+1}", "s.{i}"])
    assert rule_set.claim("b0") is None and rule_set.claim("b01") is None and rule_set.claim("b1") is not None


def test_words_are_mapped_by_a_table_with_dots_in_it():
    rule_set = rules(
        ["{i}.{part:norm1=layers.0.0|mixer=layers.0.1}.{leaf:weight=gamma|bias=beta}", "s.{i}.{part}.{leaf}"]
    )
    zoo = there_and_back(
        rule_set,
        {"3.norm1.weight": of(2), "3.mixer.bias": of(1)},
        {"s.3.layers.0.0.gamma": (2,), "s.3.layers.0.1.beta": (1,)},
    )
    assert zoo["s.3.layers.0.1.beta"].shape == (1,)


def test_a_choice_matches_nothing_else():
    assert rules(["a.{leaf:weight|bias}", "b.{leaf}"]).claim("a.scale") is None


def test_the_first_rule_that_takes_a_name_wins():
    rule_set = rules(["head.fc.{x}", "head.{x}"], ["head.{x*}", "head.pre.{x}"])
    there_and_back(
        rule_set,
        {"head.fc.weight": of(2), "head.norm.weight": of(3)},
        {"head.weight": (2,), "head.pre.norm.weight": (3,)},
    )


def test_going_back_a_name_that_an_earlier_rule_would_take_is_refused():
    rule_set = rules(["norm.{x}", "out.norm.{x}"], ["{a}.{x}", "{a}.{x}"])
    assert rule_set.source_names("fc.w") == ["fc.w"]
    assert rule_set.origins("norm.w") == []


def test_of_two_rules_for_a_name_the_one_whose_target_is_there_takes_it():
    rule_set = rules(["{i}.bn.{x}", "s.{i}.norm.{x}"], ["{i}.bn.{x}", "s.{i}.exp.norm.{x}"])
    there_and_back(rule_set, {"0.bn.w": of(2), "1.bn.w": of(3)}, {"s.0.exp.norm.w": (2,), "s.1.norm.w": (3,)})


def test_a_name_that_stands_twice_must_agree():
    rule_set = rules(["a.{i}.b.{i}", "c.{i}"])
    assert rule_set.claim("a.1.b.1") and rule_set.claim("a.1.b.2") is None


def test_axes_are_permuted_and_ones_go_in_and_out():
    source = {"conv": of(4, 3, 1, 1), "grn": of(1, 1, 1, 5), "t": of(2, 3)}
    rule_set = rules(
        {"from": "conv", "to": "fc", "shape": "o i 1 1 -> o i"},
        {"from": "grn", "to": "gamma", "shape": "1 1 1 c -> c"},
        {"from": "t", "to": "u", "shape": "a b -> b 1 a"},
    )
    zoo = there_and_back(rule_set, source, {"fc": (4, 3), "gamma": (5,), "u": (3, 1, 2)})
    assert torch.equal(zoo["u"][:, 0], source["t"].T)


def test_axes_are_merged_and_come_apart_as_a_square_or_by_a_stated_size():
    source = {"pos": of(1, 5, 3, 3), "steps": of(8, 3), "norm": of(6)}
    rule_set = rules(
        {"from": "pos", "to": "table", "shape": "1 c h w -> 1 (h w) c"},
        {"from": "steps", "to": "dt", "shape": "(k=4 e) r -> k e r"},
        {"from": "norm", "to": "mixed", "shape": "(c r=2) -> (r c)"},
    )
    zoo = there_and_back(rule_set, source, {"table": (1, 9, 5), "dt": (4, 2, 3), "mixed": (6,)})
    assert torch.equal(zoo["table"][0, 5], source["pos"][0, :, 1, 2])
    assert torch.equal(zoo["dt"][3, 1], source["steps"][7])
    assert torch.equal(zoo["mixed"], source["norm"][[0, 2, 4, 1, 3, 5]])


@pytest.mark.parametrize("shape", ["o i -> o", "(a b -> a b", "a b -> (a) b", "a (b 2) -> a b", "a" * 60 + "! -> a"])
def test_a_shape_that_is_no_pattern_is_refused(shape):
    with pytest.raises(PatternError, match="shape"):
        Axes(shape)


def test_split_cuts_by_the_sizes_of_the_targets():
    source = {"qkv.weight": of(8, 2)}
    rule_set = rules({"from": "qkv.{x}", "split": {"dim": 0, "to": ["q.{x}", "kv.{x}"]}})
    zoo = there_and_back(rule_set, source, {"q.weight": (3, 2), "kv.weight": (5, 2)})
    assert torch.equal(zoo["kv.weight"], source["qkv.weight"][3:])


def test_cat_puts_together_and_is_cut_by_its_sizes():
    source = {"k.w": of(2, 1), "v.w": of(2, 3)}
    rule_set = rules({"to": "kv.{x}", "cat": {"dim": 1, "from": ["k.{x}", "v.{x}"], "sizes": [1, 3]}})
    zoo = there_and_back(rule_set, source, {"kv.w": (2, 4)})
    assert torch.equal(zoo["kv.w"][:, :1], source["k.w"])


def test_stack_and_unstack_count_with_an_index():
    source = {f"b.{i}.experts.{e + 1}.w": of(2, 3) for i in range(2) for e in range(11)}
    stack = rules({"from": "b.{i}.experts.{e+1}.w", "to": "b.{i}.w", "stack": {"dim": 1, "index": "e"}})
    zoo = there_and_back(stack, source, {"b.0.w": (2, 11, 3), "b.1.w": (2, 11, 3)})
    assert torch.equal(zoo["b.1.w"][:, 10], source["b.1.experts.11.w"])
    unstack = rules({"from": "b.{i}.w", "to": "b.{i}.experts.{e+1}.w", "unstack": {"dim": 1, "index": "e"}})
    there_and_back(unstack, zoo, {name: (2, 3) for name in source})


def test_a_tie_is_dropped_and_written_again():
    w = of(3, 2)
    rule_set = rules({"tie": "lm_head.{x}", "with": "wte.{x}"}, ["wte.{x}", "embed.{x}"])
    there_and_back(rule_set, {"wte.weight": w, "lm_head.weight": w.clone()}, {"embed.weight": (3, 2)})


def test_ignored_counters_are_written_again_as_zero_beside_each_norm():
    text = """
    [keys]
    rules = [
      { ignore = "{m*}.num_batches_tracked", beside = "{m}.running_mean", fill = 0, dtype = "int64" },
      { ignore = "**.attn_mask" },
      ["{x*}", "net.{x}"],
    ]"""
    counter = torch.tensor(0)
    source = {"a.bn.running_mean": of(2), "a.bn.num_batches_tracked": counter, "bn.running_mean": of(1)}
    source["bn.num_batches_tracked"] = counter
    expected = {"net.a.bn.running_mean": (2,), "net.bn.running_mean": (1,)}
    there_and_back(toml(text), source, expected)
    toml(text).to_zoo(source | {"s.b.attn_mask": of(1)}, {n: (s, torch.float32) for n, s in expected.items()}, "net")


def test_envelope_and_prefix_are_taken_off():
    rule_set = toml(
        'keys = { unwrap = ["model_ema", "state_dict"], strip_prefix = ["module."], rules = [["{x*}", "{x}"]] }'
    )
    data = {"epoch": 3, "state_dict": {"module.a": of(1)}, "args": None}
    assert list(rule_set.open(data, "net")) == ["a"]
    assert list(rule_set.open({"module.a": of(1), "b": of(1)}, "net")) == ["module.a", "b"]


def test_an_envelope_that_was_not_declared_is_explained():
    with pytest.raises(WeightsError) as caught:
        rules(["{x*}", "{x}"]).open({"epoch": 3, "model": {"a": of(1)}}, "net")
    assert str(caught.value) == (
        "net: 2 errors; nothing was loaded\n"
        "  epoch\n    expected a tensor; found a value of type int\n"
        "  model\n    expected a tensor; found a mapping of 1 entries; next: pass the mapping under `model` itself"
    )


# what checkpoints may be wrong about

NET = rules(["norm.{x}", "final.{x}"], {"from": "qkv", "split": {"dim": 0, "to": ["q", "k"]}})
GOOD = {"norm.weight": of(2), "norm.bias": of(2), "qkv": of(4, 1)}
WANTED = {"final.weight": (2,), "final.bias": (2,), "q": (2, 1), "k": (2, 1)}


def test_the_good_one_converts():
    there_and_back(NET, GOOD, WANTED)


def test_a_renamed_source_tensor_is_named_on_both_sides():
    source = {name.replace("norm.bias", "norm.bais"): tensor for name, tensor in GOOD.items()}
    assert problems(NET, source, WANTED) == [
        "final.bias: expected shape (2,); found no source tensor `norm.bias`; nearest `norm.bais`",
        "norm.bais: a source tensor for `final.bais`, which the model does not have; nearest `norm.bias`",
    ]


def test_a_source_tensor_that_no_rule_takes_is_named():
    assert problems(NET, GOOD | {"extra": of(1)}, WANTED) == ["extra: a source tensor that no rule takes"]


def test_a_target_that_no_rule_produces_is_named():
    assert problems(NET, GOOD, WANTED | {"new": (1,)}) == ["new: expected shape (1,); found no rule that produces it"]


def test_a_wrong_shape_names_target_and_source():
    assert problems(NET, GOOD | {"norm.bias": of(3)}, WANTED) == [
        "final.bias: expected shape (2,); found (3,) from source tensor `norm.bias`"
    ]


def test_a_split_that_does_not_come_out_even_is_named():
    assert problems(NET, GOOD | {"qkv": of(5, 1)}, WANTED) == [
        "`qkv`: the shape (5, 1) cannot be cut along axis 0 into sizes [2, 2]"
    ]


def test_a_split_target_that_the_model_lacks_is_named():
    wanted = {name: shape for name, shape in WANTED.items() if name != "k"}
    assert problems(NET, GOOD, wanted) == ["qkv: a source tensor for `k`, which the model does not have"]


def test_two_rules_that_fill_one_target_are_named():
    rule_set = rules(["a.{x}", "z.{x}"], ["b.{x}", "z.{x}"])
    assert problems(rule_set, {"a.w": of(1), "b.w": of(1)}, {"z.w": (1,)}) == [
        "z.w: expected one rule that produces it; found rule 0 and rule 1, for source tensor `a.w` or `b.w`"
    ]


def test_an_expert_that_is_missing_is_named():
    rule_set = rules({"from": "e.{e}.w", "to": "w", "stack": {"dim": 0, "index": "e"}})
    assert problems(rule_set, {"e.0.w": of(1), "e.2.w": of(1)}, {"w": (3, 1)}) == [
        "e.1.w: expected a tensor beside `e.0.w` or `e.2.w`; found none"
    ]


def test_an_index_below_the_first_is_taken_by_no_rule():
    rule_set = rules({"from": "e.{e+1}.w", "to": "w", "stack": {"dim": 0, "index": "e"}})
    assert problems(rule_set, {"e.0.w": of(1), "e.1.w": of(1)}, {"w": (1, 1)}) == [
        "e.0.w: a source tensor that no rule takes"
    ]


def test_a_giant_index_is_refused_at_once():
    rule_set = rules({"from": "e.{e}.w", "to": "w", "stack": {"dim": 0, "index": "e"}})
    assert problems(rule_set, {"e.999999999.w": of(1)}, {"w": (1, 1)}) == [
        "e.0.w: expected a tensor beside `e.999999999.w`; found none"
    ]


def test_a_part_of_a_cat_that_is_missing_is_named():
    rule_set = rules({"to": "kv", "cat": {"dim": 0, "from": ["k", "v"]}})
    assert problems(rule_set, {"k": of(1)}, {"kv": (2,)}) == ["v: expected a tensor beside `k`; found none"]


def test_parts_of_unequal_size_need_their_sizes():
    rule_set = rules({"to": "kv", "cat": {"dim": 0, "from": ["k", "v"]}})
    assert problems(rule_set, {"k": of(1), "v": of(2)}, {"kv": (3,)}) == [
        "`k` or `v`: axis 0 has sizes [1, 2], expected equal sizes; state them as `sizes`"
    ]


def test_a_tie_with_other_values_or_without_partner_is_named():
    rule_set = rules({"tie": "head", "with": "wte"}, ["wte", "embed"])
    assert problems(rule_set, {"wte": of(1), "head": of(1)}, {"embed": (1,)}) == [
        "head: expected the same values as `wte`, its tie; found other values"
    ]
    assert "head: expected a second name of the source tensor `wte`; found no `wte`" in problems(
        rule_set, {"head": of(1)}, {"embed": (1,)}
    )


def test_a_shape_that_does_not_read_its_pattern_is_named():
    rule_set = rules({"from": "a", "to": "b", "shape": "o i 1 1 -> o i"})
    assert problems(rule_set, {"a": of(2, 3, 1, 2)}, {"b": (2, 3)}) == [
        "`a`: the shape (2, 3, 1, 2) does not read `o i 1 1` (rule `o i 1 1 -> o i`)"
    ]


def test_an_export_names_what_no_rule_leads_back():
    with pytest.raises(WeightsError) as caught:
        NET.to_source({"final.weight": of(2), "other": of(1), "q": of(1)})
    assert [f"{p.where}: {p.sentence()}" for p in caught.value.problems] == [
        "other: expected one rule that produces it; found none",
        "k: expected a tensor beside `q`; found none",
    ]


# what rule sets may be wrong about

BAD = [
    (["a"], 'expected ["from", "to"]; found [\'a\']'),
    (3, "expected a table or a list of two names; found 3"),
    ({}, "expected a rule with `split`, `cat`, `stack`, `unstack`, `tie`, `ignore` or `from`; found an empty table"),
    ({"from": "a", "to": "b", "spilt": 1}, "unknown key `spilt`"),
    ({"from": "a", "to": "b", "shap": "a -> a"}, "unknown key `shap`; nearest `shape`"),
    ({"from": "a"}, "no `to`"),
    ({"from": "a", "to": 3}, "`to` must be a string; found 3"),
    (["a.{i}", "b"], "`to` `b` lacks the placeholder `{i}` of `a.{i}`"),
    (["a", "b.{i}"], "`to` `b.{i}` has the placeholder `{i}`, which `a` lacks"),
    (["a.{i", "b"], "`a.{i` has a brace without its partner"),
    (["a.{I}", "b"], "`{I}` in `a.{I}` is no placeholder; write `{x}`, `{x*}`, `{x+1}` or `{x:a=b|c=d}`"),
    (["{a}{b}", "{a}.{b}"], "`{a}{b}` has two placeholders side by side; nothing tells where the first one ends"),
    (["{a*}.x.{b*}.{c*}", "{a}.{b}.{c}"], "`{a*}.x.{b*}.{c*}` has more than 8 placeholders, or more than 2 with `*`"),
    (["{a:x=y|z=y}", "{a}"], "`{a:x=y|z=y}` must give each word one partner, and no two the same"),
    (["{a:x|y}", "{a:x|z}"], "`{a}` has two different choices of words in one rule; write them once"),
    (
        ["{a*}", "{a+1}"],
        "`{a}` cannot be two of: many segments (`*`), a number (`+1`), a choice of words (`:`)",
    ),
    (["", "a"], "a pattern is empty"),
    (
        {"from": "a", "to": "b", "shape": "o i"},
        "shape `o i` is not like `o i 1 1 -> o i`: names, 1s and groups `(h w)` on both sides",
    ),
    ({"from": "a", "to": "b", "shape": "o i -> o"}, "shape `o i -> o` must name each axis once on both sides"),
    ({"from": "a", "to": "b", "shape": "o o -> o o"}, "shape `o o -> o o` must name each axis once on both sides"),
    ({"from": "a", "split": {"dim": 0, "to": ["b"]}}, "`split.to` must be a list of at least two names; found ['b']"),
    ({"from": "a", "split": {"dim": -1, "to": ["b", "c"]}}, "`split.dim` must be a number in [0, 16); found -1"),
    ({"from": "a", "split": {"to": ["b", "c"]}}, "no `dim` in `split`"),
    ({"from": "a", "split": 3}, "`split` must be a table with `dim` or `to`; found 3"),
    (
        {"to": "a", "cat": {"dim": 0, "from": ["b", "c"], "sizes": [1]}},
        "`cat.sizes` must be 2 numbers >= 1; found [1]",
    ),
    ({"from": "a", "to": "b", "stack": {"dim": 0, "index": "e"}}, "`from` lacks the index `{e}`"),
    (
        {"from": "a.{e}", "to": "b.{e}", "stack": {"dim": 0, "index": "e"}},
        "`to` `b.{e}` has the placeholder `{e}`, which `a.{e}` lacks",
    ),
    ({"tie": "a"}, "no `with` with `tie`"),
    ({"tie": "a.{x}", "with": "b"}, "`b` lacks the placeholder `{x}` of `a.{x}`"),
    (
        {"ignore": "a", "fill": 0},
        "`fill` and `beside` go together: the value, and the source tensor beside which it stands",
    ),
    ({"ignore": "a", "beside": "b", "fill": "0"}, "`fill` must be a number; found '0'"),
]


@pytest.mark.parametrize(("rule", "message"), BAD, ids=[json.dumps(rule) for rule, _ in BAD])
def test_a_wrong_rule_is_named_by_its_position_and_reason(rule, message):
    with pytest.raises(SpecError) as caught:
        rules(["x", "y"], rule)
    assert str(caught.value) == f"net.toml: keys.official: 1 error\n  rules.1\n    {message}"


def test_all_wrong_rules_are_named_at_once():
    with pytest.raises(SpecError) as caught:
        KeyRules.from_data({"rules": [["a"], ["b", "c"], 3], "unwarp": []}, "net.toml: keys")
    assert [problem.where for problem in caught.value.problems] == ["unwarp", "rules.0", "rules.2"]
    assert caught.value.problems[0].sentence() == (
        "expected `rules`, `unwrap` or `strip_prefix`; found `unwarp`; nearest `unwrap`"
    )


# laws

DTYPES = [torch.float32, torch.float16, torch.int64, torch.bool]
SIZES = st.integers(0, 3)
RULES = {  # kind -> rules; T is a prefix of their own, N a number with an offset
    "rename": [["T.{i}.{r*}", "Tz.qN.{r}"]],
    "words": [{"from": "T.{i}.{w:a=x.y|b=z}", "to": "Tz.qN.{w}"}],
    "shape": [{"from": "T.{i}", "to": "Tz.qN", "shape": "a 1 b c -> c a 1 1 b"}],
    "split": [{"from": "T.{i}", "split": {"dim": 1, "to": ["Tz.qN.a", "Tz.qN.b", "Tz.qN.c"]}}],
    "cat": [{"to": "Tz.qN", "cat": {"dim": 0, "from": ["T.{i}.a", "T.{i}.b"]}}],
    "stack": [{"from": "T.{i}.{e}.w", "to": "Tz.qN", "stack": {"dim": 1, "index": "e"}}],
    "unstack": [{"from": "T.{i}", "to": "Tz.qN.{e+1}", "unstack": {"dim": 0, "index": "e"}}],
    "tie": [{"tie": "T.{i}.head", "with": "T.{i}.wte"}, ["T.{i}.{x}", "Tz.qN.{x}"]],
    "ignore": [
        {"ignore": "T.{i}.steps", "beside": "T.{i}.mean", "fill": 7, "dtype": "int32"},
        ["T.{i}.{x}", "Tz.qN.{x}"],
    ],
}


def tensors_of(kind: str, draw, tensor) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """Endings of source names -> tensors, and endings of zoo names -> shapes, for one application of the rules."""
    a, b, c = (draw(SIZES) for _ in range(3))
    count = draw(st.integers(1, 12))
    tail = "." + ".".join(draw(st.lists(st.sampled_from(["a", "weight", "0", "x_y"]), min_size=1, max_size=3)))
    shared = tensor(3)
    cases = {
        "rename": ({tail: tensor(a, b)}, {tail: (a, b)}),
        "words": ({".a": tensor(1), ".b": tensor()}, {".x.y": (1,), ".z": ()}),
        "shape": ({"": tensor(a, 1, b, c)}, {"": (c, a, 1, 1, b)}),
        "split": ({"": tensor(2, a + b + c)}, {".a": (2, a), ".b": (2, b), ".c": (2, c)}),
        "cat": ({".a": tensor(a, 2), ".b": tensor(a, 2)}, {"": (2 * a, 2)}),
        "stack": ({f".{e}.w": tensor(2) for e in range(count)}, {"": (2, count)}),
        "unstack": ({"": tensor(count, 2)}, {f".{e + 1}": (2,) for e in range(count)}),
        "tie": ({".wte": shared, ".head": shared.clone()}, {".wte": (3,)}),
        "ignore": ({".mean": shared, ".steps": torch.tensor(7, dtype=torch.int32)}, {".mean": (3,)}),
    }
    return cases[kind]


@st.composite
def rules_and_tensors(draw, tag: str) -> tuple[list, dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """Rules whose names all start with `tag`, source tensors for them, and the shapes that the model then expects."""
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(sorted(RULES)))
    shift = draw(st.integers(-1, 3))
    text = json.dumps(RULES[kind]).replace("N", f"{{i{shift:+d}}}" if shift else "{i}").replace("T", tag)
    source, expected = {}, {}
    for i in draw(st.lists(st.integers(1, 30), min_size=1, max_size=3, unique=True)):
        tensors, shapes = tensors_of(
            kind, draw, lambda *shape: (torch.randn(shape, generator=generator) * 10).to(dtype)
        )
        source |= {f"{tag}.{i}{end}": tensor for end, tensor in tensors.items()}
        expected |= {f"{tag}z.q{i + shift}{end}": shape for end, shape in shapes.items()}
    return json.loads(text), source, expected


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_key_rules_there_and_back_are_the_identity(data, count):
    entries, source, expected = [], {}, {}
    for place in range(count):
        more, tensors, shapes = data.draw(rules_and_tensors(f"t{place}"))
        entries += more
        source |= tensors
        expected |= shapes
    there_and_back(rules(*entries), source, expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_lost_tensor_is_always_noticed(data):
    entries, source, expected = data.draw(rules_and_tensors("t"))
    # a tied name and a counter may be left out: they carry nothing of their own
    lost = data.draw(st.sampled_from(sorted(name for name in source if not name.endswith((".head", ".steps")))))
    rest = {name: tensor for name, tensor in source.items() if name != lost}
    with pytest.raises(WeightsError):
        rules(*entries).to_zoo(rest, {name: (shape, torch.float32) for name, shape in expected.items()}, "net")


def test_a_rule_holds_in_models_that_have_all_that_when_names_and_nothing_that_unless_names():
    guarded = rules(
        {"from": "a.{p}", "split": {"dim": 0, "to": ["x.{p}", "y.{p}"]}, "when": ["x.w", "y.w"], "unless": "z.w"},
        {"from": "a.{p}", "to": "x.{p}", "unless": ["y.w", "z.w"]},
        {"from": "a.{p}", "to": "z.{p}", "when": "z.w"},
    )
    for names in (["x.w", "y.w"], ["x.w"], ["z.w"]):
        tensors = {name: torch.full((2,), float(place)) for place, name in enumerate(names)}
        theirs = guarded.to_source(tensors)
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        again = guarded.to_zoo(theirs, expected, "net")
        assert list(theirs) == ["a.w"]
        assert all(again[name].equal(tensor) for name, tensor in tensors.items())


def test_what_when_names_is_a_name_or_several():
    with pytest.raises(SpecError, match="`when` must be a name or a list of names; found 3"):
        KeyRules.from_data([{"from": "a", "to": "b", "when": 3}], "net")
