"""Strict JSON: what Python's reader lets through and we do not."""

from __future__ import annotations

import pytest

from zoo.system.nesting import MAX_NESTING, TooDeep
from zoo.system.strict_json import parse_json


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "key `a` twice in one table"),
        ('{"b": 1, "a": 2, "a": 3, "b": 4}', "key `a` or `b` twice in one table"),
        ('[{"c": {"a": 1, "a": 1}}]', "key `a` twice in one table"),
        ("[NaN]", "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("1" * 21, "a number of too many digits"),
        ("[" * 49 + "]" * 49, "expected at most 48 levels of nesting; found 49"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ("[1,]", "Expecting value: line 1 column 4 (char 3)"),
    ],
)
def test_text_beyond_strict_json_is_refused(text: str | bytes, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert str(caught.value) == error


def test_brackets_in_strings_do_not_nest() -> None:
    assert parse_json('{"[[[": "' + "[" * 100 + '"}') == {"[[[": "[" * 100}


def test_the_deepest_nesting_is_allowed() -> None:
    value = parse_json("[" * MAX_NESTING + "]" * MAX_NESTING)
    for _ in range(MAX_NESTING - 1):
        (value,) = value
    assert value == []
    with pytest.raises(TooDeep):
        parse_json('{"a":' * (MAX_NESTING + 1))


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_duplicates_of_all_tables_reach_a_reader_that_collects_them() -> None:
    duplicates: list[str] = []
    assert parse_json('{"x": {"a": 1, "a": 2}, "y": 1, "y": 3}', duplicates.extend) == {"x": {"a": 2}, "y": 3}
    assert duplicates == ["a", "y"]
