"""No convolution that a registered model trains ends its process or has a gradient other than that of float64."""

from __future__ import annotations

import pytest

from tests.convolutions import PER_PROCESS, collected, shapes_of, tried, tried_maps

POINTWISE = [3, 8, [1, 1], [2, 2], [0, 0], [1, 1], 1]


@pytest.mark.parametrize(
    "shape, maps",
    [
        ([*POINTWISE, [[224, 224]]], [(1, 1), (1, 13), (2, 2), (3, 3), (4, 4), (13, 1), (112, 112)]),
        ([*POINTWISE, [[64, 48], [3, 3]]], [(1, 1), (1, 13), (2, 2), (3, 3), (4, 4), (13, 1), (64, 48)]),
        ([8, 8, [7, 7], [1, 1], [3, 3], [1, 1], 8, [[2, 2]]], [(1, 1), (2, 2), (3, 3)]),
        ([8, 8, [5, 5], [1, 1], [0, 0], [1, 1], 8, [[9, 9]]], [(9, 9)]),
        ([8, 8, [3, 3], [2, 2], [0, 0], [1, 1], 1, [[9, 9]]], [(3, 3), (3, 13), (4, 4), (9, 9), (13, 3)]),
        ([8, 8, [2, 2], [1, 1], "same", [1, 1], 8, [[9, 9]]], [(1, 1), (2, 2), (3, 3), (9, 9)]),
        ([4096, 4096, [3, 3], [1, 1], [1, 1], [1, 1], 1, [[14, 14]]], [(1, 1), (2, 2), (3, 3)]),
        ([8, 8, [4], [1], [0], [1], 8, [[17]]], [(17,)]),
        ([8, 8, [4], [1], [3], [1], 8, [[17], [300]]], [(1,), (2,), (3,), (17,), (75,)]),
    ],
)
def test_maps_fit_their_kernels_and_the_bounds_of_work(shape, maps):
    assert tried_maps(shape) == maps


def test_each_convolution_of_a_model_is_noted_with_its_map():
    assert shapes_of("starnet_nano")[0] == [1, 16, [3, 3], [1, 1], [1, 1], [1, 1], 1, [[32, 32]]]


def test_convolutions_that_are_called_as_functions_are_noted_too():
    assert [64, 64, [1, 1], [1, 1], [0, 0], [1, 1], 64, [[56, 56]]] in shapes_of("riformer_s12")


def test_convolutions_of_sequences_are_noted():
    assert [128, 128, [4], [1], [3], [1], 128, [[128]]] in shapes_of("mamba_nano")


@pytest.mark.slow
def test_the_shape_that_killed_the_process_is_right():
    shape = [3, 48, [1, 1], [2, 2], [0, 0], [1, 1], 1, [[64, 64]]]
    assert list(tried([shape])) == [(shape, [])]


@pytest.mark.slow
def test_far_steps_with_a_border_which_wrote_outside_of_memory_are_right():
    shape = [8, 8, [7, 7], [7, 7], [3, 3], [1, 1], 1, [[8, 14]]]
    assert list(tried([shape])) == [(shape, [])]


@pytest.mark.slow
def test_a_dilated_depthwise_shape_whose_gradient_was_not_written_is_right():
    shape = [12, 12, [5, 5], [1, 1], [4, 4], [2, 2], 12, [[56, 56]]]
    assert list(tried([shape])) == [(shape, [])]


def test_a_convolution_of_sequences_is_right():
    shape = [12, 12, [4], [1], [3], [1], 12, [[17]]]
    assert list(tried([shape])) == [(shape, [])]


@pytest.mark.slow
def test_gradients_of_all_convolutions_equal_those_of_float64():
    shapes = list(collected())
    batches = [shapes[begin : begin + PER_PROCESS] for begin in range(0, len(shapes), PER_PROCESS)]
    wrong = [(shape, faults) for batch in batches for shape, faults in tried(batch) if faults]
    assert shapes and not wrong
