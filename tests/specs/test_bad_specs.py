"""What is wrong with a spec is said in a sentence that names the place, all of it at once."""

from __future__ import annotations

import pytest

from zoo.errors import ProblemsError, SpecError, UnknownModelError
from zoo.specs.read import MAX_BYTES, read_bytes
from zoo.specs.resolve import resolve

GOOD = """
schema = "zoo.spec/1"
[family]
name = "net"
[spec]
input = { kind = "image", size = 32 }
stem = { block = "conv_stack", convs = [{ kernel_size = 4, stride = 4 }] }
dims = [8, 16]
depths = [2, 2]
downsample = { block = "conv_stack", convs = [{ kernel_size = 2, stride = 2 }] }
layer = [{ residual = ["layer_norm", "@mixer"] }, { residual = ["layer_norm", { block = "mlp", ratio = 2 }] }]
head = { block = "linear_head" }
[spec.define]
mixer = { block = "depthwise_conv", kernel_size = 3 }
[variants.net_a]
"""

# what is replaced, by what, and the lines of the message below its headline
CASES = {
    "unknown_key": ("depths =", "depth =", ["net.toml: spec.depth\n    expected one of `input`", "found `depth`; nearest `depths`"]),
    "unknown_parameter": ("kernel_size = 3", "kernal_size = 3", ["net.toml: spec.define.mixer.kernal_size\n    expected a parameter of block `depthwise_conv`; found `kernal_size`; nearest `kernel_size`"]),
    "misspelt_block": ('"layer_norm", "@mixer"', '"layer_nrm", "@mixer"', ["net.toml: spec.layer.0.residual.0\n    expected a registered block; found `layer_nrm`; nearest `layer_norm`"]),
    "wrong_type": ("ratio = 2", 'ratio = "2"', ["net.toml: spec.layer.1.residual.1.ratio\n    expected float > 0; found \"2\", a string; next: remove the quotes"]),
    "out_of_range": ("ratio = 2", "ratio = -2", ["expected float > 0; found -2.0, a float"]),
    "not_a_number": ("ratio = 2", "ratio = nan", ["expected float > 0; found nan"]),
    "infinite": ("ratio = 2", "ratio = inf", ["expected float > 0; found inf"]),
    "a_date": ("ratio = 2", "ratio = 2020-01-01", ["spec.layer.1.residual.1.ratio\n    expected a string, number, boolean, list or table; found a value of type `date`"]),
    "too_few_depths": ("depths = [2, 2]", "depths = [2]", ["net.toml: spec.depths\n    expected a list of 2, as `dims` is; found a list of 1"]),
    "empty_dims": ("dims = [8, 16]", "dims = []", ["net.toml: spec.dims\n    expected a list of 1 to 64 (each int from 1 to 1,000,000); found a list of 0"]),
    "quoted_dim": ("dims = [8, 16]", 'dims = [8, "16"]', ['net.toml: spec.dims.1\n    expected int from 1 to 1,000,000; found "16", a string; next: remove the quotes']),
    "negative_dim": ("dims = [8, 16]", "dims = [8, -16]", ["net.toml: spec.dims.1\n    expected int from 1 to 1,000,000; found -16"]),
    "unused_part": ('"@mixer"', '"identity"', ["net.toml: spec.define.mixer\n    expected every part of [spec.define] in use: `@mixer`; found no use of it"]),
    "unknown_part": ('"@mixer"', '"@mixr"', ["net.toml: spec.layer.0.residual.1\n    expected a part named in [spec.define]; found `@mixr`; nearest `@mixer`"]),
    "circular_part": ('mixer = { block = "depthwise_conv", kernel_size = 3 }', 'mixer = ["@other"]\nother = ["@mixer"]', ["circular `@`: @mixer -> @other -> @mixer"]),
    "use_of_a_list_with_changes": ('"@mixer"] }', '{ use = "@mixer", kernel_size = 5 }] }', []),
    "per_stage_of_wrong_length": ("ratio = 2", "ratio = { per_stage = [2] }", ["spec.layer.1.residual.1.ratio.per_stage\n    expected a list of 2, one value for each stage; found a list of 1"]),
    "indexed_in_head": ('block = "linear_head"', 'block = "linear_head", drop = { per_stage = [0.1, 0.2] }', ["net.toml: spec.head.drop\n    expected one value: stem and head belong to no stage; found `per_stage`"]),
    "runs_that_do_not_cover": ("ratio = 2", "ratio = { runs = [[2, 1]] }", ["expected runs that cover the 2 layers of stage 0; found 1"]),
    "cycle_in_downsample": ("downsample = {", "post = { cycle = [\"batch_norm\"] }\ndownsample = {", ["expected `per_stage`: downsample, view and post belong to no layer; found `cycle`"]),
    "two_indexed_keys": ("ratio = 2", "ratio = { cycle = [2], runs = [[2, 2]] }", ["expected an indexed value with one key of `per_stage`, `cycle` or `runs`; found the keys `cycle`, `runs`"]),
    "causal_mixer": ('"@mixer"', '"mamba"', ["expected a mixer that sees the whole image; found `mamba` is causal; next: write { within = [\"mamba\"], view = { block = \"scan_2d\" } }"]),
    "wrong_kind_in_slot": ("ratio = 2", 'act = "layer_norm"', ["spec.layer.1.residual.1.act\n    expected a block of kind act; found `layer_norm`, of kind norm"]),
    "head_that_is_no_head": ('block = "linear_head"', 'block = "mlp"', ["net.toml: spec.head\n    expected a block of kind head; found `mlp`, of kind channel_mixer"]),
    "width_of_a_mixer": ("ratio = 2", "out_dim = 4", ["spec.layer.1.residual.1.out_dim\n    expected no `out_dim`: block `mlp` keeps its width; found 4"]),
    "supplied_parameter": ("ratio = 2", "dim = 4", ["expected a parameter of block `mlp`; found `dim`, which the builder supplies"]),
    "missing_parameter": ("convs = [{ kernel_size = 4, stride = 4 }]", "bias = false", ["net.toml: spec.stem.convs\n    expected parameter `convs` of block `conv_stack`, which has no default; found nothing"]),
    "missing_struct_key": ("{ kernel_size = 4, stride = 4 }", "{ stride = 4 }", ["net.toml: spec.stem.convs.0.kernel_size"]),
    "unknown_struct_key": ("kernel_size = 4, stride = 4", "kernel_size = 4, strides = 4", ["net.toml: spec.stem.convs.0.strides", "nearest `stride`"]),
    "no_block": ('{ block = "mlp", ratio = 2 }', "{ ratio = 2 }", ["expected a table with `block`, or with the name of one wiring; found a table with `ratio`"]),
    "misspelt_wiring": ("{ residual = [\"layer_norm\", \"@mixer\"] }", "{ residul = [\"layer_norm\", \"@mixer\"] }", ["nearest `residual`"]),
    "parts_no_list": ('["layer_norm", "@mixer"]', '"@mixer"', ["net.toml: spec.define.mixer\n    expected a list of at least 1"]),
    "stage_beyond": ("[spec.define]", "[spec.stages.7]\npost = \"batch_norm\"\n[spec.define]", ["net.toml: spec.stages.7\n    expected a stage from 0 to 1: `dims` has 2; found `7`"]),
    "stage_key": ("[spec.define]", "[spec.stages.1]\npots = \"batch_norm\"\n[spec.define]", ["net.toml: spec.stages.1.pots", "nearest `post`"]),
    "width_law": ("dims =", "width = { factor = 2 }\ndims =", ["net.toml: spec.width\n    expected a table { scale, round_to }; found the keys `factor`"]),
    "width_scale": ("dims =", "width = { scale = 0 }\ndims =", ["net.toml: spec.width.scale\n    expected float > 0 and <= 1,000; found 0"]),
    "depth_bomb": ("depths = [2, 2]", "depths = [2, 900000]", ["net.toml: spec.depths\n    expected at most 4,096 layers; found 900,002"]),
    "part_bomb": ("[spec.define]", "[spec.define]\n" + "\n".join(f'b{i} = ["@b{i + 1}", "@b{i + 1}", "@b{i + 1}", "@b{i + 1}"]' for i in range(12)) + '\nb12 = "identity"', []),
    "unknown_input": ('kind = "image"', 'kind = "imagee"', ["net.toml: spec.input.kind\n    expected one of \"image\", \"tokens\"; found \"imagee\""]),
    "no_stem": ("stem =", "stemm =", ["net.toml: spec.stem\n    expected `stem`; found nothing; next: every spec has one"]),
    "schema_of_the_future": ("zoo.spec/1", "zoo.spec/9", ["schema\n    expected \"zoo.spec/1\"; found \"zoo.spec/9\"; next: this spec needs a newer blockzoo"]),
    "task": ('name = "net"', 'name = "net"\ntask = "image-clasification"', ["family.task", "nearest `image-classification`"]),
    "duplicate_key": ("dims = [8, 16]", "dims = [8, 16]\ndims = [8, 16]", ["expected TOML; found an error: cannot overwrite a value"]),
    "syntax": ("dims = [8, 16]", "dims = [8, 16", ["expected TOML; found"]),
    "nesting": ("ratio = 2", "ratio = " + "[" * 60 + "]" * 60, ["expected at most 48 levels of nesting; found"]),
    "same_name_twice": ('["layer_norm", "@mixer"]', '[{ block = "layer_norm", name = "a" }, { use = "@mixer", name = "a" }]', ["expected parts with different names; found `a` twice"]),
}  # fmt: skip


