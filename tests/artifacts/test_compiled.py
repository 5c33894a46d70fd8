"""Compiled nets on this machine: made once, by one process at a time, whole or not at all, within a limit."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo import cli
from zoo.artifacts import compiled
from zoo.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    return tmp_path


def key(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def write(folder: Path, size: int = 10) -> str:
    (folder / "net.bin").write_bytes(b"x" * size)
    return "made"


def obtain(word: str = "a", size: int = 10) -> str:
    return compiled.obtain(key(word), word, lambda folder: write(folder, size), lambda folder: "opened")


def test_a_net_is_made_once_and_opened_after_that() -> None:
    assert [obtain(), obtain(), obtain("b")] == ["made", "opened", "made"]


def test_a_folder_that_was_changed_is_compiled_anew() -> None:
    obtain()
    (compiled.folder() / key("a") / "net.bin").write_bytes(b"y" * 10)
    assert [obtain(), obtain()] == ["made", "opened"]


def test_a_folder_that_cannot_be_opened_is_compiled_anew() -> None:
    obtain()

    def refuse(folder: Path) -> str:
        raise InputError("runtime", [])

    assert compiled.obtain(key("a"), "a", write, refuse) == "made"


def test_a_failure_leaves_nothing(data: Path) -> None:
    def fail(folder: Path) -> str:
        write(folder)
        raise ValueError("no operator")

    with pytest.raises(ValueError, match="no operator"):
        compiled.obtain(key("a"), "a", fail, lambda folder: "opened")
    assert not list(compiled.entries())


def test_a_full_disk_is_a_sentence_with_the_way_out() -> None:
    def fail(folder: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="expected room on the disk; found .* bytes free; next: make room"):
        compiled.obtain(key("a"), "a", fail, lambda folder: "opened")
    assert not list(compiled.entries())


def test_the_folders_used_longest_ago_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_COMPILED_GB", "0.000025")
    for age, word in enumerate("abc"):
        obtain(word, 10_000)
        if word != "c":
            os.utime(compiled.folder() / key(word) / compiled.ENTRY, (age, age))
    assert [label for _, label in compiled.entries()] == sorted("bc", key=key)
    monkeypatch.setenv("ZOO_COMPILED_GB", "many")
    with pytest.raises(InputError, match="expected a number of gigabytes; found `many`"):
        obtain("d")


def _count(folder: Path) -> str:
    time.sleep(0.2)
    with (folder.parents[1] / "made").open("a") as file:
        file.write("x")
    return write(folder)


def _obtain_slowly(_: int) -> str:
    return compiled.obtain(key("a"), "a", _count, lambda folder: "opened")


def test_of_several_processes_one_compiles_a_folder(data: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert sorted(pool.map(_obtain_slowly, range(4))) == ["made", "opened", "opened", "opened"]
    assert (data / "made").read_text() == "x"


def test_a_process_that_was_killed_leaves_nothing_that_counts(data: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from zoo.artifacts import compiled\n"
        "def make(folder): (folder / 'net.bin').write_bytes(b'half'); print('begun', flush=True); time.sleep(60)\n"
        f"compiled.obtain({key('a')!r}, 'a', make, lambda folder: 'opened')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        assert (
            cli.main(["cache", "clear"]) == 0 and (compiled.folder() / key("a") / "net.bin").exists()
        )  # it is being made
        process.send_signal(signal.SIGKILL)
    assert [obtain(), obtain()] == ["made", "opened"]


def test_the_cache_command_shows_verifies_and_clears_compiled_folders(capsys: pytest.CaptureFixture[str]) -> None:
    obtain("net in runtime")
    place = compiled.folder() / key("net in runtime")
    assert cli.main(["cache", "list"]) == 0
    assert "compiled" in (shown := capsys.readouterr().out) and "net in runtime" in shown
    (place / "net.bin").write_bytes(b"other")
    assert cli.main(["cache", "verify"]) == 1 and not place.exists()
    assert "net.bin is not what was compiled; it was removed, and is compiled again" in capsys.readouterr().out
    obtain()
    assert (
        cli.main(["cache", "clear", "--dry-run"]) == 0 and "1 compiled nets would be deleted" in capsys.readouterr().out
    )
    assert cli.main(["cache", "clear"]) == 0 and not list(compiled.entries())
