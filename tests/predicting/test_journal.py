"""A file of rows under SIGKILL: killed at every step on the disk, and run again, it is the file of a run that was not killed."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from zoo.errors import InputError
from zoo.predicting import journal as journals
from zoo.predicting.journal import Journal, Tally
from zoo.predicting.rows import Class, Row, Shape, write_jsonl

ROOT = pathlib.Path(__file__).parents[2]
JOB = {"model": "a", "preprocess": {"mean": (0.5,)}}
NAMES = ["a.png", "b.png", "twice.png", "twice.png", "c.png", "d\n.png", "e.png"]
SHAPE = Shape(1, 0)

KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = [{root!r}, {here!r}]
from test_journal import predicted

def forked(steps):
    child = os.fork()
    if child == 0:
        left = [steps]
        def hook(event, arguments):
            if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and steps is not None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        try:
            predicted(pathlib.Path("out.jsonl"))
        except ValueError as error:
            os._exit(7 if "--force writes it anew" in str(error) else 8)
        os._exit(0)
    return os.waitpid(child, 0)[1]

steps = kills = 0
while True:
    first = forked(steps)
    if first == 0:
        break
    assert os.WIFSIGNALED(first), first
    kills += 1
    second = os.waitstatus_to_exitcode(forked(None))
    assert second == 0 or second == 7 and steps > 20, (steps, second)  # killed when only an empty folder was left
    print(pathlib.Path("out.jsonl").read_bytes().hex())
    pathlib.Path("out.jsonl").unlink()
    left = [str(path) for path in pathlib.Path(".").iterdir() if path.name != "out.jsonl.parts"]
    assert second == 7 or not left and not pathlib.Path("out.jsonl.parts").exists(), left
    steps += 1
print(kills)
"""


def row(position: int) -> Row:
    return Row(position, NAMES[position], (Class("cat", 3, 0.5),))


def predicted(out: pathlib.Path, force: bool = False) -> Tally:
    """What `zoo predict` does around the model, in parts of two rows."""
    journals.MOST_ROWS = 2
    with Journal(out, JOB, force) as journal:
        if finished := journal.tally():
            return journal.forget(finished)
        done = journal.names()
        for position, name in enumerate(NAMES):
            if done[name] > 0:
                done[name] -= 1
            else:
                journal.add(row(position))
        return journal.finish(write_jsonl, SHAPE)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_ROWS", 2)


def test_a_run_that_is_killed_at_any_step_and_run_again_has_every_row_once(tmp_path: pathlib.Path) -> None:
    here = str(pathlib.Path(__file__).parent)
    code = KILLED.format(root=str(ROOT), here=here)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *files, kills = done.stdout.split()
    assert int(kills) == len(files) >= 30
    predicted(tmp_path / "whole.jsonl")
    assert set(files) == {(tmp_path / "whole.jsonl").read_bytes().hex()}


def test_rows_that_come_out_of_order_stand_in_the_order_of_the_source(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, JOB) as journal:
        for position in (4, 5, 6, 0, 1, 2, 3):
            journal.add(row(position))
        journal.finish(write_jsonl, SHAPE)
    predicted(tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_done_is_not_asked_for_again_though_pictures_were_added_before_it(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, JOB) as journal:
        journal.add(Row(0, "b.png"))
    with Journal(out, JOB) as journal:
        assert dict(journal.names()) == {"b.png": 1}
        journal.add(Row(0, "a.png"))
        assert journal.finish(write_jsonl, SHAPE) == Tally(2, 0)


def test_a_file_that_is_there_is_kept_unless_it_is_forced(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(
        InputError, match="expected a file that is not there yet; found one that is; next: --force writes it anew"
    ):
        predicted(out)
    assert out.read_text() == "mine"
    assert predicted(out, force=True) == Tally(len(NAMES), 0)


def test_rows_of_another_job_are_refused_with_the_difference(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, {"model": "a", "top": 5}) as journal:
        journal.add(row(0))
    with pytest.raises(
        InputError, match="expected 5, as in the rows that are there; found 3; next: --force begins anew"
    ):
        Journal(out, {"model": "a", "top": 3}).__enter__()


def test_a_second_process_is_refused(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.jsonl"
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nfrom pathlib import Path\n"
        f"from zoo.predicting.journal import Journal\nJournal(Path({str(out)!r}), {JOB!r}).__enter__()"
    )
    with Journal(out, JOB):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert "expected to be the only one at work; found another process that writes it" in done.stderr


def test_a_folder_that_takes_no_file_is_told_in_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a place to write to; found Not a directory"):
        Journal(tmp_path / "file" / "out.jsonl", JOB).__enter__()


@pytest.mark.parametrize("name", ["a\0b.jsonl", "\ud800.jsonl"])
def test_a_name_that_no_file_can_have_is_told_in_a_sentence(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a place to write to"):
        Journal(tmp_path / name, JOB).__enter__()
