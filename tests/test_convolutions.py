"""No convolution that a registered model trains ends its process or has a gradient other than that of float64."""

from __future__ import annotations

import pytest

from tests.convolutions import PER_PROCESS, collected, maps, tried


def test_maps_fit_their_kernels():
    assert list(maps([3, 8, [1, 1], [2, 2], [0, 0], [1, 1], 1, [224, 224]])) == [(1, 1), (2, 2), (3, 3), (112, 112)]
    assert list(maps([8, 8, [7, 7], [1, 1], [3, 3], [1, 1], 8, [2, 2]])) == [(1, 1), (2, 2), (3, 3)]
    assert list(maps([8, 8, [5, 5], [1, 1], [0, 0], [1, 1], 8, [9, 9]])) == [(9, 9)]


@pytest.mark.slow
def test_the_shape_that_killed_the_process_is_right():
    shape = [3, 48, [1, 1], [2, 2], [0, 0], [1, 1], 1, [64, 64]]
    assert list(tried([shape])) == [(shape, [])]


@pytest.mark.slow
def test_gradients_of_all_convolutions_equal_those_of_float64():
    shapes = collected()
    batches = [shapes[begin : begin + PER_PROCESS] for begin in range(0, len(shapes), PER_PROCESS)]
    wrong = [(shape, found) for batch in batches for shape, found in tried(batch) if found]
    assert shapes and not wrong
