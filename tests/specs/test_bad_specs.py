"""What is wrong with a spec is said in a sentence that names the place, all of it at once."""

from __future__ import annotations

import pathlib
import re
import time
import tomllib

import pytest

from blocks import block
from zoo.errors import ProblemsError, SpecError, UnknownModelError
from zoo.specs.read import MAX_BYTES, family_of, read_bytes, read_file
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

CASES = tomllib.loads(pathlib.Path(__file__).with_name("bad_specs.toml").read_text())
NESTED = "net.toml: 1 error\n    expected at most 48 levels of nesting; found "
STEPS = "expected keys of at most 48 steps; found a longer one"


def message(text: str | bytes, variant: str = "net_a", **changes: object) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ProblemsError) as caught:
        resolve(read_bytes(data, "net.toml"), variant, **changes)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_the_spec_that_the_cases_change_is_good() -> None:
    spec = resolve(read_bytes(GOOD.encode(), "net.toml"), "net_a")
    assert len(spec.stages) == 2
    assert spec.dims == [8, 16]


@pytest.mark.parametrize("case", CASES)
def test_the_message_names_place_expectation_and_finding(case: str) -> None:
    assert message(changed(CASES[case]["change"], CASES[case]["to"])) == CASES[case]["message"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ratio = 2", "ratio = " + "[" * 60 + "]" * 60, NESTED + "64"),
        ("ratio = 2", "ratio" + ".a" * 46 + " = 2", NESTED + "more"),
        ("dims =", "a" + ".a" * 60 + " = 1\ndims =", f"net.toml: 1 error\n    {STEPS}"),
        ("dims =", "a" + ".a" * 400_000 + " = 1\ndims =", f"net.toml: 1 error\n    {STEPS}"),
        ("[family]", "[a" + ".a" * 400_000 + "]\n[family]", f"net.toml: 1 error\n    {STEPS}"),
        ("[spec.define]", "[variants.net_b]\n'a" + ".a" * 60 + "' = 1\n[spec.define]", f"net.toml: 1 error\n  variants.net_b\n    {STEPS}"),
        ("ratio = 2", "ratio = " + "9" * 5000, "net.toml: 1 error\n    expected TOML; found an error: a number of too many digits"),
        ("ratio = 2", "ratio = 0x" + "f" * 5000, "net.toml: 1 error\n  spec.layer.1.residual.1.ratio\n    expected an int of 64 bits; found a larger one"),
        ("dims = [8, 16]", f"dims = {[8] * 65}", "net_a: 1 error\n  net.toml: spec.dims\n    expected a list of 1 to 64 (each int from 1 to 1,000,000); found a list of 65"),
        ("ratio = 2", "ratio = [" + "1," * 250_000 + "]", "net.toml: 1 error\n    expected at most 200,000 values; found more"),
        ("ratio = 2", "ratio = { a" + ".a" * 400_000 + " = 1 }", f"net.toml: 1 error\n    {STEPS}"),
        ("ratio = 2", "ratio" + '."a"' * 48 + " = 1", f"net.toml: 1 error\n    {STEPS}"),
    ],
    ids=["nesting", "table_nesting", "key", "long_key", "long_header", "quoted_key", "digits", "hex", "dims", "values", "inline_key", "quoted_steps"],
)  # fmt: skip
def test_hostile_specs_are_refused(old: str, new: str, expected: str) -> None:
    assert message(changed(old, new)) == expected


