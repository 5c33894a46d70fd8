"""From source to filled tree: parts, indexed values, variants, overrides, selectors, digests."""

from __future__ import annotations

import copy
import json
import pathlib
import random
from typing import Annotated, Any

import pytest
from msgspec import Meta

from blocks import block
from tests.sampled import STAND_FOR_ALL
from zoo import catalog
from zoo.catalog import names, sources
from zoo.catalog.listing import list_models
from zoo.specs.model import Spec
from zoo.specs.read import read_bytes
from zoo.specs.resolve import resolve
from zoo.specs.width import scaled
from zoo.testing import published

DIGESTS = published.read(pathlib.Path(__file__).parents[1] / "published" / "digests.json")
NET = """
schema = "zoo.spec/1"
[spec]
input = { kind = "image", size = 32 }
stem = { block = "conv_stack", convs = [{ kernel_size = 4, stride = 4 }] }
dims = [8, 16]
depths = [1, 4]
downsample = { block = "conv_stack", convs = [{ kernel_size = 2, stride = 2 }] }
layer = { residual = ["@mixer", { block = "mlp", ratio = { per_stage = [1, 2] } }] }
head = { block = "linear_head" }
[spec.define]
mixer = { per_stage = ["@small", { cycle = ["@large", "@small"] }] }
small = { block = "depthwise_conv", kernel_size = 3 }
large = { use = "@small", kernel_size = 7 }
[variants.a]
[variants.b]
depths = [1, 2]
define.small.bias = false
[variants.c]
"define.small.bias" = false
depths.1 = 2
"""


def net(variant: str = "a", **changes: Any) -> Spec:
    return resolve(read_bytes(NET.encode(), "net.toml"), variant, **changes)


def kernels(spec: Spec) -> list[list[int]]:
    return [[layer[0]["parts"][0]["kernel_size"] for layer in stage.layers] for stage in spec.stages]


def test_indexed_values_are_resolved_where_they_are_used() -> None:
    spec = net()
    assert kernels(spec) == [[3], [7, 3, 7, 3]]
    assert [stage.layers[0][0]["parts"][1]["ratio"] for stage in spec.stages] == [1.0, 2.0]


def test_runs_count_layers_and_rest() -> None:
    spec = net(overrides={"define.mixer": {"runs": [["@small", {"per_stage": [0, 1]}], ["@large", "rest"]]}})
    assert kernels(spec) == [[7], [3, 7, 7, 7]]


def test_stage_0_has_no_default_downsample() -> None:
    assert [stage.downsample == "none" for stage in net().stages] == [True, False]


def test_quoted_and_unquoted_dotted_keys_mean_the_same() -> None:
    assert net("b").digest == net("c").digest != net("a").digest


def test_code_is_stronger_than_the_variant_and_the_shell_than_code() -> None:
    assert len(net("b", overrides={"depths": [1, 3]}).stages[1].layers) == 3
    assert len(net("b", overrides={"depths": [1, 3]}, settings={"depths": [1, 1]}).stages[1].layers) == 1


def test_a_selector_edits_every_block_of_a_name_or_kind() -> None:
    assert kernels(net(overrides={"**.<depthwise_conv>.kernel_size": 5})) == [[5], [5, 5, 5, 5]]
    swapped = net(overrides={"stages.1.**.<token_mixer>": "pooling"})
    assert [stage.layers[0][0]["parts"][0]["block"] for stage in swapped.stages] == [
        "core/depthwise_conv@1",
        "core/pooling@1",
    ]


@pytest.mark.parametrize(
    ("selector", "sizes"),
    [
        ("stages.*.**.<core/depthwise_conv@1>.kernel_size", [[5], [5, 5, 5, 5]]),
        ("stages.0-1.**.<token_mixer>.kernel_size", [[5], [5, 5, 5, 5]]),
        ("stages.1.layers.0-1.**.<token_mixer>.kernel_size", [[3], [5, 5, 7, 3]]),
        ("stages.1-9.layers.3.<depthwise_conv>.kernel_size", [[3], [7, 3, 7, 5]]),
        ("stages.*.layers.0.0.parts.*.kernel_size", None),
    ],
)
def test_a_selector_reaches_what_its_steps_say(selector: str, sizes: list[list[int]] | None) -> None:
    if sizes is None:  # `*` takes the mlp too, which has no kernel
        with pytest.raises(ValueError, match="expected a parameter of block `mlp`; found `kernel_size`"):
            net(overrides={selector: 5})
    else:
        assert kernels(net(overrides={selector: 5})) == sizes


