"""Pictures become what timm's evaluation transform makes of them."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

import zoo
from zoo.data import digits, transforms
from zoo.data.transforms import Transform, open_image
from zoo.errors import InputError
from zoo.weights.manifest import Preprocess

RNG = np.random.RandomState(0)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RNG.randint(0, 256, (height, width, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("size", [(31, 57), (224, 224), (300, 200), (225, 513)])
@pytest.mark.parametrize(("interpolation", "crop"), [("bicubic", 0.875), ("bilinear", 1.0), ("bicubic", 0.95)])
def test_the_evaluation_transform_is_that_of_timm(size: tuple[int, int], interpolation: str, crop: float) -> None:
    from zoo._timm import import_timm

    import_timm()
    from timm.data import create_transform

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = create_transform(
        (3, 96, 96), is_training=False, interpolation=interpolation, mean=mean, std=std, crop_pct=crop
    )
    ours = Transform(Preprocess(size=96, mean=mean, std=std, interpolation=interpolation, crop=crop))
    image = picture(*size)
    torch.testing.assert_close(ours(image)[0], theirs(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(31, 57), (97, 65), (300, 200), (225, 513)])
@pytest.mark.parametrize("shape", [(96, 64), (33, 80)])
@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_inputs_that_are_not_square_are_prepared_as_by_timm(
    size: tuple[int, int], shape: tuple[int, int], crop: float
) -> None:
    from zoo._timm import import_timm

    import_timm()
    from timm.data import create_transform

    stats = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    theirs = create_transform((3, *shape), is_training=False, interpolation="bicubic", crop_pct=crop, **stats)
    ours = Transform(Preprocess(size=shape, crop=crop, **stats))
    image = picture(*size)
    torch.testing.assert_close(ours(image)[0], theirs(image), rtol=0, atol=1e-6)
    assert Transform(Preprocess(size=shape, crop=crop, **stats), train=True)(image).shape == (1, 3, *shape)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_what_timm_makes_of_the_converted_image(mode: str, channels: int) -> None:
    from zoo._timm import import_timm

    import_timm()
    from timm.data import create_transform

    mean, std = (0.4,) * channels, (0.3,) * channels
    image = picture(57, 91, mode)
    theirs = create_transform(
        (channels, 32, 32), is_training=False, interpolation="bicubic", mean=mean, std=std, crop_pct=0.9
    )
    ours = Transform(Preprocess(size=32, mean=mean, std=std, channels=channels, crop=0.9))
    expected = theirs(image.convert("L" if channels == 1 else "RGB"))
    torch.testing.assert_close(ours(image)[0], expected, rtol=0, atol=1e-6)


def test_every_form_of_a_picture_gives_the_same_batch() -> None:
    prepare = Transform(Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    image = picture(40, 50)
    array = np.asarray(image)
    forms = [image, array, torch.from_numpy(array.copy()).permute(2, 0, 1), array / 255.0]
    for form in forms:
        assert torch.equal(prepare(form), prepare(image))
    assert prepare(forms).shape == (4, 3, 32, 32)


def test_a_tensor_of_half_precision_is_a_picture_too() -> None:
    prepare = Transform(Preprocess(size=8, mean=(0.0,), std=(1.0,), channels=1))
    assert torch.equal(prepare(torch.ones(1, 8, 8, dtype=torch.bfloat16)), torch.ones(1, 1, 8, 8))


def test_truth_values_are_black_and_white() -> None:
    prepare = Transform(Preprocess(size=8, mean=(0.0,), std=(1.0,), channels=1))
    assert torch.equal(prepare(np.ones((8, 8), bool)), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.full((8, 8), 300), "int64 values from 300 to 300"),
        (np.full((8, 8), -5, np.int32), "int32 values from -5 to -5"),
        (np.full((8, 8), 200.0), "float64 values from 200 to 200"),
        (np.full((8, 8), np.nan), "float64 values from nan to nan"),
        (np.full((8, 8), 1j), "complex128 values"),
    ],
)
def test_values_without_a_known_white_are_refused(values: np.ndarray, found: str) -> None:
    prepare = Transform(Preprocess(size=8, mean=(0.0,), std=(1.0,), channels=1))
    with pytest.raises(
        InputError, match=f"expected whole numbers from 0 to 255, or floats from 0 to 1; found {found}$"
    ):
        prepare(values)


def test_grey_of_16_bits_is_the_grey_of_8(tmp_path: pathlib.Path) -> None:
    """Where timm's users get white: PIL clips."""
    prepare = Transform(Preprocess(size=4, mean=(0.0,), std=(1.0,), channels=1))
    grey = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    torch.testing.assert_close(prepare(tmp_path / "deep.png"), prepare(grey), rtol=0, atol=0)
    too_deep = Image.fromarray(np.full((4, 4), 70_000, np.int32))
    with pytest.raises(InputError, match="expected grey values of at most 16 bits; found values from 70000 to 70000"):
        prepare(too_deep)


GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
WHITE = {"size": 8, "mean": (0.0,), "std": (1.0,), "channels": 1}


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY).convert("F"), Image.fromarray(GREY / np.float32(255)), Image.fromarray(GREY * np.float32(257)),
        Image.fromarray(GREY).convert("I"), Image.fromarray(GREY.astype(np.int32) * 257), Image.fromarray(GREY.astype(np.uint16) * 257),
        Image.frombytes("I;16B", (8, 8), (GREY.astype(">u2") * 257).tobytes()), Image.fromarray(GREY).convert("RGBA"),
        Image.fromarray(GREY).convert("LA").convert("La"), Image.fromarray(GREY).convert("CMYK"),
    ],
    ids=["F", "F to 1", "F of 16 bits", "I", "I of 16 bits", "I;16", "I;16B", "RGBA", "La", "CMYK"],
)  # fmt: skip
def test_the_same_greys_in_every_mode_are_the_same_picture(image: Image.Image) -> None:
    prepare = Transform(Preprocess(**WHITE))
    torch.testing.assert_close(prepare(image), prepare(GREY), rtol=0, atol=0)


@pytest.mark.parametrize("value", [-1.0, 70_000.0, np.nan, np.inf])
def test_floats_that_are_no_greys_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="expected grey values of at most 16 bits; found values from "):
        Transform(Preprocess(**WHITE))(Image.fromarray(np.full((4, 4), value, np.float32)))


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("train", [False, True])
def test_pictures_are_turned_as_their_exif_says(tmp_path: pathlib.Path, ending: str, train: bool) -> None:
    values = np.linspace(0, 255, 60)[None, :, None] * np.linspace(0.2, 1, 40)[:, None, None] * np.ones(3)
    form = Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)

    def prepared(picture: object) -> torch.Tensor:
        return Transform(form, train, torch.Generator().manual_seed(0))(picture)

    for way in range(1, 9):
        path, exif = tmp_path / f"{way}.{ending}", Image.Exif()
        exif[0x0112] = way
        Image.fromarray(values.astype(np.uint8)).save(path, exif=exif)
        with Image.open(path) as image:
            seen = prepared(ImageOps.exif_transpose(image))
        with Image.open(path) as image:
            assert torch.equal(prepared(image), seen), way
        assert torch.equal(prepared(path), seen) and torch.equal(prepared(open_image(path)), seen), way


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_orientation_of_nonsense_leaves_the_picture_as_it_is(tmp_path: pathlib.Path) -> None:
    image = picture(20, 30)
    image.save(tmp_path / "odd.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    prepare = Transform(Preprocess(size=8, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert torch.equal(prepare(tmp_path / "odd.png"), prepare(image))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path: pathlib.Path, mode: str) -> None:
    prepare = Transform(Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3))
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.save(tmp_path / "hidden.png", transparency=1)
    else:
        Image.new(mode, (8, 8), (90, 0) if mode == "LA" else (255, 0, 0, 0)).save(tmp_path / "hidden.png")
    assert torch.equal(prepare(tmp_path / "hidden.png"), torch.ones(1, 3, 8, 8))


def test_half_transparent_parts_are_half_white() -> None:
    prepare = Transform(Preprocess(**WHITE))
    assert abs(prepare(Image.new("RGBA", (8, 8), (0, 0, 0, 128))).mean().item() - 0.5) < 0.01


def test_lab_is_shown_in_srgb(tmp_path: pathlib.Path) -> None:
    image = Image.new("RGB", (8, 8), (200, 120, 40))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(image, *profiles, outputMode="LAB").save(tmp_path / "lab.tif")
    prepare = Transform(Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3))
    torch.testing.assert_close(prepare(tmp_path / "lab.tif"), prepare(image), rtol=0, atol=3 / 255)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 100_000)])
