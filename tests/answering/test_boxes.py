"""Boxes: what two share, which are picked, what is done to an anchor; against loops that say the same box by box."""

from __future__ import annotations

import pytest
import torch

import zoo
from blocks.heads.boxes import AnchorBoxes, AnchorScores
from blocks.heads.centre_boxes import CentreBoxes, PeakScores
from blocks.heads.default_boxes import DefaultScores
from zoo.answering import boxes
from zoo.answering.answers import Answering
from zoo.training.task_losses import encoded, generalised_overlap


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 4) boxes in 100 pixels, many of which overlap."""
    first = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 60
    return torch.cat(
        [first, first + 10 + 30 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1))], 1
    )


def shared(one: list[float], other: list[float]) -> float:
    """The area of both over that of either, of two boxes."""
    width, height = (max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def picked(rows: list[tuple[float, int, list[float]]], overlap: float) -> list[tuple[float, int, list[float]]]:
    """Greedy suppression of (score, class, box), one after the other."""
    kept: list[tuple[float, int, list[float]]] = []
    for score, kind, box in sorted(rows, key=lambda row: -row[0]):
        if all(other != kind or shared(box, best) <= overlap for _, other, best in kept):
            kept.append((score, kind, box))
    return kept


def test_the_shared_area_is_that_of_a_loop() -> None:
    one, other = drawn(40), drawn(30, 5)
    expected = [[shared(a, b) for b in other.tolist()] for a in one.tolist()]
    torch.testing.assert_close(boxes.shared(one, other), torch.tensor(expected))
    centred = torch.cat(((one[:, :2] + one[:, 2:]) / 2, one[:, 2:] - one[:, :2]), 1)
    torch.testing.assert_close(boxes.corners(centred), one)
    assert boxes.shared(one[:1] * 0, one[:2]).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_picked_boxes_are_those_that_greedy_suppression_keeps(seed: int) -> None:
    places, scores = drawn(200, seed), torch.rand(3, 200, generator=torch.Generator().manual_seed(seed))
    found, sure, kinds = boxes.pick(places[None], scores[None], overlap=0.4, least=0.2, most=50, candidates=600)
    rows = [(scores[c, p].item(), c, places[p].tolist()) for c in range(3) for p in range(200) if scores[c, p] >= 0.2]
    kept = picked(rows, 0.4)
    assert len(kept) > 50
    torch.testing.assert_close(found[0], torch.tensor([box for _, _, box in kept[:50]]))
    torch.testing.assert_close(sure[0], torch.tensor([score for score, _, _ in kept[:50]]))
    assert kinds[0].tolist() == [kind for _, kind, _ in kept[:50]]


def test_rows_without_a_box_have_score_zero_and_pictures_know_nothing_of_each_other() -> None:
    places, scores = drawn(6)[None].expand(2, -1, -1), torch.zeros(2, 1, 6)
    scores[1, 0, 2] = 0.9
    found, sure, _ = boxes.pick(places, scores)
    assert sure[0].count_nonzero() == 0 and sure[1].count_nonzero() == 1
    torch.testing.assert_close(found[1, 0], places[1, 2])


def test_an_anchor_is_moved_and_stretched_as_the_formula_says() -> None:
    ratios = ((1.0, 1.0), (2.0, 0.5))
    decoder = AnchorBoxes((16, 16), strides=(8, 16), size=4.0, scales=(1.0, 1.5), ratios=ratios, corners=True)
    levels = [torch.randn(2, 16, 2, 3) * 0.3, torch.randn(2, 16, 1, 2) * 0.3]
    expected = []
    for level, stride in zip(levels, (8, 16), strict=True):
        for row in range(level.shape[2]):
            for column in range(level.shape[3]):
                for a, (scale, ratio) in enumerate((s, r) for s in (1.0, 1.5) for r in ratios):
                    ty, tx, th, tw = level[1, 4 * a : 4 * a + 4, row, column].tolist()
                    w, h = (4 * stride * scale * side for side in ratio)
                    x, y = tx * w + (column + 0.5) * stride, ty * h + (row + 0.5) * stride
                    w, h = w * torch.tensor(tw).exp(), h * torch.tensor(th).exp()
                    expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    torch.testing.assert_close(decoder(*levels)[1].T, torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_what_an_anchor_is_to_learn_makes_it_the_box() -> None:
    decoder, these = AnchorBoxes((36,), strides=(8,), corners=True), drawn(36)
    moves = encoded(these, decoder.anchors([torch.zeros(1, 36, 2, 2)]).T)
    level = moves.view(2, 2, 9, 4).permute(2, 3, 0, 1).reshape(1, 36, 2, 2)
    torch.testing.assert_close(decoder(level)[0].T, these, rtol=1e-4, atol=1e-3)


def test_scores_stand_in_the_order_of_their_anchors() -> None:
    level = torch.arange(12.0).view(1, 6, 1, 2) / 10
    found = AnchorScores((6,), per=3)(level)
    assert found.shape == (1, 2, 6)
    torch.testing.assert_close(found[0, 1, :3], level[0, [1, 3, 5], 0, 0].sigmoid())
    with pytest.raises(ValueError, match="7 channels are not those of 3 anchors"):
        AnchorScores((7,), per=3)


def test_a_pixel_tells_the_boxes_whose_middle_it_has() -> None:
    sizes, offsets = 4 * torch.rand(2, 4, 3, 5), torch.rand(2, 4, 3, 5)
    found, expected = CentreBoxes((4, 4), stride=4)(sizes, offsets)[1], []
    for k in range(2):
        for y in range(3):
            for x in range(5):
                (w, h), (dx, dy) = (m[1, 2 * k : 2 * k + 2, y, x].tolist() for m in (sizes, offsets))
                expected.append(
                    [4 * (x + dx - w / 2), 4 * (y + dy - h / 2), 4 * (x + dx + w / 2), 4 * (y + dy + h / 2)]
                )
    torch.testing.assert_close(found.T, torch.tensor(expected), rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="here come 2, 4"):
        CentreBoxes((2, 4))


def test_only_peaks_have_a_score() -> None:
    x = torch.randn(1, 3, 6, 7)
    found = PeakScores((3,))(x).view(3, 6, 7)
    for c, y, column in ((c, y, column) for c in range(3) for y in range(6) for column in range(7)):
        around = x[0, c, max(0, y - 1) : y + 2, max(0, column - 1) : column + 2]
        own = x[0, c, y, column]
        assert float(found[c, y, column]) == pytest.approx(float(own.sigmoid()) if own == around.max() else 0)


def test_the_ground_beside_the_classes_has_no_score() -> None:
    level = torch.arange(18.0).view(1, 9, 1, 2) / 10
    found = DefaultScores((9,), per=(3,))(level)
    assert found.shape == (1, 2, 6)
    torch.testing.assert_close(found[0, 1, :3], level[0, [2, 5, 8], 0, 0].sigmoid())
    with pytest.raises(ValueError, match="8 channels are not those of 3 boxes"):
        DefaultScores((8,), per=(3,))


@pytest.mark.parametrize("name", ["efficientdet_nano", "codenet_nano", "mobiledet_nano"])
def test_a_detector_answers_boxes_in_the_pixels_of_the_picture(name: str) -> None:
    net = zoo.create(name)
    with torch.no_grad():
        found = Answering(net, least=0.0)(torch.rand(2, 3, 128, 128))
    assert found["boxes"].shape == (2, 100, 4) and found["classes"].max() < 4
    assert (found["scores"] > 0).any()


def test_where_scores_are_peaks_no_box_is_a_double() -> None:
    assert Answering(zoo.create("codenet_nano")).picking == {"overlap": 1.0}
    assert Answering(zoo.create("efficientdet_nano"), overlap=0.6).picking == {"overlap": 0.6}


def test_the_overlap_of_boxes_that_do_not_meet_tells_how_far_they_are_apart() -> None:
    one = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4)
    other = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [60, 0, 70, 10]])
    same, near, far = generalised_overlap(one, other).tolist()
    assert same == pytest.approx(1.0) and near == pytest.approx(-1 / 3) and far < near
