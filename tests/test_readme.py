"""Every snippet of the README runs."""

from __future__ import annotations

import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[str(i) for i in range(len(SNIPPETS))])
def test_the_snippet_runs(
    snippet: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    path = tmp_path / "snippet.py"  # a file, because blocks are described from their source
    path.write_text(snippet)
    exec(compile(snippet, str(path), "exec"), {"__name__": "readme_snippet"})
    assert capsys.readouterr().out


def test_the_commands_of_the_readme_are_commands_of_the_zoo() -> None:
    from zoo.cli import parser

    named = set(
        re.findall(r"zoo (?:--with \S+ )?([a-z]+)(?= |,|$)", "\n".join(re.findall(r"^    (zoo .*)$", README, re.M)))
    )
    known = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]
    assert named - {"demo"} and named <= known
