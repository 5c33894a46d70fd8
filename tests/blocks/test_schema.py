"""From a signature to a schema, and from a value to the sentence about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
import torch
from msgspec import Meta

import blocks
from blocks.registry.schema import Issue, as_spec, complete, fits, fragment, shown, signature_params, words
from blocks.registry.slots import slot


class Conv(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kernel_size: Annotated[int, Meta(ge=1)]
    stride: Annotated[int, Meta(ge=1)] = 1
    norm: blocks.Norm | None = None


class Example:
    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        kernel_size: Literal[3, 5, 7],
        act: blocks.Act | None = slot("gelu", approximate="tanh"),
        convs: Annotated[list[Conv], Meta(min_length=1)] = [Conv(3)],  # noqa: B006
        scale: float | None = None,
        late: Annotated[bool, Meta(extra_json_schema={"added": "1.1"})] = False,
        bias: bool = True,
    ): ...


def call(value: Any, path: tuple, schema: dict, issues: list[Issue]) -> Any:
    """Stands for the filler of calls: a block's name becomes a table."""
    return {"block": value} if isinstance(value, str) and value != "none" else value


def filled(value: Any, annotation: Any) -> Any:
    issues: list[Issue] = []
    out = complete(value, fragment(annotation), ("key",), issues, call)
    assert issues == []
    return out


def issues_of(value: Any, annotation: Any) -> list[Issue]:
    issues: list[Issue] = []
    complete(value, fragment(annotation), ("key",), issues, call)
    return issues


def test_a_signature_gives_parameters_and_what_the_builder_supplies():
    params, supplied = signature_params(Example, "token_mixer")
    assert supplied == ("dim",)
    assert list(params) == ["ratio", "kernel_size", "act", "convs", "scale", "late", "bias"]
    assert params["ratio"].schema == {"type": "number", "exclusiveMinimum": 0}
    assert params["kernel_size"].schema == {"enum": [3, 5, 7]}
    assert {name for name, param in params.items() if param.required} == {"kernel_size"}
    assert params["late"].added == "1.1" and "added" not in params["late"].schema


def test_a_linear_block_is_given_its_bias():
    assert signature_params(Example, "linear")[1] == ("dim", "bias")


def test_defaults_are_kept_as_a_spec_would_write_them():
    params, _ = signature_params(Example, "token_mixer")
    assert params["act"].default == {"block": "gelu", "approximate": "tanh"}
    assert params["convs"].default == [{"kernel_size": 3, "stride": 1, "norm": "none"}]
    assert params["scale"].default == "none"


def test_a_slot_is_a_reference_with_its_kinds():
    assert fragment(blocks.Act | None) == {"anyOf": [{"$ref": "#/$defs/call", "kinds": ["act"]}, {"const": "none"}]}


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (
            type("Many", (), {"__init__": lambda self, dim, **rest: None}),
            "takes `*rest`; the parameters of a block are named and typed one by one",
        ),
        (
            type("Bare", (), {"__init__": lambda self, dim, width=3: None}),
            "parameter `width` has no type; every parameter of a block is typed",
        ),
    ],
)
def test_a_signature_that_is_no_schema_is_refused(cls, sentence):
    with pytest.raises(TypeError) as caught:
        signature_params(cls, "token_mixer")
    assert str(caught.value).endswith(sentence)


def test_a_type_that_no_spec_can_write_is_refused():
    with pytest.raises(TypeError) as caught:
        fragment(complex)
    assert (
        str(caught.value)
        == "`complex` cannot stand in a block's signature; use numbers, strings, lists, structs and Slot"
    )


