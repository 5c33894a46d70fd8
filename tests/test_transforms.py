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


def test_every_form_of_a_picture_gives_the_same_batch() -> None:
    prepare = Transform(Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    image = picture(40, 50)
    array = np.asarray(image)
    forms = [image, array, torch.from_numpy(array.copy()).permute(2, 0, 1), array / 255.0]
    for form in forms:
        assert torch.equal(prepare(form), prepare(image))
    assert prepare(forms).shape == (4, 3, 32, 32)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted(mode: str, channels: int) -> None:
    prepare = Transform(Preprocess(size=32, mean=(0.5,) * channels, std=(0.5,) * channels, channels=channels))
    assert prepare(picture(40, 50, mode)).shape == (1, channels, 32, 32)


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


def test_the_held_out_scans_are_those_of_scikit_learn() -> None:
    images, labels = digits._all()
    chosen = digits._split(labels)
    kept, truth = digits.held_out()
    assert np.array_equal(kept, images[chosen])
    assert np.array_equal(truth, labels[chosen])
    assert len(digits.training_set()[1]) + len(truth) == 1797
    assert min(np.bincount(truth)) >= 35