@pytest.mark.parametrize(
    "text", ['a="' + '\\"' * 200_000, 'a="""' + '""\\"' * 100_000, '"""a""' * 100_000, "a='" * 150_000]
)
def test_strings_without_an_end_are_read_once(text: str) -> None:
    start = time.process_time()
    assert message(f'schema="zoo.spec/1"\n{text}\n').startswith(
        "net.toml: 1 error\n    expected TOML; found an error: "
    )
    assert time.process_time() - start < 5  # to look again from every quote took minutes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "Net"}, "name\n    expected a name of lower-case letters, digits and _ that begins with a letter; found `Net`"),
        ({"name": "x(a='_'':0#'):b='_'')#'\ndef y():\n    0#"}, "name\n    expected a name of lower-case letters, digits and _ that begins with a letter; found `x(a='_'':0#'):b='_'')#'\\ndef y():\\n    0#`"),
        ({"name": "lambda"}, "name\n    expected a name of lower-case letters, digits and _ that begins with a letter; found `lambda`; next: take another: Python keeps this word for itself"),
        ({"name": "a" * 101}, "name\n    expected a name of lower-case letters, digits and _ that begins with a letter; found `" + "a" * 101 + "`; next: at most 100 letters"),
        ({"title": "two\nlines"}, 'title\n    expected one line of at most 500 letters that can be seen; found "two\\nlines", a string'),
        ({"licence": "\x1b[31m"}, 'licence\n    expected one line of at most 500 letters that can be seen; found "\\x1b[31m", a string'),
        ({"code": "x\u202e"}, 'code\n    expected one line of at most 500 letters that can be seen; found "x\\u202e", a string'),
        ({"about": "x" * 501}, 'about\n    expected one line of at most 500 letters that can be seen; found "' + "x" * 57 + '...", a string'),
    ],
)  # fmt: skip
def test_a_family_has_a_name_and_texts_of_one_line(change: dict[str, str], expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        family_of({"schema": "zoo.spec/1", "family": {"name": "net"} | change, "spec": {}}, "code")
    assert str(caught.value) == f"code: 1 error\n  family.{expected}"


def test_layers_are_counted_before_they_are_built() -> None:
    rows = ", ".join(['{ block = "mlp", repeat = 4096 }'] * 2000)
    text = message(GOOD.replace("depths = [2, 2]\n", "").replace("layer = [", f"layers = [{rows}, "))
    assert text == "net_a: 1 error\n  net.toml: spec.layers\n    expected at most 4,096 layers; found 8,192,002"


def test_wide_layers_are_counted_while_they_are_written_out() -> None:
    parts = ", ".join(['"layer_norm"'] * 100)
    text = message(GOOD.replace("depths = [2, 2]", "depths = [2, 2000]").replace("layer = [", f"layer = [{parts}, "))
    assert text.endswith("expected layers that hold at most 20,000 values; found more")


@pytest.mark.parametrize("keys", ["[spec]", "[spec.define]", "[spec.stages.0]", "[family]", "[keys]", "[variants]"])
def test_thousands_of_problems_are_one_error_of_bounded_length(keys: str) -> None:
    wrong = "\n".join(f'Q{i} = "none"' for i in range(3000))
    text = message(f"{GOOD}{keys}\n{wrong}" if keys not in GOOD else GOOD.replace(keys, f"{keys}\n{wrong}"), "")
    assert re.search(r"\n  and \d+ more$", text) and len(text) < 100_000


@pytest.mark.parametrize("name", ["class", "ﬁ", "a b", "x', evil(), '", "\x1b"])
def test_parts_and_slots_have_names_too(name: str) -> None:
    text = message(GOOD, overrides={"layer.1.residual.1.name": name})
    assert (
        "expected a name of letters, digits and _ that does not begin with a digit" in text
        and text.replace("\n", "").isprintable()
    )


def test_a_json_table_with_one_key_twice_among_many_is_refused() -> None:
    text = "{" + ",".join(f'"{i}":1' for i in range(80_000)) + ',"7":1}'
    with pytest.raises(SpecError) as caught:
        read_bytes(text.encode(), "net.json")
    assert str(caught.value) == "net.json: 1 error\n    expected JSON; found an error: key `7` twice in one table"


def test_all_problems_are_told_at_once() -> None:
    text = message(
        GOOD.replace("kernel_size = 3", "kernal_size = 3")
        .replace("ratio = 2", 'ratio = "2"')
        .replace("dims = [8", "dms = [8")
    )
    assert text.startswith("net_a: 4 errors\n  net.toml: spec.dms\n")
    assert "  net.toml: spec.dims\n    expected `dims`; found nothing; next: every spec has one\n" in text
    assert "  net.toml: spec.define.mixer.kernal_size\n" in text
    assert text.endswith(
        '  net.toml: spec.layer.1.residual.1.ratio\n    expected float > 0; found "2", a string; next: remove the quotes'
    )


def test_a_part_wrong_in_thirty_layers_is_told_once() -> None:
    text = message(GOOD.replace("depths = [2, 2]", "depths = [15, 15]").replace("kernel_size = 3", "kernal_size = 3"))
    assert text.startswith("net_a: 1 error\n")


def test_an_expansion_bomb_is_bounded() -> None:
    parts = "\n".join(f'b{i} = ["@b{i + 1}", "@b{i + 1}", "@b{i + 1}", "@b{i + 1}"]' for i in range(12))
    text = message(
        changed("[spec.define]", f'[spec.define]\n{parts}\nb12 = "identity"').replace('"@mixer"', '["@b0", "@mixer"]')
    )
    assert (
        text
        == "net_a: 1 error\n  net.toml: spec.define.b11.0\n    expected parts that expand to at most 400,000 values; found more"
    )


def test_a_selector_of_many_wildcards_comes_to_an_end() -> None:
    text = message(GOOD, overrides={".".join(["**"] * 40) + ".<attention>": "pooling"})
    assert text.endswith("which matches nothing")


def test_a_slot_that_nobody_writes_cannot_be_read() -> None:
    @block("slot_reader", kind="token_mixer")
    class Reader:
        def __init__(self, dim: int, *, reads: str | None = None):
            self.dim, self.reads = dim, reads

    assert message(
        changed('{ block = "depthwise_conv", kernel_size = 3 }', '{ block = "slot_reader", reads = "kv" }')
    ) == (
        "net_a: 1 error\n  net.toml: spec.define.mixer.reads\n"
        '    expected a slot that a block writes: `kv`; found nothing is written; next: give a mixer writes = "kv"'
    )


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(read_bytes(GOOD.encode(), "net.toml"), "net_b")
    assert (
        str(caught.value)
        == "net.toml: 1 error\n  variants\n    expected one of `net_a`; found `net_b`; nearest `net_a`"
    )


def test_a_family_without_variants_says_so() -> None:
    text = message(GOOD.replace("[variants.net_a]", ""))
    assert text == "net.toml: 1 error\n  variants\n    expected no variant: this family has none; found `net_a`"


def test_a_file_of_100_megabytes_is_refused_by_its_size(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "big.toml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(SpecError) as caught:
        read_file(path)
    assert (
        str(caught.value)
        == f"big.toml: 1 error\n    expected a spec of at most {MAX_BYTES:,} bytes; found a larger file"
    )


def test_a_file_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_file(tmp_path / "none.toml")
    assert (
        str(caught.value)
        == f"none.toml: 1 error\n    expected a readable spec file; found No such file or directory: {tmp_path / 'none.toml'}"
    )


def test_bytes_that_are_no_text_are_refused() -> None:
    assert message(GOOD.encode("utf-16")) == "net.toml: 1 error\n    expected UTF-8 text; found byte 0xff at offset 0"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    spec = resolve(read_bytes(GOOD.encode("utf-8-sig"), "net.toml"))
    assert spec == resolve(read_bytes(GOOD.encode(), "net.toml"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"schema": 1, "schema": 2}', "    expected JSON; found an error: key `schema` twice in one table"),
        ('{"a": NaN}', "    expected JSON; found an error: NaN is no JSON"),
        ('{"a": -Infinity}', "    expected JSON; found an error: -Infinity is no JSON"),
        ('{"a": ' + "9" * 5000 + "}", "    expected JSON; found an error: a number of too many digits"),
        ("{", "    expected JSON; found an error: expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "    expected a table with `schema`, `family`, `spec` and `variants`; found list"),
        ('{"spec": null}', "  spec\n    expected a string, number, boolean, list or table; found null"),
        ('{"family": {"name": "\\ud800"}}', "  family.name\n    expected Unicode text; found half of a surrogate pair"),
        ("[" * 60, "    expected at most 48 levels of nesting; found 60"),
    ],
    ids=["twice", "nan", "infinity", "digits", "syntax", "list", "null", "surrogate", "nesting"],
)  # fmt: skip
def test_json_is_as_strict_as_toml(text: str, found: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_bytes(text.encode(), "net.json")
    assert str(caught.value) == f"net.json: 1 error\n{found}"


def test_a_table_made_in_code_is_bounded_too() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(SpecError) as caught:
        family_of({"spec": endless}, "code")
    assert str(caught.value) == "code: 1 error\n    expected at most 48 levels of nesting; found more"


SELECTS = "expected a path that selects something; found"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("stages.*.<tokn_mixer>", "pooling", f"override: stages.*.<tokn_mixer>\n    {SELECTS} `stages.*.<tokn_mixer>`, which matches nothing; nearest `<token_mixer>`"),
        ("**.<mlpp>.ratio", 2, f"override: **.<mlpp>.ratio\n    {SELECTS} `**.<mlpp>.ratio`, which matches nothing; nearest `<mlp>`"),
        ("stages.5-7.layers", [], f"override: stages.5-7.layers\n    {SELECTS} `stages.5-7.layers`, which matches nothing"),
        ("dims.5", 3, "override: dims.5\n    expected a position from 0 to 1; found `5`"),
        ("dims.01", 3, "override: dims.01\n    expected a position from 0 to 1; found `01`"),
        ("defin.mixer", "pooling", "override: defin.mixer\n    expected one of `input`, `stem`, `dims`, `depths`, `downsample`, `layer`, `head` or `define` below `spec`; found `defin`; nearest `define`"),
        ("dims.0.x", 3, "override: dims.0.x\n    expected a table or a list to change; found 8"),
        ("dims.1", "160", 'override: dims.1\n    expected int from 1 to 1,000,000; found "160", a string; next: remove the quotes'),
        ("dims.0-1", "8", 'override: dims.0-1\n    expected int from 1 to 1,000,000; found "8", a string; next: remove the quotes'),
        ("num_classes", None, "override: num_classes\n    expected a string, number, boolean, list or table; found null"),
        ("num_classes", 10**30, "override: num_classes\n    expected an int of 64 bits; found a larger one"),
        ("num_classes", {1}, "override: num_classes\n    expected a string, number, boolean, list or table; found a value of type `set`"),
        ("stages", 3, "override: stages\n    expected a table or list of stages; found 3"),
        ("stages.0.**.<mlp>.ratoi", 3, "override: stages.0.**.<mlp>.ratoi\n    expected a parameter of block `mlp`; found `ratoi`; nearest `ratio`"),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_made_is_an_error_at_its_path(path: str, value: object, expected: str) -> None:
    assert message(GOOD, overrides={path: value}) == f"net_a: 1 error\n  {expected}"


SPOILS = ["**", "*", "**.*", "stages.*", "stages.*.layers", "stages.*.extra", "input.*", "**.extra"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (path, value)
        for path in SPOILS
        for value in [1, "pooling", [], {"kernel_size": 5}]
        if (path, value) != ("stages.*.layers", [])  # stages without layers are a net
    ],
)
def test_a_selector_that_spoils_the_outer_form_is_refused(path: str, value: object) -> None:
    assert message(GOOD, overrides={path: value}).startswith("net_a: ")
