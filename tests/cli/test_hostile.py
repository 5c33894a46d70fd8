"""The command line among hostile names, values, outputs, folders and signals: a sentence each time, and an exit code that means something."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from zoo.cli import main
from zoo.cli.commands.completing import MODELS
from zoo.display.console import dump, guarded, table
from zoo.system import children

ROOT = pathlib.Path(__file__).parents[2]
EVIL = "a\x1b[31mRED\x1b]0;owned\x07\u202e\x9b"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def zoo(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [sys.executable, "-P", "-m", "zoo", *arguments], stderr=subprocess.PIPE, text=True, check=False, **options
    )  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "arguments",
    [("create", EVIL), ("info", EVIL), ("spec", "gmlp_nano", "--why", EVIL), ("list", "--family", EVIL), (EVIL,), ("spec", "gmlp_nano", "--set", EVIL),
     ("spec", "gmlp_nano", "--set", f"{EVIL}=1"), ("blocks", EVIL), ("list", "--json", EVIL), ("info", "--json", EVIL), ("find", "--family", EVIL)],
)  # fmt: skip
def test_no_escape_reaches_the_terminal(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, said = run(capsys, *arguments)
    assert code in (0, 1, 2) and said.replace("\n", "").replace("\t", "").isprintable()


def test_a_hostile_family_is_refused_in_letters_that_can_be_seen(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "esc.json"
    path.write_text(json.dumps({"schema": "zoo.spec/1", "family": {"name": EVIL}, "spec": {}}))
    code, said = run(capsys, "create", str(path))
    assert code == 2 and "found `a\\x1b[31mRED\\x1b]0;owned\\x07\\u202e\\x9b`" in said


def test_tables_json_and_prints_are_guarded(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        table([EVIL], [[EVIL]], EVIL)
        dump({EVIL: EVIL})
        print(EVIL, "\ttab")
        sys.stdout.writelines([EVIL])
    out = capsys.readouterr().out
    assert out.replace("\n", "").replace("\t", "").isprintable() and "\ttab" in out
    assert json.loads(out[out.index("{") : out.index("}") + 1]) == {EVIL: EVIL}


@pytest.mark.parametrize(
    "value",
    ["[" + "9" * 5000 + "]", "9" * 5000, "[" * 3000, "[" * 3000 + "]" * 3000, "{a" + ".a" * 30_000 + "=1}", '"' + '\\"' * 60_000, "1\nother = 2", 
     "0x" + "f" * 5000, "nan"],
)  # fmt: skip
def test_a_hostile_value_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str], value: str) -> None:
    code, said = run(capsys, "spec", "gmlp_nano", "--set", f"dims={value}")
    assert code == 2 and said.startswith("SpecError: ") and len(said) < 20_000


@pytest.mark.parametrize("arguments", [("list", "--names"), ("list",), ("--help",), ("list", "--json")])
def test_an_output_that_cannot_be_written_is_told(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = zoo(*arguments, stdout=full)
    assert (done.returncode, done.stderr) == (2, "zoo: the output cannot be written: No space left on device\n")


def test_a_closed_output_is_no_error() -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -P -m zoo list >&- 2>&-"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_child_is_started_in_one_place_and_looks_away_from_the_working_folder() -> None:
    files = [path for folder in ("zoo", "blocks", "plugins") for path in (ROOT / folder).rglob("*.py")]
    starts = [
        path.name
        for path in files
        if "executable"
        in {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    ]
    assert starts == ["children.py"] and children.command("x")[1:] == ["-P", "-m", "x"]


def test_a_child_runs_no_file_of_the_working_folder(tmp_path: pathlib.Path) -> None:
    for name in ("json", "msgspec", "torch", "zoo", "blocks", "random"):
        (tmp_path / f"{name}.py").write_text('open("RAN", "w")\nraise ImportError')
    answers = tmp_path / "answers"
    answers.touch()
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        environment = os.environ | {"PYTHONPATH": children.search_path()}
        done = subprocess.run(
            children.command("zoo.authoring.report", "block", "mlp", str(answers)),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.chdir(here)
    assert (done.returncode, done.stderr, (tmp_path / "RAN").exists()) == (0, "", False)
    assert json.loads(answers.read_text().splitlines()[-1])["info"]["id"] == "core/mlp@1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "begun"),
    [(("train", "digits", "gmlp_nano", "--epochs", "900", "--out", "w.safetensors"), "epoch"),
     (("bench", "gmlp_nano", "--processes", "9", "--seconds", "1", "--export", "rows.jsonl"), "1 of 9")],
)  # fmt: skip
@pytest.mark.parametrize("everybody", [False, True], ids=["the process", "the terminal"])
def test_an_interrupt_ends_with_one_sentence_and_leaves_nothing(
    tmp_path: pathlib.Path, arguments: tuple[str, ...], begun: str, everybody: bool
) -> None:
    environment = os.environ | {"ZOO_DATA": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "zoo", *arguments],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    said = b""
    while begun.encode() not in said and (letter := process.stderr.read(1)):  # type: ignore[union-attr]
        said += letter
    (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and rest.endswith(b"zoo: interrupted\n") and b"Traceback" not in said + rest
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"measurements.sqlite"}


def test_completion_compares_names_and_expands_none(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "zoo"
    program.write_text("#!/bin/sh\necho '$(touch PWN)'\necho '`touch PWN`'\necho gmlp_nano\necho 'gmlp*'\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])}
    ask = f"{MODELS['bash']}\n_zoo_models g; _zoo_models ''"
    done = subprocess.run(
        ["bash", "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["gmlp_nano", "gmlp*", "$(touch PWN)", "`touch PWN`", "gmlp_nano", "gmlp*"]
    assert not (tmp_path / "PWN").exists()


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [("spec", LONG), ("spec", f"{LONG}.toml"), ("info", LONG), ("check", f"./{LONG}/x.toml"), ("check", f"{LONG}.py"), ("check", "a\0b.py"),
     ("blocks", f"x/{LONG}"), ("card", "--all", LONG), ("new-plugin", LONG), ("create", f"hub:{LONG}/x"), ("spec", "a\0b.toml")],
)  # fmt: skip
def test_a_name_of_300_letters_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, said = run(capsys, *arguments)
    assert code == 2 and len(said) < 3_000
