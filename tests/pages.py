"""The pages of `docs/`, run as a reader would: `python -m tests.pages docs/specs.md ...` says what does not come as it is shown.

Each page is run from top to bottom in a process and an empty folder of its own, without a network, by these rules:

- A fence with a title (```` ```toml title="net.toml" ````) is a file, which is written to the folder.
- ```` ```python ```` is run; all of a page share their names. A ```` ```text ```` fence right behind one is what it prints.
- ```` ```console ```` holds commands behind `$ `, each with what it prints. `zoo` commands are run. They end with 0, or with 2 where an error
  is shown; or else the next command is `echo $?`, whose output is the code. A command with no output below it may print what it likes.
- ```` ```toml ```` with a `schema` is a whole family: each of its variants is resolved and built on meta. Other TOML
  is read as TOML.

In what is printed a line `...` stands for any lines, and `...` within a line for any text.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import pathlib
import re
import shlex
import socket
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
SHOWN_ERROR = re.compile(r"(\w+Error|zoo): ")
NOT_RUN = ("pip", "pytest", "python", "cd", "sha256sum")
"""Programs of commands that a page may show, and that are not the zoo."""
ENVIRONMENT = {
    "ZOO_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "ZOO_PLUGINS": "off",
    "ZOO_NATIVE": "off",
    "COLUMNS": "100",
    "PYTHONPATH": str(ROOT),
}
FOLDERS = ("ZOO_DATA", "ZOO_CACHE", "HF_HOME")
SHARED = (
    "torch",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
    "torch.export",
    "torch.utils.flop_counter",
    "scipy.stats",
)
"""What most pages come to import, and none of it is ours: once, for all processes that begin as copies of the first."""
UNSET = ("ZOO_LOCK", "ZOO_LOCKED", "ZOO_MIRROR", "ZOO_VERIFY")


class Fence(NamedTuple):
    """One fenced block of a page, with the number of its first line."""

    language: str
    title: str
    text: str
    line: int


class Command(NamedTuple):
    """One line behind `$ `, and the lines below it."""

    words: list[str]
    output: str


def fences(page: str) -> list[Fence]:
    """The fenced blocks of a page, in order."""
    return [
        Fence(match["language"], match["title"] or "", match["text"], page.count("\n", 0, match.start()) + 2)
        for match in FENCE.finditer(page)
    ]


def commands(text: str) -> list[Command]:
    """The commands of a console block; a line that ends in a backslash goes on in the next."""
    parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)
    if parts[0].strip():
        raise ValueError(f"a console block begins with `$ `; this one with {parts[0].splitlines()[0]!r}")
    pairs = (part.partition("\n") for part in parts[1:])
    return [Command(shlex.split(line), output) for line, _, output in pairs]


def is_shown(expected: str, output: str) -> bool:
    """Whether an output is what a page shows, `...` standing for anything."""
    lines = [line.rstrip() for line in expected.strip("\n").split("\n")]
    parts = [r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n" for line in lines]
    printed = "".join(line.rstrip() + "\n" for line in output.strip("\n").split("\n"))
    return re.fullmatch("".join(parts), printed) is not None


def faults_of(page: pathlib.Path) -> Iterator[str]:
    """Runs a page in the working folder; a sentence for each thing that comes otherwise than it is shown."""
    names: dict[str, Any] = {"__name__": "page"}
    blocks = fences(page.read_text())
    for fence, after in itertools.zip_longest(blocks, blocks[1:]):
        shown = after.text if after is not None and after.language == "text" else ""
        place = f"{page.name}:{fence.line}"
        if fence.title:
            pathlib.Path(fence.title).write_text(fence.text)
        if fence.language == "toml":
            yield from (f"{place}: {fault}" for fault in _toml_faults(fence))
        elif fence.language == "console":
            yield from (f"{place}: {fault}" for fault in _console_faults(fence.text))
        elif fence.language == "python" and not fence.title:
            output = _run(fence, names, pathlib.Path(f"line_{fence.line}.py"))
            if shown and not is_shown(shown, output):
                yield f"{place}: the page shows\n{shown}\nand this is printed:\n{output}"


def _run(fence: Fence, names: dict[str, Any], path: pathlib.Path) -> str:
    """What a block of Python prints. It stands in a file, for blocks are described from their source."""
    path.write_text(fence.text)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(fence.text, str(path.absolute()), "exec"), names)
    return output.getvalue()


def _toml_faults(fence: Fence) -> Iterator[str]:
    from zoo.build.builder import check
    from zoo.catalog.published import backbone_spec
    from zoo.specs.read import read_bytes
    from zoo.specs.resolve import resolve

    try:
        tomllib.loads(fence.text)
        if fence.text.startswith("schema = "):
            family = read_bytes(fence.text.encode(), fence.title or "page.toml")
            for variant in [*family.variants] or [""]:
                check(resolve(family, variant, models=backbone_spec))
    except ValueError as error:
        yield str(error)


def _console_faults(text: str) -> Iterator[str]:
    rows = commands(text)
    for row, after in itertools.zip_longest(rows, rows[1:]):
        expected = _code_of(row, after)
        variables = dict(
            word.split("=", 1) for word in itertools.takewhile(lambda word: re.match("[A-Z_]+=", word), row.words)
        )
        program, *arguments = row.words[len(variables) :]
        if (program == "echo" and arguments == ["$?"]) or program in NOT_RUN:
            continue
        if program != "zoo":
            yield f"`{program}` is not among the programs that a page may show"
            continue
        code, output = _zoo(arguments, variables)
        if str(code) != expected:
            yield f"`{shlex.join(row.words)}` ends with {code}, and the page says {expected}:\n{output}"
        elif row.output.strip() and not is_shown(row.output, output):
            yield f"`{shlex.join(row.words)}`: the page shows\n{row.output}\nand this is printed:\n{output}"


def _code_of(command: Command, after: Command | None) -> str:
    """The exit code that a page says a command ends with."""
    if after is not None and after.words[0] == "echo":
        return after.output.strip()
    return "2" if SHOWN_ERROR.match(command.output) else "0"


def _zoo(arguments: list[str], variables: dict[str, str]) -> tuple[int, str]:
    """(exit code, all that is printed) of a command of the zoo."""
    from zoo.cli import main

    before = dict(os.environ)
    os.environ.update(variables)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return code, output.getvalue()


def _refuse_connections() -> None:
    """From now on no socket of this process reaches anything."""

    def connect(*_: Any) -> None:
        raise OSError("a page of the documentation asked for a network")

    socket.socket.connect = socket.socket.connect_ex = connect  # type: ignore[assignment, method-assign]


def run(path: str) -> list[str]:
    """The faults of one page. For a process of its own: it moves to another folder and gives up the network."""
    page = pathlib.Path(path).absolute()
    with tempfile.TemporaryDirectory(prefix="zoo-docs-") as work:
        os.environ.update(ENVIRONMENT | {name: str(pathlib.Path(work, name)) for name in FOLDERS})
        for name in UNSET:
            os.environ.pop(name, None)
        folder = pathlib.Path(work, "page")
        folder.mkdir()
        os.chdir(folder)
        _refuse_connections()
        try:
            return list(faults_of(page))
        except Exception:
            return [f"{page.name}: {traceback.format_exc()}"]
        finally:
            os.chdir(ROOT)


def main(paths: list[str]) -> int:
    """Exit code 1 when something comes otherwise than a page shows it."""
    for module in SHARED:
        importlib.import_module(module)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        faults = [fault for page_faults in pool.map(run, paths, chunksize=1) for fault in page_faults]
    print("\n\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
