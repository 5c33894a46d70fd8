"""The arithmetic of losses, and the inputs that they are measured on."""

from __future__ import annotations

import pathlib
import statistics

import pytest
import torch

import zoo
from zoo.runtimes.evidence import Evidence, evidence_for
from zoo.runtimes.loss import (
    DEFAULT_MAX_LOSS,
    ENOUGH,
    changed_answers,
    is_hopeless,
    natural_noise,
    paired_loss,
    relative_error,
)
from zoo.runtimes.net import signature_of


def right(*shares: tuple[bool, int]) -> torch.Tensor:
    """Answers: (right or not, how many in a row)."""
    return torch.tensor([value for value, count in shares for _ in range(count)])


def test_a_loss_is_what_was_right_and_is_wrong_less_what_was_wrong_and_is_right() -> None:
    before = right((True, 950), (False, 50))
    after = right((True, 940), (False, 10), (True, 4), (False, 46))
    loss = paired_loss(before, after, "pictures")
    assert loss.value == pytest.approx(0.006)
    assert loss.low < 0 < loss.value < loss.high < 0.02
    assert loss.sentence() == "0.60 points (-0.16 to 1.36) of 1,000 pictures"


def test_the_interval_of_a_paired_loss_holds_the_true_loss_nineteen_times_in_twenty() -> None:
    generator = torch.Generator().manual_seed(0)
    lost, gained, n, held = 0.02, 0.01, 1500, 0
    for _ in range(400):
        draw = torch.rand(n, generator=generator)
        before, after = draw >= gained, ~((draw >= gained) & (draw < gained + lost))
        loss = paired_loss(before, after, "pictures")
        held += loss.low <= lost - gained <= loss.high
    assert 0.92 <= held / 400 <= 0.98


def test_no_change_is_no_proof_of_no_loss() -> None:
    same = torch.ones(ENOUGH, dtype=torch.bool)
    few = torch.ones(300, dtype=torch.bool)
    assert 0 < paired_loss(same, same, "").high <= DEFAULT_MAX_LOSS < paired_loss(few, few, "").high
    answers = torch.zeros(ENOUGH)
    assert (
        changed_answers(answers, answers, "").high
        <= DEFAULT_MAX_LOSS
        < changed_answers(answers[1:500], answers[1:500], "").high
    )


def test_changed_answers_are_counted_whatever_is_right() -> None:
    loss = changed_answers(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 4, 3]), "inputs")
    assert loss.value == 0.5 and 0.1 < loss.low < 0.5 < loss.high < 0.9


def test_a_bound_that_cannot_hold_any_more_ends_the_count() -> None:
    assert not is_hopeless(0, 100, ENOUGH, DEFAULT_MAX_LOSS)
    assert is_hopeless(2, 100, ENOUGH, DEFAULT_MAX_LOSS)


def test_a_relative_error_is_a_mean_with_the_interval_of_a_mean() -> None:
    errors = torch.rand(100, generator=torch.Generator().manual_seed(0))
    loss = relative_error(errors, "inputs")
    assert loss.value == pytest.approx(statistics.fmean(errors.tolist()))
    assert loss.high - loss.value == pytest.approx(1.96 * statistics.stdev(errors.tolist()) / 10, rel=1e-3)


def test_drawn_pictures_have_natures_spectrum_and_are_normalised() -> None:
    pictures = natural_noise((64, 3, 48, 48), torch.Generator().manual_seed(0))
    assert pictures.shape == (64, 3, 48, 48)
    assert abs(float(pictures.mean())) < 0.15 and 0.8 < float(pictures.std()) < 1.2
    power = torch.fft.rfft2(pictures[:, 0]).abs().square().mean(0)[0]
    assert 2 < float(power[2:4].mean() / power[8:12].mean()) ** 0.5 < 8  # 1 / f: 2.5 to 10 is four times as far


def test_a_net_of_digits_is_tried_on_the_scans_that_it_was_not_trained_on() -> None:
    model = zoo.create("starnet_nano", pretrained=True)
    evidence = evidence_for(model, signature_of(model))
    assert evidence.size == 1795 and evidence.what == "labelled pictures: 359 scans in 5 positions"
    assert evidence.labels is not None
    with torch.inference_mode():
        answers = torch.cat([model(*x).argmax(-1) for x, _ in evidence.batches(359)])
    assert float((answers == evidence.labels).float().mean()) > 0.85


def test_a_net_without_data_is_tried_on_drawn_pictures_of_its_size() -> None:
    model = zoo.create("starnet_nano", img_size=48)
    evidence = evidence_for(model, signature_of(model))
    assert evidence.size == ENOUGH and evidence.labels is None
    (first,), _ = next(evidence.batches(8))
    assert first.shape == (8, 1, 48, 48) and torch.equal(first, *evidence.part(0, 8))


def test_a_model_of_bytes_is_tried_on_text() -> None:
    model = zoo.create("mamba_nano")
    evidence = evidence_for(model, signature_of(model))
    (first,), labels = next(evidence.batches(1))
    assert evidence.what == "held-out text" and labels is not None and torch.equal(labels, first[:, 1:])
    assert first.shape == (1, 128) and bytes(first[0].tolist()).decode(errors="replace").isprintable() is not None


def test_pictures_in_folders_called_like_classes_are_labelled(tmp_path: pathlib.Path) -> None:
    from PIL import Image

    for label, endings in (("3", (".png", ".TIF")), ("7", (".pgm",))):
        (tmp_path / label).mkdir()
        for ending in endings:
            Image.new("L", (20, 20)).save(tmp_path / label / f"scan{ending}")
    model = zoo.create("starnet_nano", pretrained=True)
    evidence = evidence_for(model, signature_of(model), tmp_path)
    assert evidence.labels is not None and evidence.labels.tolist() == [3, 3, 7]
    assert evidence.part(0, 3)[0].shape == (3, 1, 32, 32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(600, 3, 32, 32), "expected a folder, or a tensor (any, 1, 32, 32)"),
        (torch.zeros(60, 1, 32, 32), "expected at least 500 inputs without labels; found 60"),
        ((torch.zeros(60, 1, 32, 32), torch.zeros(60)), "expected whole numbers (60,)"),
        ([1, 2, 3], "found a list"),
        ("nowhere", "none in nowhere"),
    ],
)  # fmt: skip
def test_data_that_say_nothing_are_refused(data: object, message: str) -> None:
    model = zoo.create("starnet_nano")
    with pytest.raises(zoo.InputError) as caught:
        evidence_for(model, signature_of(model), data)
    assert message in str(caught.value)


def test_inputs_left_over_at_the_end_are_not_used() -> None:
    evidence = Evidence(10, lambda start, stop: (torch.arange(start, stop),), torch.arange(10), "numbers")
    parts = [(x.tolist(), None if y is None else y.tolist()) for (x,), y in evidence.batches(4)]
    assert parts == [([0, 1, 2, 3], [0, 1, 2, 3]), ([4, 5, 6, 7], [4, 5, 6, 7])]
