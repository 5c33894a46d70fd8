"""Key rules of others, held against names of others: the work is bounded, and what is read is what a regular expression reads."""

from __future__ import annotations

import random
import time

import pytest

from zoo.weights.key_patterns import LONGEST, Pattern, PatternError, compile_patterns


def compiled(text: str) -> Pattern:
    return compile_patterns([text], [text])[0][0]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("{a}a{b*}a", "a" * 20_000 + "!"), ("{a}a{b}a{c}a{d}a{e}a{f}a{g}a{h}a", "a" * 249 + "!"), ("{a*}.a.{b*}.b", "a." * 124 + "a"),
     ("{a*}a{b*}ab{c}a{d}", "a" * 249 + "!"), ("{x}0{i+1}0{y}1", "0" * 249)],
)  # fmt: skip
def test_a_name_that_splits_in_many_ways_is_read_in_bounded_time(pattern: str, name: str) -> None:
    start = time.process_time()
    assert compiled(pattern).match(name) is None
    assert time.process_time() - start < 2


def test_a_name_is_read_as_a_regular_expression_reads_it() -> None:
    rng, compared = random.Random(0), 0
    pieces = ["a", "aa", "a.a", "0", "w", "{a}", "{b}", "{c}", "{a*}", "{d*}", "{i+1}", "{w:a|aa}", ".", "_"]
    while compared < 2_000:
        try:
            pattern = compiled(rng.choice(["", "."]).join(rng.choice(pieces) for _ in range(rng.randint(1, 6))))
        except PatternError:
            continue
        name = rng.choice(["", "."]).join(
            rng.choice(["a", "aa", "0", "1", "w", "_", ".", "a.a"]) for _ in range(rng.randint(1, 9))
        )
        found = pattern._regex.fullmatch(name)
        pattern._splits = True
        read = pattern._texts(name)
        assert (list(found.groups()) if found else None) == read, (pattern.text, name)
        compared += 1


def test_a_pattern_has_so_many_letters() -> None:
    with pytest.raises(PatternError, match="has 1,001 letters; a pattern has at most 1,000"):
        compiled("a" * (LONGEST + 1))
    assert compiled("{a}").match("a" * (LONGEST + 1)) is None