def message(text: str | bytes, variant: str = "net_a", **changes: object) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ProblemsError) as caught:
        resolve(read_bytes(data, "net.toml"), variant, **changes)
    return str(caught.value)


def test_the_spec_that_the_cases_change_is_good() -> None:
    spec = resolve(read_bytes(GOOD.encode(), "net.toml"), "net_a")
    assert len(spec.stages) == 2
    assert spec.dims == [8, 16]


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name][2]])
def test_the_message_names_place_expectation_and_finding(case: str) -> None:
    old, new, parts = CASES[case]
    assert old in GOOD
    text = message(GOOD.replace(old, new, 1))
    for part in parts:
        assert part in text


def test_all_problems_are_told_at_once() -> None:
    text = message(
        GOOD.replace("kernel_size = 3", "kernal_size = 3")
        .replace("ratio = 2", 'ratio = "2"')
        .replace("dims = [8", "dms = [8")
    )
    assert text.startswith("net_a: ")
    assert "spec.dms" in text
    assert "kernal_size" in text


def test_a_part_wrong_in_thirty_layers_is_told_once() -> None:
    text = message(GOOD.replace("depths = [2, 2]", "depths = [15, 15]").replace("kernel_size = 3", "kernal_size = 3"))
    assert text.count("kernal_size") == 2  # the place and the finding


