"""The command line: `zoo COMMAND`. Human tables by default, `--json` for machines; exit code 2 for a user's error.

`zoo/cli/commands` lists the commands; each of its files says what some of them take and do. What options share is in `options`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from zoo.cli.commands import COMMANDS, MODULES, TEXTS
from zoo.display.console import OutputError, broken_off, complain, dump, guarded
from zoo.errors import InputError, Problem, ProblemsError, listed, nearest
from zoo.system.distributions import naming_damaged_files


class Parser(argparse.ArgumentParser):
    """argparse with did-you-mean on commands and choices."""

    def error(self, message: str) -> NoReturn:
        what, choice, rest = message.partition(": invalid choice: '")
        if choice:
            message = self._choice_error(what.removeprefix("argument "), rest.partition("'")[0]) or message
        complain(f"zoo: {message}")
        raise SystemExit(2)

    def _choice_error(self, what: str, word: str) -> str:
        """`what` as argparse names it: an option, or the metavar of a position or of commands."""
        actions = [
            entry for entry in self._actions if what in ("/".join(entry.option_strings), entry.metavar, entry.dest)
        ]
        if not actions:
            return ""
        action = actions[0]
        choices = [str(choice) for choice in action.choices or ()]
        near = f"; nearest `{close}`" if (close := nearest(word, choices)) else ""
        if isinstance(action, argparse._SubParsersAction):
            return f"no command `{word}`{near}; `{self.prog} --help` lists them all"
        return f"{what}: expected one of {listed(choices)}; found `{word}`{near}"


class Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """The commands by name; what one takes is read from its module when it is called."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.choices = dict.fromkeys(TEXTS)
        self._choices_actions = [self._ChoicesPseudoAction(name, (), text) for name, text in TEXTS.items()]

    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser:
        return super().add_parser(name, **{key: value for key, value in kwargs.items() if key != "help"})

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        self.read(MODULES[values[0]])
        super().__call__(parser, namespace, values, option_string)

    def read(self, module: str) -> None:
        """Takes in the commands of a module of `zoo.cli.commands`."""
        importlib.import_module(f"zoo.cli.commands.{module}").add(self)

    def read_all(self) -> None:
        for module in COMMANDS:
            self.read(module)
        self.choices = self._name_parser_map


def parser(whole: bool = True) -> Parser:
    """The grammar of the command line; where it is not the `whole` of it, each command's is read when the command is called."""
    top = Parser(prog="zoo", description="A model zoo on one registry of efficient blocks.")
    top.add_argument(
        "--with",
        dest="files",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that defines blocks; loaded first",
    )
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands: Any = top.add_subparsers(dest="command", metavar="COMMAND", action=Commands)
    if whole:
        commands.read_all()
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    with guarded():
        try:
            try:
                return _run(arguments)
            finally:
                sys.stdout.flush()  # what cannot be written is told here, and not by Python when all is over
        except BrokenPipeError:
            broken_off()  # the reader of a pipe went away; that is no error
            return 0
        except OutputError as error:
            broken_off()
            complain(f"zoo: the output cannot be written: {error}")
            return 2
        except KeyboardInterrupt:
            complain("zoo: interrupted")
            return 130


def _run(arguments: Sequence[str] | None) -> int:
    top = parser(whole=False)
    parsed, strange = top.parse_known_args(arguments)
    if strange:
        return _refuse_strange(parsed.command, strange)
    if parsed.version:
        import zoo

        print(f"blockzoo {zoo.__version__}")
        return 0
    if not parsed.command:
        top.print_help()
        return 0
    try:
        with naming_damaged_files():
            return _handled(parsed)
    except ProblemsError as error:
        if getattr(parsed, "json", False):
            problems = [problem._asdict() for problem in error.problems]
            dump({"error": type(error).__name__, "subject": error.subject, "problems": problems})
        else:
            complain(f"{type(error).__name__}: {error}")
        return 2


def _refuse_strange(command: str | None, strange: Sequence[str]) -> int:
    """Says of the first word that a command does not take where it belongs."""
    word = strange[0].partition("=")[0]
    subject = f"zoo {command}" if command else "zoo"
    if command is None or not word.startswith("-"):
        complain(f"{subject}: unrecognized arguments: {' '.join(strange)}; `{subject} --help` lists what it takes")
        return 2
    if word == "--with":
        complain(f"{subject}: `--with FILE` stands before the command: `zoo --with FILE {command} ...`")
        return 2
    options = _options()
    near = nearest(word, options[command])
    elsewhere = [f"zoo {name}" for name, words in options.items() if word in words]
    takers = f"; {listed(elsewhere, 8)} take{'s' if len(elsewhere) == 1 else ''} it" if elsewhere else ""
    shown = f"; nearest `{near}`" if near else ""
    complain(f"{subject}: no option `{word}`{shown}{takers}; `{subject} --help` lists them all")
    return 2


def _options() -> dict[str, list[str]]:
    """The options of each command, those of its own commands among them."""
    found: dict[str, list[str]] = {}
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = {name: sorted(_words_of(inner)) for name, inner in action.choices.items()}
    return found


def _words_of(one: argparse.ArgumentParser) -> set[str]:
    words = {word for action in one._actions for word in action.option_strings if word.startswith("--")}
    inner = [action for action in one._actions if isinstance(action, argparse._SubParsersAction)]
    return words.union(*(_words_of(other) for action in inner for other in action.choices.values()))


def _handled(parsed: argparse.Namespace) -> int:
    """Loads the files that hold blocks, then does what the command says."""
    if parsed.files:
        from zoo.catalog.local_files import load_file

        for path in parsed.files:
            load_file(path)
    try:
        code: int = parsed.handler(parsed)
    except OSError as error:  # of a file or folder that somebody named, where nobody had a word for it
        if error.filename is None:
            raise
        problem = Problem("", "a file or folder that can be used", error.strerror or str(error))
        raise InputError(str(error.filename), problem) from None
    return code


if __name__ == "__main__":
    sys.exit(main())
