"""Labelled sets are read from folders, tables and shards, and what is wrong with them is told before a training begins."""

from __future__ import annotations

import importlib
import io
import json
import pathlib
import shutil
import tarfile
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests import photographs
from zoo.data.bands import Bands
from zoo.data.folders import labelled
from zoo.data.labelled import split
from zoo.data.pictures import Picture
from zoo.data.survey import readable, survey
from zoo.data.transforms import Transform
from zoo.errors import InputError
from zoo.weights.manifest import Preprocess


def plain(path: pathlib.Path, shade: int = 0) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (shade, 0, 255 - shade)).save(path)
    return path


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def refusal(source: pathlib.Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        labelled(source, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_folders_of_train_and_val_are_parts(tmp_path: pathlib.Path) -> None:
    for name in (
        "train/b/1.png",
        "train/a ñ/x/2.JPG",
        "validation/b/3.png",
        "train/b/.hidden.png",
        "train/b/notes.txt",
    ):
        plain(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    data = labelled(tmp_path)
    assert data.labels == ("a ñ", "b")
    assert {part: [one.picture.name for one in many] for part, many in data.parts.items()} == {
        "train": ["train/a ñ/x/2.JPG", "train/b/1.png"],
        "val": ["validation/b/3.png"],
    }
    assert data.ignored == ("train/b/notes.txt",)
    assert data.counts("train") == [1, 1]


def test_classes_that_are_numbers_stand_in_the_order_of_numbers(tmp_path: pathlib.Path) -> None:
    for name in ("10", "9", "2"):
        plain(tmp_path / name / "x.png")
    assert labelled(tmp_path).labels == ("2", "9", "10")


def test_one_folder_is_divided_class_by_class_and_a_new_picture_moves_no_other(tmp_path: pathlib.Path) -> None:
    for i in range(20):
        plain(tmp_path / ("a" if i < 10 else "b") / f"{i}.png")
    before = split(labelled(tmp_path), 0.2)
    assert [before.counts(part) for part in ("train", "val")] == [[8, 8], [2, 2]]
    plain(tmp_path / "a" / "new.png")
    after = {one.picture.name for one in split(labelled(tmp_path), 0.2).parts["val"]} - {"a/new.png"}
    assert len({one.picture.name for one in before.parts["val"]} - after) <= 1


def test_an_empty_class_is_refused_by_its_name(tmp_path: pathlib.Path) -> None:
    plain(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    assert "found none in `b`; next: remove the folder" in refusal(tmp_path)


def test_what_is_not_there_is_told_with_the_next_step(tmp_path: pathlib.Path) -> None:
    assert "found nothing there" in refusal(tmp_path / "nowhere")
    with pytest.raises(InputError, match="hf download --repo-type dataset org/pets"):
        labelled("hf:org/pets")


def test_a_table_of_paths_has_one_class_several_or_numbers(tmp_path: pathlib.Path) -> None:
    plain(tmp_path / "p" / "1.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\np/1.png,dog,train\np/1.png,cat,val\n")
    one = labelled(table)
    assert (one.task, one.labels, [e.target for e in one.parts["val"]]) == ("classification", ("cat", "dog"), [0])
    assert one.parts["train"][0].picture.open().size == (9, 7)
    table.write_text("path,tags\np/1.png,red|big\np/1.png,\np/1.png,red\n")
    several = labelled(table)
    assert (several.task, several.labels) == ("multilabel", ("big", "red"))
    assert [e.target for e in several.parts[""]] == [(0, 1), (), (1,)]
    table.write_text("path,age,weight\np/1.png,1.5,70\np/1.png,2,80\n")
    numbers = labelled(table)
    assert (numbers.task, numbers.labels, numbers.parts[""][0].target) == ("regression", ("age", "weight"), (1.5, 70.0))
    assert labelled(table, target="age").labels == ("age",)


def test_a_column_that_is_not_there_has_a_nearest_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.png,x\nb.png,y\n")
    assert "nearest `label`" in refusal(tmp_path / "t.csv", target="lable")


def test_shards_give_each_picture_from_its_place(tmp_path: pathlib.Path) -> None:
    for part, count in (("train", 3), ("val", 1)):
        with tarfile.open(tmp_path / f"{part}-0000.tar", "w") as tar:
            for i in range(count):
                for ending, content in (("png", png(i)), ("json", json.dumps({"label": f"c{i % 2}"}).encode())):
                    info = tarfile.TarInfo(f"{i:04}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    data = labelled(tmp_path)
    assert (data.labels, data.counts("train"), data.counts("val")) == (("c0", "c1"), [2, 1], [1, 0])
    assert data.parts["train"][2].picture.open().getpixel((0, 0)) == (2, 0, 0)


def test_a_tar_that_is_compressed_is_refused(tmp_path: pathlib.Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    assert "expected a tar that is not compressed" in refusal(tmp_path / "a.tar.gz")


def test_parquet_with_bytes_and_the_names_of_classes_is_what_datasets_saves(tmp_path: pathlib.Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data`")
    parquet = importlib.import_module("pyarrow.parquet")
    table = pyarrow.table({"image": [{"bytes": png(i), "path": None} for i in range(2)], "label": [1, 0]})
    facts = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    for part in ("train", "test"):
        parquet.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    data = labelled(tmp_path)
    assert (data.labels, sorted(data.parts)) == (("cat", "dog"), ["test", "train"])
    assert data.parts["train"][1].picture.open().getpixel((0, 0)) == (1, 0, 0)


def test_arrow_files_of_a_saved_data_set_are_read_with_their_parts(tmp_path: pathlib.Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra `data`")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    facts = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    for part, labels in (("train", [0, 1]), ("validation", [1, -1])):
        table = arrow.table({"image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(2)], "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
        (tmp_path / part).mkdir()
        with arrow.ipc.new_stream(tmp_path / part / "data-00000-of-00001.arrow", table.schema) as file:
            file.write_table(table)
    assert "expected classes from 0 to 1; found -1; next: leave out rows that nobody labelled" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "validation")
    assert [one.target for one in labelled(tmp_path).parts["train"]] == [0, 1]


def test_a_net_of_four_bands_reads_arrays_as_one_of_three_reads_images(tmp_path: pathlib.Path) -> None:
    draw = np.random.RandomState(0)
    pixels = draw.randint(80, 176, (50, 70, 4), np.uint8)  # which no filter throws beyond white
    np.save(tmp_path / "a.npy", pixels)
    four = Transform(Preprocess(size=32, mean=(0.5,) * 4, std=(0.5,) * 4, channels=4, crop=0.9))
    one = Transform(Preprocess(size=32, mean=(0.5,), std=(0.5,), channels=1, crop=0.9))
    x = four.one(Picture("a.npy", str(tmp_path / "a.npy")).open())
    bands = torch.cat([one.one(Image.fromarray(pixels[..., i])) for i in range(4)])
    assert torch.allclose(x, bands, atol=2.5 / 255), "images round to 8 bits twice"
    assert torch.equal(x, four.one(pixels))
    assert torch.allclose(x, four.one(pixels.astype(np.uint16) * 257), atol=1e-6)
    with pytest.raises(InputError, match="a picture of 4 bands; found one of 2; next: a model for it: `in_chans=2`"):
        four.one(pixels[..., :2])


@pytest.mark.parametrize("count", [4, 12])
@pytest.mark.parametrize("kind", ["samples", "planes", "pages", "as it comes"])
def test_a_net_of_many_bands_reads_a_tiff_as_it_reads_an_array(tmp_path: pathlib.Path, kind: str, count: int) -> None:
    pixels = np.random.RandomState(0).randint(0, 60_000, (50, 70, count), np.uint16)
    planes, grey = pixels.transpose(2, 0, 1), {"photometric": "minisblack"}
    how: Any = {
        "samples": (pixels, grey | {"planarconfig": "contig"}), "planes": (planes, grey | {"planarconfig": "separate"}),
        "pages": (planes, grey), "as it comes": (pixels, grey),
    }[kind]  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", how[0], **how[1])
    np.save(tmp_path / "a.npy", pixels)
    read = [Picture(name, str(tmp_path / name)).open(count) for name in ("a.tif", "a.npy")]
    assert all(isinstance(bands, Bands) for bands in read)
    assert np.array_equal(read[0].values(), read[1].values())  # type: ignore[union-attr]
    assert Picture("a.tif", str(tmp_path / "a.tif")).shown().mode in ("L", "RGB", "RGBA", "CMYK", "I;16")


def test_a_tiff_of_colours_is_a_picture_to_a_net_of_colours_and_a_damaged_one_is_told(tmp_path: pathlib.Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((5, 7, 3), 90, np.uint8), photometric="rgb")
    assert isinstance(Picture("a.tif", str(tmp_path / "a.tif")).open(3), Image.Image)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:60])
    with pytest.raises(InputError, match="a TIFF that can be read; found a damaged one"):
        Picture("a.tif", str(tmp_path / "a.tif")).open(4)


def test_an_array_with_code_in_it_is_refused(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="an array that numpy reads; found a damaged one"):
        Picture("a.npy", str(tmp_path / "a.npy")).open()


def test_photographs_that_are_damaged_are_named_and_left_out(tmp_path: pathlib.Path) -> None:
    photographs.write(tmp_path, 20)
    data = labelled(tmp_path)
    found = survey(data, workers=2)
    assert [reason for _, reason in found.unreadable].count(
        "expected an image file (PNG, JPEG, …); found an empty file"
    ) == 1
    assert len(found.unreadable) == 5
    assert sum(map(len, readable(data, found).parts.values())) == 15
    with pytest.raises(InputError, match="5 errors"):
        readable(data, found, strict=True)


def test_the_same_picture_in_two_parts_is_found_in_another_format_and_size(tmp_path: pathlib.Path) -> None:
    photographs.write(tmp_path / "train", 20)
    home = tmp_path / "val" / "ball"
    home.mkdir(parents=True)
    with Image.open(tmp_path / "train" / "ball" / "IMG 0000.jpg") as first:
        first.resize((first.width * 2, first.height * 2)).save(home / "copy.webp")
    with Image.open(tmp_path / "train" / "ball" / "IMG 0003.jpg") as other:
        other.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(home / "mirrored.png")
    assert survey(labelled(tmp_path)).doubles == (("train/ball/IMG 0000.jpg", "val/ball/copy.webp"),)
