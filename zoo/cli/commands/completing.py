"""`zoo completion SHELL`: commands, options and names of models at the press of a key."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from zoo.cli.options import command
from zoo.errors import InputError, Problem

# names are compared and printed, never expanded: `compgen -W` would run what stands in them
MODELS = {
    "bash": """_zoo_models() {
  local name
  while IFS= read -r name; do [[ "$name" == "$1"* ]] && printf '%s\\n' "$name"; done < <(zoo list --names 2>/dev/null)
}""",
    "zsh": '_zoo_models() { local -a names; names=(${(f)"$(zoo list --names 2>/dev/null)"}); compadd -a names; }',
    "tcsh": "",
}
COMPLETE = {"bash": "_zoo_models", "zsh": "_zoo_models", "tcsh": "`zoo list --names`"}


def add(commands: Any) -> None:
    parser = command(commands, "completion", completion)
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def completion(arguments: Namespace) -> int:
    """Prints a script for the shell to read at its start: `eval "$(zoo completion bash)"`."""
    from zoo.cli.arguments import parser as whole_grammar

    try:
        import shtab
    except ImportError:
        cure = 'pip install "blockzoo[completion]"'
        raise InputError("completion", Problem("", "the package shtab", "none", next=cure)) from None
    top = whole_grammar()
    for parser in _parsers(top):
        for action in parser._actions:
            if action.dest in ("name", "names") and not action.option_strings and action.choices is None:
                action.complete = COMPLETE  # type: ignore[attr-defined]
            elif action.dest in (
                "path",
                "out",
                "folder",
                "sources",
                "export",
                "take",
                "files",
                "source",
                "data",
                "prove",
                "real",
            ):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, arguments.shell, preamble=MODELS))  # type: ignore[arg-type]
    return 0


def _parsers(parser: Any) -> list[Any]:
    """The parser and those of its commands."""
    below = [
        choice for action in parser._actions if hasattr(action.choices, "values") for choice in action.choices.values()
    ]
    return [parser, *(inner for choice in below for inner in _parsers(choice))]
