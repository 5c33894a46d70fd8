"""Type checkers read what users write as they mean it."""

from __future__ import annotations

import pathlib
import re
from typing import get_args

import pytest

import zoo
from zoo._typed import LanguageName

SNIPPET = pathlib.Path(__file__).with_name("typed.py")
ROOT = pathlib.Path(__file__).parents[2]


def test_the_names_of_language_models_are_those_of_the_catalogue() -> None:
    core = [name for name in zoo.list_models(task="language-modeling") if "/" not in name]
    assert sorted(get_args(LanguageName)) == sorted(core)


@pytest.mark.slow
def test_mypy_reads_what_users_write() -> None:
    from mypy import api

    said, problems, _ = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports", "silent", str(SNIPPET)]
    )
    assert not problems
    lines = SNIPPET.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert {int(number) for number in re.findall(r"typed\.py:(\d+): error", said)} == expected, said
