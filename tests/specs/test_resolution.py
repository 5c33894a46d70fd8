"""From source to filled tree: parts, indexed values, variants, overrides, selectors, digests."""

from __future__ import annotations

import json
import pathlib
import tomllib

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import catalog, naming
from zoo.errors import ProblemsError, SpecError
from zoo.specs.json_schema import export
from zoo.specs.read import read_bytes, read_file
from zoo.specs.resolve import resolve

EXAMPLES = sorted((pathlib.Path(__file__).parent / "examples").glob("*.toml"))
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


def net(variant: str = "a", **changes: object):
    return resolve(read_bytes(NET.encode(), "net.toml"), variant, **changes)


def kernels(spec) -> list[list[int]]:
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


def test_a_layer_may_repeat_and_state_its_width() -> None:
    rows = [{"block": "conv", "kernel_size": 1, "out_dim": 12}, {"block": "conv", "kernel_size": 3, "repeat": 2}]
    spec = net(overrides={"stages.1.layers": rows})
    assert [layer[0]["block"] for layer in spec.stages[1].layers] == ["core/conv@1"] * 3


def test_the_width_law_scales_and_rounds_every_width() -> None:
    assert net(overrides={"width": {"scale": 1.4, "round_to": 8}}).dims == [16, 24]


def test_every_value_knows_where_it_came_from() -> None:
    from zoo.commands.specs import _find

    spec = net("b", settings={"dims": [8, 24]})
    assert _find(spec, ("dims", 1)) == (24, ("--set", "dims.1"))
    assert _find(spec, ("stages", 1, "layers", 0, 0, "parts", 0, "kernel_size")) == (
        7,
        ("net.toml", "spec.define.large.kernel_size"),
    )
    assert _find(spec, ("stages", 1, "layers", 0, 0, "parts", 1, "bias"))[1] == ("default", "`mlp`.bias")


@pytest.mark.parametrize("name", catalog.list_models())
def test_a_spec_written_and_read_again_is_the_same(name: str) -> None:
    spec = naming.spec(name)
    again = resolve(read_bytes(spec.to_json().encode(), "again.json"))
    assert again.digest == spec.digest
    assert again.plain() == spec.plain()


@pytest.mark.parametrize("name", catalog.list_models())
def test_the_digest_of_a_published_model_does_not_change(name: str) -> None:
    assert naming.spec(name).digest == catalog.entry(name).digest


def test_spelling_out_a_default_or_another_order_changes_no_digest() -> None:
    spelled = NET.replace('block = "mlp", ratio', 'act = "gelu", bias = true, block = "mlp", ratio')
    assert resolve(read_bytes(spelled.encode(), "net.toml"), "a").digest == net().digest


def test_text_init_drop_rates_and_the_size_are_no_part_of_the_digest() -> None:
    changes = {"input.size": 64, "init": {"std": 0.01}, "drop_path_rate": 0.2}
    assert net(overrides=changes).digest == net().digest


# examples whose blocks, or parameters of blocks, do not exist yet: those are all that is wrong
MISSING = {
    "deepseek_v3": {
        "token_embedding",
        "lm_head",
        "latent_attention",
        "bias",
        "groups",
        "group_k",
        "scale",
    },  # of the router
    "efficientvim": {"hsm_ssd", "patch_merging", "state_fusion_head"},
    "efficientvit_m": {"patch_merging", "cascaded_group_attention"},
    "hybrid_lm": {"token_embedding", "lm_head", "mamba2", "rope"},
    "mambavision": {"mambavision_mixer"},
    "mobilenetv4": {"conv_head", "universal_inverted_residual"},
    "transnext": {"aggregated_attention", "cosine_attention", "conv_glu"},
    "unireplknet": set(),
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_of_an_example_only_blocks_to_come_are_missing(path: pathlib.Path) -> None:
    family = read_file(path)
    missing: set[str] = set()
    for variant in family.variants:
        try:
            resolve(family, variant)
        except SpecError as error:
            kinds = ("a registered block", "a parameter of block `topk_router`", "a parameter of block `attention`")
            unknown = [problem for problem in error.problems if problem.expected in kinds]
            assert all(problem.where.startswith(f"{path.name}: spec.") for problem in unknown)
            missing |= {problem.found.strip("`") for problem in unknown}
            others = [problem for problem in error.problems if problem not in unknown]
            assert not others, others
    assert missing == MISSING[path.stem]


SCHEMA = jsonschema.Draft202012Validator(export())


@pytest.mark.parametrize("path", sorted(catalog.MODELS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_json_schema_accepts_every_family(path: pathlib.Path) -> None:
    assert list(SCHEMA.iter_errors(tomllib.loads(path.read_text()))) == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, len(NET) - 1), st.sampled_from(list("0a_\"'[]{}=.,@# \n-é")))
def test_any_changed_character_gives_a_spec_or_a_typed_error(place: int, character: str) -> None:
    text = NET[:place] + character + NET[place + 1 :]
    try:
        spec = resolve(read_bytes(text.encode(), "net.toml"), "a")
    except ProblemsError:
        return
    assert SCHEMA.is_valid(json.loads(spec.to_json()))
    assert SCHEMA.is_valid(tomllib.loads(text))  # what we accept, the schema accepts