def test_a_literal_path_edits_the_source_before_parts_are_inlined() -> None:
    assert kernels(net(overrides={"define.large.kernel_size": 9})) == [[3], [9, 3, 9, 3]]
    assert kernels(net(overrides={"define.small.kernel_size": 5, "depths.1": 2})) == [[5], [7, 5]]
    assert net(overrides={"stages.1.post": "batch_norm"}).stages[1].post["block"] == "core/batch_norm@1"


def test_a_string_a_list_and_a_block_replace_and_any_other_table_merges() -> None:
    replaced = net(overrides={"define.small": {"block": "depthwise_conv", "kernel_size": 5}})
    assert kernels(replaced) == [[5], [7, 5, 7, 5]]
    merged = net(overrides={"define.small": {"kernel_size": 5}, "input": {"size": 64}})
    assert kernels(merged) == kernels(replaced)
    assert (merged.input.size, merged.input.kind) == (64, "image")
    assert kernels(net(overrides={"define.mixer": "@large"})) == [[7], [7, 7, 7, 7]]


@pytest.mark.parametrize("word", ["cycle", "grow", "use", "block", "graph", "residual"])
def test_a_part_may_have_the_name_of_a_word_of_the_language(word: str) -> None:
    text = (
        NET.replace("@small", f"@{word}").replace("\nsmall =", f"\n{word} =").replace("define.small", f"define.{word}")
    )
    family = read_bytes(text.encode(), "net.toml")
    assert [resolve(family, variant).digest for variant in "abc"] == [net(variant).digest for variant in "abc"]
    changed = resolve(family, "a", overrides={"define": {word: {"kernel_size": 5}}})
    assert kernels(changed) == kernels(net(overrides={"define.small.kernel_size": 5}))


def test_stages_as_a_list_and_as_a_table_are_the_same() -> None:
    as_table = net(overrides={"stages": {"1": {"layer": "pooling"}}})
    as_list = net(overrides={"stages": [{}, {"layer": "pooling"}]})
    assert as_table.digest == as_list.digest
    assert [layer[0]["block"] for layer in as_list.stages[1].layers] == ["core/pooling@1"] * 4


def test_cycle_and_runs_count_a_row_that_repeats() -> None:
    rows = [
        {"block": "conv", "kernel_size": {"cycle": [1, 3]}, "repeat": 3},
        {"runs": [["pooling", 3], ["relu", "rest"]]},
    ]
    blocks = net(overrides={"stages.1.layers": rows}).stages[1].layers
    assert [layer[0].get("kernel_size") for layer in blocks] == [1, 3, 1, None]
    assert blocks[3][0]["block"] == "core/relu@1"


@pytest.mark.parametrize(
    ("times", "dims", "expected"),
    [({}, [18, 28], [[18], [21, 23, 26, 28]]), ({"times": 4}, [72, 112], [[72], [84, 92, 104, 112]])],
)
def test_a_number_grows_in_equal_steps_through_all_stages(times: dict, dims: list, expected: list) -> None:
    grown = {"block": "conv", "kernel_size": 1, "out_dim": {"grow": {"from": 16, "by": 12} | times}}
    spec = net(overrides={"layer": [{"residual": ["@mixer"]}, grown], "downsample": "none", "dims": dims})
    assert [[layer[1]["out_dim"] for layer in stage.layers] for stage in spec.stages] == expected


@pytest.mark.parametrize(
    "law",
    [{"from": 16}, {"from": 0, "by": 4}, {"from": 16, "by": 4, "times": 1.5}, {"from": 1, "by": 2, "step": 3}, 2**60],
)
def test_a_law_of_growth_is_of_positive_numbers(law) -> None:
    with pytest.raises(ValueError, match="expected numbers { from, by, times }"):
        net(overrides={"layer": {"block": "conv", "kernel_size": 1, "out_dim": {"grow": law}}})


def test_a_part_used_with_changes_leaves_the_part_as_it_was() -> None:
    first, last = net(overrides={"layer.residual": ["@large", "@mixer"]}).stages[0].layers[0][0]["parts"]
    assert (first["kernel_size"], last["kernel_size"]) == (7, 3)


def test_a_layer_may_repeat_and_state_its_width() -> None:
    rows = [{"block": "conv", "kernel_size": 1, "out_dim": 12}, {"block": "conv", "kernel_size": 3, "repeat": 2}]
    spec = net(overrides={"stages.1.layers": rows})
    assert [layer[0]["block"] for layer in spec.stages[1].layers] == ["core/conv@1"] * 3


