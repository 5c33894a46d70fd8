"""Where pictures come from: names in an order that stays, bytes when their turn comes."""

from __future__ import annotations

import io
import os
import pathlib
import tarfile

import pytest
from PIL import Image

from zoo.data.sources import Numbered, pictures_of
from zoo.errors import InputError

GREYS = (10, 90, 170, 250)


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), grey).save(file, "png")
    return file.getvalue()


def greys(sources: list[pathlib.Path], column: str = "") -> list[int]:
    return [picture.open().getpixel((0, 0)) for picture in pictures_of(sources, column)]


def tree(folder: pathlib.Path) -> list[str]:
    names = ["b/1.png", "a.png", "b/c d/ü.PNG", "z.png"]
    for name, grey in zip(names, GREYS, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(grey))
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.png").write_bytes(b"what another system left")
    return names


def archive(path: pathlib.Path, mode: str) -> pathlib.Path:
    with tarfile.open(path, mode) as file:
        for i, grey in enumerate(GREYS):
            for name, data in ((f"{i}.png", png(grey)), (f"{i}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_is_walked_by_name_and_links_to_folders_are_not_followed(tmp_path: pathlib.Path) -> None:
    tree(tmp_path)
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    names = [os.path.relpath(picture.name, tmp_path) for picture in pictures_of([tmp_path])]
    assert names == ["a.png", "z.png", "b/1.png", "b/c d/ü.PNG"]


def test_a_name_that_is_no_utf8_is_text_and_still_leads_to_its_file(tmp_path: pathlib.Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(png(7))
    (picture,) = pictures_of([tmp_path])
    assert picture.name.endswith("\\xff.png") and picture.open().getpixel((0, 0)) == 7


def test_a_list_names_paths_from_its_own_folder_and_keeps_its_order(tmp_path: pathlib.Path) -> None:
    names = tree(tmp_path)
    (tmp_path / "list.txt").write_text("\n".join([*reversed(names), names[0]]) + "\n\n", encoding="utf-8")
    assert greys([tmp_path / "list.txt"]) == [*reversed(GREYS), GREYS[0]]


def test_a_csv_names_paths_in_a_column(tmp_path: pathlib.Path) -> None:
    names = tree(tmp_path)
    (tmp_path / "list.csv").write_text("label,filename\n" + "".join(f"x,{name}\n" for name in names), encoding="utf-8")
    assert greys([tmp_path / "list.csv"]) == greys([tmp_path / "list.csv"], "filename") == list(GREYS)
    with pytest.raises(
        InputError, match="a column with the paths: `label` or `filename`; found `file`; next: name it: --column"
    ):
        pictures_of([tmp_path / "list.csv"], "file")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_holds_pictures_among_other_files(tmp_path: pathlib.Path, mode: str) -> None:
    path = archive(tmp_path / f"shard.tar{mode[1:].replace(':', '.')}", mode)
    assert [picture.name for picture in pictures_of([path])] == [f"{path}:{i}.png" for i in range(4)]
    assert greys([path]) == list(GREYS)


def test_a_compressed_tar_is_read_in_any_order(tmp_path: pathlib.Path) -> None:
    pictures = pictures_of([archive(tmp_path / "shard.tar.gz", "w:gz")])
    assert all(isinstance(picture, Numbered) for picture in pictures)
    assert [pictures[i].open().getpixel((0, 0)) for i in (3, 1, 2, 0)] == [GREYS[i] for i in (3, 1, 2, 0)]


def test_a_tar_that_ends_too_early_is_refused(tmp_path: pathlib.Path) -> None:
    path = archive(tmp_path / "shard.tar.gz", "w:gz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="expected a whole tar; found a damaged one"):
        pictures_of([path])


def test_a_parquet_file_holds_bytes_records_or_paths(tmp_path: pathlib.Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    names = tree(tmp_path)
    data = [png(grey) for grey in GREYS]
    columns = {
        "bytes": {"id": ["p", "q", "r", "s"], "jpg": data},
        "records": {"image": [{"bytes": value, "path": f"{i}.png"} for i, value in enumerate(data)]},
        "paths": {"path": names},
    }
    expected = {"bytes": "bytes.parquet:q", "records": "records.parquet:1.png", "paths": "a.png"}
    for kind, table in columns.items():
        path = tmp_path / f"{kind}.parquet"
        parquet.write_table(arrow.table(table), path, row_group_size=3)
        assert greys([path]) == list(GREYS)
        assert pictures_of([path])[1].name.endswith(expected[kind])


def test_an_empty_cell_costs_its_row_and_no_other(tmp_path: pathlib.Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    parquet.write_table(arrow.table({"png": [png(1), None, png(3)]}), tmp_path / "a.parquet")
    first, empty, last = pictures_of([tmp_path / "a.parquet"])
    assert first.open().getpixel((0, 0)) == 1
    with pytest.raises(InputError, match="expected the bytes of a picture; found an empty cell"):
        empty.open()
    assert last.open().getpixel((0, 0)) == 3


def test_a_table_that_is_damaged_behind_its_beginning_is_refused_in_a_sentence(tmp_path: pathlib.Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"image": [png(1)] * 3, "name": ["a", "b", "c"]}), file)
    whole = file.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    file.write_bytes(b"PAR1" + b"\xff" * (len(whole) - footer - 12) + whole[-footer - 8 :])
    with pytest.raises(InputError, match="expected a Parquet file; found a damaged one"):
        pictures_of([file])


def test_behind_what_is_damaged_each_picture_is_refused_in_a_sentence(tmp_path: pathlib.Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"image": [png(1)] * 3}), file)
    pictures = pictures_of([file])
    whole = file.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    file.write_bytes(b"PAR1" + b"\xff" * (len(whole) - footer - 12) + whole[-footer - 8 :])
    for picture in pictures:
        with pytest.raises(InputError, match="damaged"):
            picture.open()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.txt", b"", "expected a list of paths, one in each line; found none"),
        ("not.tar", b"no tar", "expected a whole tar; found a damaged one"),
        ("not.parquet", b"no table", "expected a Parquet file; found a damaged one"),
    ],
)
def test_a_source_that_is_none_is_refused_in_a_sentence(
    tmp_path: pathlib.Path, name: str, content: bytes, sentence: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        pictures_of([tmp_path / name])


def test_a_folder_without_pictures_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(InputError, match="expected a folder with pictures .*; found none"):
        pictures_of([tmp_path])


def test_nothing_of_a_tar_is_written_and_links_in_it_lead_nowhere(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    path = tmp_path / "in" / "shard.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo("../../up.png")
        member.size = len(png(5))
        file.addfile(member, io.BytesIO(png(5)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        file.addfile(link)
    assert greys([path]) == [5]
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["in", "secret.png", "shard.tar"]