def test_an_expansion_bomb_is_bounded() -> None:
    old, new, _ = CASES["part_bomb"]
    text = message(GOOD.replace(old, new).replace('"@mixer"', '["@b0", "@mixer"]'))
    assert "parts that expand to at most 400,000 values" in text


def test_a_list_cannot_be_used_with_changes() -> None:
    text = message(
        GOOD.replace('"@mixer"]', '{ use = "@mixer", kernel_size = 5 }]')
        .replace("mixer = {", 'mixer = ["relu", {')
        .replace("kernel_size = 3 }", "kernel_size = 3 }]")
    )
    assert (
        "expected a part that is one block, to be used with changes: `@mixer`; found a list or an indexed value" in text
    )


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="nearest `net_a`"):
        resolve(read_bytes(GOOD.encode(), "net.toml"), "net_b")


def test_a_file_of_100_megabytes_is_refused_by_its_size() -> None:
    assert f"expected a spec of at most {MAX_BYTES:,} bytes; found a larger file" in message(b" " * 100_000_000)


def test_bytes_that_are_no_text_are_refused() -> None:
    assert "expected UTF-8 text; found byte 0xff at offset 0" in message(b"\xff\xfe")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"schema": 1, "schema": 2}', "key `schema` twice in one table"),
        ('{"a": NaN}', "NaN is no number of a spec"),
        ("{", "expecting"),
    ],
)
def test_json_is_as_strict_as_toml(text: str, found: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_bytes(text.encode(), "net.json")
    assert f"found an error: {found}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (
            "stages.*.<tokn_mixer>",
            "pooling",
            "override: stages.*.<tokn_mixer>\n    expected a path that selects something",
        ),
        ("**.<mlpp>.ratio", 2, "nearest `<mlp>`"),
        ("dims.5", 3, "override: dims.5\n    expected a position from 0 to 1; found `5`"),
        ("defin.mixer", "pooling", "override: defin.mixer\n    expected one of"),
        ("dims.0.x", 3, "expected a table or a list to change"),
        (
            "dims.1",
            "160",
            'override: dims.1\n    expected int from 1 to 1,000,000; found "160", a string; next: remove the quotes',
        ),
    ],
)
def test_an_override_that_matches_nothing_is_an_error(path: str, value: object, part: str) -> None:
    assert part in message(GOOD, overrides={path: value})