def test_the_width_law_scales_and_rounds_every_width() -> None:
    spec = net(overrides={"width": {"scale": 1.4, "round_to": 8}, "stem.out_dim": 100})
    assert spec.dims == [16, 24]
    assert spec.stem["out_dim"] == 144


@pytest.mark.parametrize(
    ("width", "scale", "step", "expected"),
    [(8, 1.0, 8, 8), (32, 0.35, 8, 16), (10, 0.1, 8, 8), (100, 0.5, 1, 50), (20, 0.5, 8, 16)],
)
def test_a_width_is_rounded_but_never_below_nine_tenths(width: int, scale: float, step: int, expected: int) -> None:
    assert scaled(width, scale, step) == expected


def test_every_value_knows_where_it_came_from() -> None:
    from zoo.cli.commands.specs import _find

    spec = net("b", settings={"dims": [8, 24]})
    assert _find(spec, ("dims", 1)) == (24, ("--set", "dims.1"))
    assert _find(spec, ("stages", 1, "layers", 0, 0, "parts", 0, "kernel_size")) == (
        7,
        ("net.toml", "spec.define.large.kernel_size"),
    )
    assert _find(spec, ("stages", 1, "layers", 0, 0, "parts", 1, "bias"))[1] == ("default", "`mlp`.bias")


def test_the_digest_of_no_published_model_changes() -> None:
    """That of the index is that of the file: `tests/catalog/test_index.py` resolves them all."""
    assert {name: catalog.entry(name).digest for name in list_models()} == DIGESTS
    for name in STAND_FOR_ALL:
        assert sources.spec(name).digest == DIGESTS[name], name


def test_spelling_out_a_default_or_another_order_changes_no_digest() -> None:
    spelled = NET.replace('block = "mlp", ratio', 'act = "gelu", bias = true, block = "mlp", ratio')
    assert resolve(read_bytes(spelled.encode(), "net.toml"), "a").digest == net().digest


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    values = json.loads(net().to_json())
    assert (
        resolve(read_bytes(json.dumps(shuffled(values, random.Random(0))).encode(), "net.json")).digest == net().digest
    )


def shuffled(node: Any, rng: random.Random) -> Any:
    if isinstance(node, dict):
        return {key: shuffled(node[key], rng) for key in rng.sample(sorted(node), len(node))}
    return [shuffled(item, rng) for item in node] if isinstance(node, list) else copy.copy(node)


def test_a_neutral_parameter_added_later_changes_no_digest() -> None:
    def digest(**values: Any) -> str:
        return net(overrides={"define.small": {"block": "local/grown", **values}, "define.large": "@small"}).digest

    @block("local/grown", kind="token_mixer")
    class Young:
        def __init__(self, dim: int, *, kernel_size: int = 3):
            self.dim, self.kernel_size = dim, kernel_size

    young = digest()

    @block("local/grown", kind="token_mixer")
    class Grown:
        def __init__(
            self,
            dim: int,
            *,
            kernel_size: int = 3,
            gain: Annotated[float, Meta(extra_json_schema={"added": "1.2"})] = 1,
        ):
            self.dim, self.kernel_size, self.gain = dim, kernel_size, gain

    assert digest() == digest(gain=1.0) == digest(gain=1) == young
    assert digest(gain=2) != young


def test_text_init_drop_rates_and_the_size_are_no_part_of_the_digest() -> None:
    changes = {"input.size": 64, "init": {"std": 0.01}, "drop_path_rate": 0.2}
    assert net(overrides=changes).digest == net().digest


@pytest.mark.parametrize(
    "change", [{"num_classes": 10}, {"dims": [8, 24]}, {"define.small.bias": False}, {"stages.1.post": "relu"}]
)
def test_the_digest_changes_with_the_function(change: dict[str, Any]) -> None:
    assert net(overrides=change).digest != net().digest


def test_every_published_model_has_a_golden_digest() -> None:
    assert sorted(DIGESTS) == sorted(list_models())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("net.toml", ("net.toml", "")),
        ("net.toml:a", ("net.toml", "a")),
        ("a:b/net.toml", ("a:b/net.toml", "")),
        ("a:b/net.toml:a", ("a:b/net.toml", "a")),
        ("a:b.toml", ("a:b.toml", "")),
        ("./a:b/c", ("./a:b/c", "")),
    ],
)
def test_only_what_stands_behind_the_last_colon_and_is_no_path_is_a_variant(text: str, parts: tuple[str, str]) -> None:
    assert names.split_variant(text) == parts


def test_a_spec_file_may_lie_in_a_folder_with_a_colon(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "net.toml").write_text(NET)
    assert sources.spec(f"{folder}/net.toml:a").digest == net().digest
