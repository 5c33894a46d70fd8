"""Pictures become what timm's evaluation transform makes of them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import digits
from zoo.errors import InputError
from zoo.transforms import Transform, open_image
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


def test_what_is_no_image_is_named(tmp_path: pathlib.Path) -> None:
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


SCANS = sorted((pathlib.Path(__file__).parent / "data" / "digits").glob("digit_*.png"))


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
