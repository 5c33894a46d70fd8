"""Scenes: the same number gives the same scene, and what is told of one holds."""

from __future__ import annotations

import hashlib

import numpy as np

from zoo.data.scenes import HELD_OUT, MOST_THINGS, THINGS, given, noisy, scene, scenes, small


def test_a_scene_follows_from_its_number_alone() -> None:
    one, again, other = scene(5, 64), scene(5, 64), scene(6, 64)
    np.testing.assert_array_equal(one.picture, again.picture)
    assert (one.picture != other.picture).any()
    shown = hashlib.sha256(b"".join(each.mask.tobytes() for each in scenes(20))).hexdigest()
    assert shown == MASKS, "published weights were judged on other scenes"


MASKS = "d118643bdc997df05b6bb981022a8e5c2009b4a638bdb1c6154c0af0891f305f"
"""Of the masks of the first twenty held-out scenes: no release of numpy may change them."""


def test_boxes_lie_around_what_the_mask_shows() -> None:
    kinds = set()
    for each in scenes(60, 96):
        assert len(each.boxes) == len(each.classes) <= MOST_THINGS
        kinds |= set(each.classes.tolist())
        rows, columns = np.nonzero(each.mask)
        for row, column in zip(rows[::7], columns[::7], strict=True):
            kind = each.mask[row, column] - 1
            x1, y1, x2, y2 = each.boxes[each.classes == kind].T
            assert ((x1 <= column) & (column < x2) & (y1 <= row) & (row < y2)).any()
    assert kinds == set(range(len(THINGS)))


def test_small_and_noisy_pictures_are_of_the_same_scene() -> None:
    plain = scene(HELD_OUT, 64).picture
    assert small(plain, 2).shape == (32, 32, 3)
    noise = noisy(plain, HELD_OUT).astype(float) - plain
    assert 15 < noise.std() < 27
    assert given(3, 65, "super-resolution", 2).wanted.shape == (64, 64, 3)
    np.testing.assert_array_equal(given(3, 64, "image-restoration").picture, noisy(scene(3, 64).picture, 3))