def test_of_a_thin_picture_only_what_is_kept_is_computed(size: tuple[int, int], train: bool) -> None:
    assert (
        Transform(Preprocess(size=224, mean=(0.5,) * 3, std=(0.5,) * 3), train)(Image.new("RGB", size)).shape[-1] == 224
    )


@pytest.mark.parametrize("size", [(40, 300), (1000, 37), (7, 9)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_crop_equals_that_of_the_whole_resized_picture(
    size: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = Preprocess(size=(96, 64), mean=(0.0,) * 3, std=(1.0,) * 3, crop=0.9, interpolation=interpolation)
    image, prepare = picture(*size), Transform(form)
    whole = prepare(image)
    monkeypatch.setattr(transforms, "MOST_SCALED", 0)
    torch.testing.assert_close(prepare(image), whole, rtol=0, atol=1.01 / 255)


def test_a_pipe_is_no_picture(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="found something else than a file"):
        open_image(tmp_path / "pipe.png")


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="expected a picture with pixels; found 0 x 5"):
        Transform(Preprocess(**WHITE))(Image.new("L", (0, 5)))


def test_items_of_a_dataset_become_a_batch() -> None:
    model = zoo.create("starnet_nano")
    prepare = zoo.transform(model)
    items = [(prepare.one(picture(20, 20)), 1) for _ in range(4)]
    x, _ = next(iter(torch.utils.data.DataLoader(items, batch_size=4)))
    assert model(x).shape == (4, 10)
    with pytest.raises(
        InputError, match="a batch of batches; next: in a Dataset, `zoo.transform.model..one.picture.` gives"
    ):
        model(x[:, None])


def test_a_transform_says_what_it_does() -> None:
    shown = "<Transform: grey 8 x 8, bicubic, crop 1, mean 0, std 1>"
    assert repr(Transform(Preprocess(**WHITE))) == shown
    assert "random crop, random flip" in repr(Transform(Preprocess(**WHITE), train=True))


def test_an_empty_list_is_refused() -> None:
    prepare = Transform(Preprocess(size=8, mean=(0.0,), std=(1.0,), channels=1))
    with pytest.raises(InputError, match="expected at least one picture; found an empty list"):
        prepare([])


def test_training_crops_are_drawn_from_the_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        form = Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
        return Transform(form, train=True, generator=torch.Generator().manual_seed(seed))(
            Image.new("RGB", (60, 60), "red")
        )

    assert torch.equal(draw(0), draw(0))


def test_a_file_that_is_no_image_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    picture(20, 20).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    found = {
        "empty.png": "an empty file",
        "text.png": "a file that is no image",
        "cut.png": "a damaged image",
        ".": "a folder",
        "none.png": "no such file",
    }
    for name, words in found.items():
        with pytest.raises(InputError, match=f"expected an image file .PNG, JPEG, ….; found {words}"):
            open_image(tmp_path / name)


def test_a_file_that_may_not_be_read_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: pathlib.Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match="found a file that may not be read"):
        open_image(tmp_path / "locked.png")


def test_an_image_of_absurd_size_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(20, 20).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="found an image of too many pixels to be meant"):
        open_image(tmp_path / "bomb.png")


SCANS = sorted((pathlib.Path(__file__).parent / "digits").glob("digit_*.png"))


@pytest.mark.parametrize("path", SCANS, ids=lambda path: path.stem)
def test_the_picture_files_are_held_out_scans(path: pathlib.Path) -> None:
    image = np.asarray(open_image(path))
    scan = image[:: len(image) // 8, :: len(image) // 8]
    images, labels = digits.held_out()
    places = np.flatnonzero((images == scan).all((1, 2)))
    assert int(path.stem.split("_")[1]) in labels[places]


def test_there_is_a_picture_file_of_every_digit() -> None:
    assert {int(path.stem.split("_")[1]) for path in SCANS} == set(range(10))


def test_the_held_out_scans_are_those_of_scikit_learn() -> None:
    images, labels = digits._all()
    chosen = digits._split(labels)
    kept, truth = digits.held_out()
    assert np.array_equal(kept, images[chosen])
    assert np.array_equal(truth, labels[chosen])
    assert len(digits.training_set()[1]) + len(truth) == 1797
    assert min(np.bincount(truth)) >= 35
