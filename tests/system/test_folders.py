"""A file that is replaced is the old one or the new one, and nothing else is left."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from zoo.system.folders import replacing


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
