"""Joints and lines come back out of maps that were drawn of them, and persons are told apart by their tags."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from zoo.answering.answers import Answering, joint_maps
from zoo.answering.outputs import output_of
from zoo.answering.points import joints, lines, peaks, persons
from zoo.data.fitting import letterbox
from zoo.data.given import given
from zoo.data.persons import JOINTS
from zoo.errors import InputError
from zoo.training.point_losses import JOINT_SIGMA, hills, on_joints, on_lines, ordered

SIDE = (64, 64)


def maps_of(people: np.ndarray, tags: np.ndarray) -> dict[str, torch.Tensor]:
    """What a net that knows all joints (N, J, 2) gives, with a tag for each person."""
    where, J = torch.from_numpy(people), people.shape[1]
    coarse, fine = (
        torch.stack([hills(where[:, j] / step, (64 // step, 64 // step), JOINT_SIGMA) for j in range(J)])
        for step in (4, 2)
    )
    told = torch.zeros(J, 16, 16)
    for own, tag in zip(people, tags, strict=True):
        for j, (x, y) in enumerate(own):
            told[j, max(0, int(y / 4) - 1) : int(y / 4) + 2, max(0, int(x / 4) - 1) : int(x / 4) + 2] = float(tag)
    return {"out0": torch.cat((coarse, told))[None], "out1": fine[None]}


def two_persons() -> np.ndarray:
    """The joints of a scene with two whose joints of a kind lie at different places."""
    return next(g.wanted for g in (given(n, 64, "pose-estimation") for n in range(20)) if len(g.wanted) == 2)


def test_persons_come_back_out_of_their_maps() -> None:
    people = two_persons()
    outputs = maps_of(people, np.array([-2.0, 2.0]))
    found = persons(joints(*joint_maps(outputs), SIDE)[0].numpy(), least=0.5)
    assert found.shape == (2, len(JOINTS), 3)
    found = found[found[:, :, 0].mean(1).argsort()]
    people = people[people[:, :, 0].mean(1).argsort()]
    assert (np.abs(found[:, :, :2] - people).max(-1) < 1.5).all()
    assert (found[:, :, 2] > 0.5).all()


def test_joints_of_like_tags_are_one_persons_and_of_unlike_ones_two() -> None:
    peaks_of = np.zeros((2, 2, 4), np.float32)
    peaks_of[0] = [(10, 10, 0.9, 0.0), (40, 10, 0.8, 3.0)]
    peaks_of[1] = [(41, 30, 0.7, 2.8), (11, 30, 0.6, 0.3)]
    found = persons(peaks_of)
    assert found[:, :, 0].tolist() == [[10, 11], [40, 41]]
    peaks_of[1, :, 3] = 9.0
    assert len(persons(peaks_of)) == 4
    assert persons(np.zeros((2, 0, 4), np.float32)).shape == (0, 2, 3)


def test_a_line_comes_back_out_of_its_maps() -> None:
    ends = torch.tensor([[[10.0, 50.0], [50.0, 20.0]]])
    maps = torch.full((1, 9, 32, 32), -9.0)
    maps[0, 0, 17, 15] = 9.0
    maps[0, 1:5, 17, 15] = torch.tensor([-10.0, 8.0, 10.0, -7.0])
    found, scores = lines(maps, SIDE)
    assert found.shape == (1, 200, 4) and scores[0, 0] > 0.99 and scores[0, 1] < 0.01
    assert found[0, 0].tolist() == [10.0, 50.0, 50.0, 20.0]
    wrong = maps.clone()
    wrong[0, 3, 17, 15] += 3
    assert on_lines(maps, [ends], SIDE) < on_lines(wrong, [ends], SIDE)
    assert torch.equal(ordered(ends.flip(1)), ends)
    assert torch.isfinite(on_lines(maps, [torch.zeros(0, 2, 2)], SIDE))


def test_the_loss_of_joints_is_least_where_the_maps_are_right() -> None:
    people = two_persons()
    right, alike = maps_of(people, np.array([-2.0, 2.0])), maps_of(people, np.array([0.0, 0.0]))
    truth = [torch.from_numpy(people)]
    assert on_joints(right, truth, SIDE) < 1e-6 < on_joints(alike, truth, SIDE)
    moved = right | {"out1": right["out1"].roll(2, -1)}
    assert on_joints(right, truth, SIDE) < on_joints(moved, truth, SIDE)


def test_peaks_are_the_highest_around() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 2, 3], maps[0, 0, 2, 4], maps[0, 0, 6, 6] = 1.0, 0.9, 0.5
    values, places = peaks(maps, 2, 3)
    assert values[0, 0].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert places[0, 0, :2].tolist() == [2 * 8 + 3, 6 * 8 + 6]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("litepose_nano", {"peaks": (2, 17, 30, 4)}),
        ("mlsd_nano", {"lines": (2, 200, 4), "scores": (2, 200)}),
        ("idisc_nano", {"depth": (2, 64, 96)}),
    ],
)
def test_answers_have_one_shape_for_all_pictures(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    net = zoo.create(name)
    with torch.no_grad():
        answer = Answering(net.eval())(torch.randn(2, net.spec.input.channels, 64, 96))
    assert {key: tuple(y.shape) for key, y in answer.items()} == shapes


def test_joints_and_lines_lie_in_the_pixels_of_the_picture() -> None:
    fit = letterbox((128, 64), SIDE)  # half as large, 16 rows of grey above
    line = {"lines": torch.tensor([[0.0, 16, 64, 48], [1, 1, 2, 2]]), "scores": torch.tensor([0.9, 0.1])}
    told = output_of("line-detection", line, fit, least=0.3).plain()
    assert told == {"lines": [{"score": 0.9, "ends": [0, 0, 128, 64]}]}
    spots = torch.zeros(17, 1, 4)
    spots[:, 0] = torch.tensor([32.0, 32, 0.8, 0])
    (person,) = output_of("pose-estimation", {"peaks": spots}, fit, JOINTS, 0.3).plain()["persons"]
    assert person["joints"][0] == {"label": "nose", "index": 0, "x": 64.0, "y": 32.0, "score": 0.8}


def test_a_net_without_maps_of_two_sizes_is_refused() -> None:
    with pytest.raises(InputError, match="`out0`, maps of joints and tags"):
        joint_maps({"out0": torch.zeros(1, 4, 8, 8), "out1": torch.zeros(1, 3, 16, 16)})