@pytest.mark.parametrize(
    ("annotation", "phrase"),
    [
        (int, "int"),
        (Annotated[int, Meta(ge=3, le=63)], "int from 3 to 63"),
        (Annotated[int, Meta(ge=1)], "int >= 1"),
        (Annotated[int, Meta(ge=8, multiple_of=8)], "int >= 8, a multiple of 8"),
        (Annotated[float, Meta(gt=0, lt=1)], "float > 0 and < 1"),
        (Annotated[float, Meta(ge=0, lt=1)], "float >= 0 and < 1"),
        (bool, "true or false"),
        (str, "a string"),
        (Literal[5, 7, 9], "one of 5, 7, 9"),
        (Literal["sum", "concat"], 'one of "concat", "sum"'),
        (float | None, 'float or "none"'),
        (blocks.Slot, "a block"),
        (blocks.Mixer | None, 'a block of kind token_mixer or channel_mixer or "none"'),
        (list[int], "a list (each int)"),
        (Annotated[list[float], Meta(min_length=4, max_length=4)], "a list of 4 (each float)"),
        (Annotated[list[float], Meta(min_length=1)], "a list of at least 1 (each float)"),
        (Conv, "a table"),
    ],
)
def test_a_fragment_reads_as_a_phrase(annotation, phrase):
    assert words(fragment(annotation)) == phrase


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("160", '"160", a string'),
        ("x" * 80, '"' + "x" * 57 + '...", a string'),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5, a float"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a table"),
        (None, "null"),
        (10**50, "an int beyond 2**53"),
    ],
)
def test_a_value_is_shown_with_its_type_where_that_is_the_point(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("value", "annotation", "issue"),
    [
        ("160", int, Issue(("key",), "int", '"160", a string', next="remove the quotes")),
        ("-1.5", float, Issue(("key",), "float", '"-1.5", a string', next="remove the quotes")),
        ("true", bool, Issue(("key",), "true or false", '"true", a string', next="remove the quotes")),
        ("wide", int, Issue(("key",), "int", '"wide", a string')),
        (True, int, Issue(("key",), "int", "true")),
        (1, bool, Issue(("key",), "true or false", "1")),
        (4.0, int, Issue(("key",), "int", "4.0, a float")),
        (0, Annotated[int, Meta(ge=1)], Issue(("key",), "int >= 1", "0")),
        (1.0, Annotated[float, Meta(lt=1)], Issue(("key",), "float < 1", "1.0, a float")),
        (float("nan"), float, Issue(("key",), "float", "nan")),
        (float("inf"), float, Issue(("key",), "float", "inf")),
        (2**60, int, Issue(("key",), "int", "an int beyond 2**53")),
        (12, Literal[5, 7], Issue(("key",), "one of 5, 7", "12")),
        ("concta", Literal["sum", "concat"], Issue(("key",), 'one of "concat", "sum"', '"concta", a string', "concat")),
        ("4", float | None, Issue(("key",), 'float or "none"', '"4", a string')),
        (-1.0, Annotated[float, Meta(ge=0)] | None, Issue(("key",), "float >= 0", "-1.0, a float")),
        ("x", list[int], Issue(("key",), "a list (each int)", '"x", a string')),
        ([1], Annotated[list[int], Meta(min_length=2)], Issue(("key",), "a list of at least 2 (each int)", "a list of 1")),
        ([1, "2"], list[int], Issue(("key", 1), "int", '"2", a string', next="remove the quotes")),
        ({"kernal_size": 3, "kernel_size": 3}, Conv, Issue(("key", "kernal_size"), "one of `kernel_size`, `norm` or `stride`", "`kernal_size`", "kernel_size")),
        ({}, Conv, Issue(("key", "kernel_size"), "int >= 1", "nothing: this key is required")),
        ([], Conv, Issue(("key",), "a table", "a list of 0")),
    ],
)  # fmt: skip
def test_wrong_values_of_a_schema_are_told(value, annotation, issue):
    assert issues_of(value, annotation) == [issue]


def test_all_that_is_wrong_is_told_at_once():
    wrong = [{"kernel_size": 0, "stride": "2"}, {"dilation": 1}]
    assert [issue.path for issue in issues_of(wrong, list[Conv])] == [
        ("key", 0, "kernel_size"),
        ("key", 0, "stride"),
        ("key", 1, "dilation"),
        ("key", 1, "kernel_size"),
    ]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (4, float, 4.0),
        ("none", float | None, "none"),
        ("none", blocks.Act | None, "none"),
        ("gelu", blocks.Act | None, {"block": "gelu"}),
        ({"kernel_size": 3}, Conv, {"kernel_size": 3, "stride": 1, "norm": "none"}),
        ([{"kernel_size": 3, "norm": "grn"}], list[Conv], [{"kernel_size": 3, "norm": {"block": "grn"}, "stride": 1}]),
        ([2, 0.5], tuple[int, float], [2, 0.5]),
    ],
)
def test_a_good_value_is_filled(value, annotation, expected):
    out = filled(value, annotation)
    assert out == expected
    assert type(out) is type(expected)


def test_filling_twice_changes_nothing():
    once = filled({"kernel_size": 3}, Conv)
    assert filled(once, Conv) == once


def test_the_word_none_means_nothing_in_a_schema():
    assert as_spec([None, (1, None)]) == ["none", [1, "none"]]
    assert not fits("none", {"type": "string"})


@pytest.mark.parametrize("annotation", [int, float])
def test_a_number_beyond_all_floats_is_a_sentence(annotation):
    assert [issue.expected for issue in issues_of(10**400, annotation)] == [words(fragment(annotation))]


def test_block_without_constructor_has_no_parameters_even_after_torch_compile():
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))  # replaces nn.Module.__init__

    class Plain(torch.nn.Module):
        pass

    assert signature_params(Plain, "act") == ({}, ())
