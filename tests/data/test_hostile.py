"""Labelled pictures among names, tables and notes of others that were never meant well: a sentence, or what can be read of them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from zoo.data.folders import labelled
from zoo.errors import InputError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


def test_names_of_bytes_that_are_no_text_are_escapes(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png")
    os.rename(picture(tmp_path / "b" / "0.png"), os.fsencode(tmp_path / "b") + b"/\xff.png")
    (tmp_path / "b" / os.fsdecode(b"\xfe.txt")).touch()
    data = labelled(tmp_path)
    names = [example.picture.name for examples in data.parts.values() for example in examples]
    assert names == ["a/0.png", "b/\\xff.png"] and list(data.ignored) == ["b/\\xfe.txt"]
    assert msgspec.json.encode(names)


def test_classes_of_many_digits_are_words(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    long = "9" * 400
    (tmp_path / "t.csv").write_text(f"path,y\np.png,{long}\np.png,2\np.png,10\np.png,x\n")
    assert labelled(tmp_path / "t.csv", task="multilabel").labels == ("2", "10", long, "x")
    (tmp_path / "t.csv").write_text(f"path,y\np.png,{'9' * 5000}\np.png,2\n")
    with pytest.raises(InputError, match="expected printable names of classes"):
        labelled(tmp_path / "t.csv", task="classification")


def test_no_pipe_is_waited_for_and_no_line_is_endless(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    os.symlink("/dev/zero", tmp_path / "zero.csv")
    for name in ("pipe.csv", "zero.csv"):
        with pytest.raises(InputError, match="found a pipe or a device"):
            labelled(tmp_path / name)
    with open(tmp_path / "sparse.csv", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="found a line of .* letters and more"):
        labelled(tmp_path / "sparse.csv")


@pytest.mark.parametrize(
    "notes",
    [b"no json", b'{"info": {"features": []}}', b'{"info": {"features": {"label": {"names": 3}}}}', b"[" * 9999],
)
def test_notes_that_datasets_did_not_write_are_passed_over(tmp_path: Path, notes: bytes) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    blob = picture(tmp_path / "p.png").read_bytes()
    table = pyarrow.table({"image": [blob] * 2, "label": ["a", "b"]}).replace_schema_metadata({b"huggingface": notes})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert labelled(tmp_path / "t.parquet").labels == ("a", "b")
