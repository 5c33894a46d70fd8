"""A file that is replaced is the old one or the new one, and nothing else is left."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import zoo
from zoo.errors import InputError, ProblemsError
from zoo.system.folders import check_place, forget_drafts, read_whole, replacing, write_whole


def test_a_draft_takes_the_place_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120)  # 240 bytes of a name of at most 255
    path.write_bytes(b"old")
    with replacing(path) as draft:
        draft.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_old_file_stays_and_the_draft_goes(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as draft:
        draft.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_threads_that_replace_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, broken = tmp_path / "file", []

    def write(letter: bytes) -> None:
        for _ in range(50):
            try:
                with replacing(path) as draft:
                    draft.write_bytes(letter * 5000)
                assert len(set(path.read_bytes())) == 1
            except BaseException as error:
                broken.append(error)

    threads = [threading.Thread(target=write, args=(bytes([letter]),)) for letter in b"abcd"]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert broken == [] and list(tmp_path.iterdir()) == [path]


def test_no_file_takes_the_place_of_a_device_or_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match="found a folder or a device is there, and no file"):
            write_whole(tmp_path / name, b"new")
        with pytest.raises(InputError, match="expected a place to write to"):
            check_place(tmp_path / name)
        assert not (tmp_path / name).is_file()


def test_a_place_is_asked_for_without_a_trace(tmp_path: Path) -> None:
    check_place(tmp_path / "not" / "there" / "yet.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a place to write to; found Not a directory"):
        check_place(tmp_path / "file" / "below.json")
    with pytest.raises(InputError, match="expected a place to write to; found File name too long"):
        check_place(tmp_path / ("a" * 300))


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = {".hidden.tmp", "last.json", ".a.0123.tmp"}
    for name in (*kept, ".last.json.0123456789abcdef.tmp", ".a\nb.0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    forget_drafts(tmp_path, tmp_path / "not there")
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_no_pipe_is_waited_for_and_no_device_read_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, found in ((tmp_path / "pipe", "a pipe or a device"), (Path("/dev/zero"), "a pipe or a device")):
        with pytest.raises(OSError, match=found):
            read_whole(path, 100)
    (tmp_path / "file").write_bytes(b"12345")
    assert read_whole(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_whole(tmp_path / "file", 4)


def test_the_folder_of_an_unknown_user_is_not_found(tmp_path: Path) -> None:
    for call in (zoo.create, zoo.load_deployed, lambda path: zoo.train("starnet_nano", path, out=tmp_path / "run")):
        with pytest.raises(ProblemsError, match="nobody_of_this_name"):
            call("~nobody_of_this_name/net.safetensors")
