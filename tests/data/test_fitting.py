"""Pictures, boxes and masks move alike, and come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.fitting import MULTIPLE, letterbox, stretch
from zoo.data.transforms import Transform
from zoo.errors import InputError
from zoo.weights.manifest import Preprocess

BOX = np.array([[30.0, 20, 70, 55]])
FITS = ["crop", "letterbox", "stretch", "whole"]


def prepared(fit: str, train: bool = False, seed: int = 0) -> Transform:
    values = Preprocess(size=(48, 64), mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest", fit=fit)  # type: ignore[arg-type]
    return Transform(values, train, torch.Generator().manual_seed(seed))


def picture() -> tuple[np.ndarray, np.ndarray]:
    """100 x 80 pixels, white where the box is, and the mask of it."""
    mask = np.zeros((80, 100), np.uint8)
    mask[20:55, 30:70] = 1
    return np.repeat(mask[..., None] * 255, 3, 2), mask


def bounds(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("fit", FITS)
def test_a_box_stays_around_its_thing_and_comes_back(fit: str, train: bool) -> None:
    pixels, mask = picture()
    for seed in range(4 if train else 1):
        seen = prepared(fit, train, seed).place(pixels, BOX, mask)
        assert seen.boxes is not None and seen.mask is not None
        assert seen.x.shape[1:] == seen.mask.shape
        white = (seen.x > 0.9).all(0).numpy()
        np.testing.assert_array_equal(white, seen.mask.numpy() == 1)
        np.testing.assert_allclose(seen.boxes[0], bounds(white), atol=1.5)
        if not (train and fit == "crop"):  # a part of the picture alone
            np.testing.assert_allclose(seen.fit.boxes_back(seen.boxes.numpy())[0], BOX[0], atol=1e-3)
            back = seen.fit.map_back(seen.mask.numpy().astype(np.uint8))
            assert back.shape == mask.shape and (back == mask).mean() > 0.95


def test_the_transform_gives_what_is_placed() -> None:
    pixels, _ = picture()
    for fit in FITS:
        torch.testing.assert_close(prepared(fit).one(pixels), prepared(fit).place(pixels).x)


def test_a_whole_picture_keeps_its_pixels_and_repeats_its_last_ones() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (37, 50, 3)).astype(np.uint8)
    seen = prepared("whole").place(pixels)
    assert seen.x.shape == (3, 48, 64) and not any(side % MULTIPLE for side in seen.x.shape[1:])
    torch.testing.assert_close(seen.x[:, :37, :50], torch.from_numpy(pixels / 255.0).permute(2, 0, 1).float())
    torch.testing.assert_close(seen.x[:, 40], seen.x[:, 36])


def test_what_does_not_fit_is_refused() -> None:
    pixels, mask = picture()
    with pytest.raises(InputError, match=r"mask\n    expected a mask \(80, 100\)"):
        prepared("stretch").place(pixels, mask=mask[1:])
    bands = Transform(Preprocess(size=8, mean=(0.0,) * 5, std=(1.0,) * 5, channels=5))
    with pytest.raises(InputError, match="one of 5 bands"):
        bands.place(pixels)


def test_points_and_maps_move_with_the_picture_and_points_come_back() -> None:
    corners = np.array([[0.0, 0.0], [100.0, 80.0]])
    for fit in (letterbox((100, 80), (50, 50)), stretch((100, 80), (50, 50))._replace(mirrored=True)):
        moved = fit.points(corners)
        np.testing.assert_allclose(
            fit.boxes(corners.reshape(1, 4))[0], np.concatenate((moved.min(0), moved.max(0))), atol=1e-4
        )
        np.testing.assert_allclose(fit.points_back(moved), corners, atol=1e-3)
    values = np.zeros((80, 100), np.float32)
    values[:, :50] = 2.5
    seen = stretch((100, 80), (50, 50))._replace(mirrored=True).map(values)
    assert seen[:, :25].max() == 0 and seen[:, 25:].min() == 2.5


def test_planes_stand_behind_the_colours() -> None:
    step = Preprocess(size=8, mean=(0.5,) * 4, std=(0.5,) * 4, channels=4, planes=(1 / 255,), fit="stretch")
    pixels, _ = picture()
    seen = Transform(step).place(pixels).x
    assert seen.shape == (4, 8, 8)
    torch.testing.assert_close(seen[3], torch.full((8, 8), 1 / 127.5 - 1))
    torch.testing.assert_close(Transform(step).one(pixels), seen)
    assert step.fitted(3, 16).planes == ()
