"""What may be a name, and what foreign text looks like when it is shown."""

from __future__ import annotations

import pytest

from blocks.registry.errors import SHOWN, BlockError, Problem, nearest
from blocks.registry.words import DISTRIBUTION, MODEL, TAG, is_name, is_text, printable, printable_lines, raised

HOSTILE = [
    "",
    "A",
    "a b",
    "a-b",
    "a/b",
    "../a",
    "a\n",
    "$(touch x)",
    "`x`",
    "a;b",
    "é",
    "ａ",
    "a\x1b[31m",
    "class",
    "lambda",
    "a" * 101,
    "_a",
    '"""',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_has_few_letters_and_is_no_word_of_python(text: str) -> None:
    assert not is_name(text) and not is_name(text, MODEL)


@pytest.mark.parametrize(
    ("text", "form"), [("net_a", MODEL), ("2net", MODEL), ("in12k-x.V1", TAG), ("acme.Blocks-1", DISTRIBUTION)]
)
def test_names_of_every_form_are_taken(text: str, form: str) -> None:
    assert is_name(text, form)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ö and 漢", "plain, with ö and 漢"),
        ("a\x1b[31mRED\x1b]0;owned\x07", "a\\x1b[31mRED\\x1b]0;owned\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("abc\u202etxt.exe", "abc\\u202etxt.exe"),
        ("\x9b31m\ud800\u200b\u2028", "\\x9b31m\\ud800\\u200b\\u2028"),
        ("x" * 3000, "x" * 2000 + "..."),
    ],
)
def test_foreign_text_is_one_line_that_can_be_seen(text: str, shown: str) -> None:
    assert printable(text) == shown and printable(text).isprintable()
    assert is_text(text) == (text == shown)


def test_lines_stay_lines() -> None:
    assert printable_lines("a\tb\n\x1bc\n") == "a\tb\n\\x1bc\n"


def test_an_error_that_cannot_be_shown_is_still_named() -> None:
    class Evil(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert raised(Evil()) == "Evil: an error that cannot be shown"
    assert raised(ValueError("a\x1bb\nc")) == "ValueError: a\\x1bb c"


def test_errors_show_no_control_characters_and_so_many_problems() -> None:
    error = BlockError("net\x1b[2J", [Problem(f"p{i}", "a\nb", "c\u202e") for i in range(90)])
    lines = str(error).splitlines()
    assert lines[:3] == ["net\\x1b[2J: 90 errors", "  p0", "    expected a\\nb; found c\\u202e"]
    assert lines[-1] == f"  and {90 - SHOWN} more" and len(lines) == 2 * SHOWN + 2
    assert len(error.problems) == 90


def test_a_word_longer_than_any_name_is_near_to_none() -> None:
    assert nearest("kernal_size", ["kernel_size"]) == "kernel_size"
    assert nearest("a" * 101, ["a" * 100]) == ""
