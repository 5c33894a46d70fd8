"""Nets for tasks learn on scenes: the same seed gives the same weights, the loss falls, gradients reach what is learned."""

from __future__ import annotations

import msgspec
import pytest
import torch

import zoo
import zoo.training.scenes as room
from blocks.context import Context
from blocks.heads.boxes import centres
from zoo.answering.boxes import shared
from zoo.data.scenes import THINGS, scene
from zoo.data.transforms import Transform
from zoo.errors import InputError
from zoo.evaluating.scenes import METRICS, judge
from zoo.training.scenes import SceneRecipe, batches, fit_scenes, labels_of, manifest_of, preprocess_for, train_scenes
from zoo.training.task_losses import ALIKE, assigned, spread, task_loss

SHORT = SceneRecipe(steps=3, scenes=8, batch_size=4)
NETS = [
    "retinanet_nano",
    "efficientdet_nano",
    "mobiledet_nano",
    "codenet_nano",
    "gelan_nano",
    "fpn_nano",
    "u2net_nano",
    "pan_nano",
    "litepose_nano",
    "mlsd_nano",
    "idisc_nano",
    "movinet_nano",
]


def first_batch(name: str) -> tuple[object, object]:
    net = zoo.create(name)
    return net, next(batches(net, preprocess_for(net), SHORT))


@pytest.mark.parametrize("name", NETS)
def test_a_loss_reaches_every_parameter_that_is_trained(name: str) -> None:
    net, batch = first_batch(name)
    task_loss(net)(net.train(), batch, Context()).backward()  # type: ignore[attr-defined, arg-type]
    silent = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]  # type: ignore[attr-defined]
    assert not silent


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    other = msgspec.structs.replace(SHORT, seed=1)
    one, again, another = (train_scenes("fpn_nano", recipe).model.state_dict() for recipe in (SHORT, SHORT, other))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], another[key]) for key in one)


def test_a_net_learns_from_a_few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TOLD_EVERY", 5)
    losses: list[float] = []
    recipe = SceneRecipe(steps=40, scenes=4, batch_size=4)
    torch.manual_seed(0)
    net = zoo.create("gelan_nano")
    result = fit_scenes(net, recipe, lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < 0.95 * losses[0]
    manifest = manifest_of("gelan_nano", result, recipe)
    assert manifest.labels == THINGS == labels_of(net)
    assert manifest.recipe == "zoo train scenes gelan_nano --steps 40"


def test_pixels_near_the_middle_of_a_box_stand_for_it_on_the_level_of_its_size() -> None:
    places, steps = centres([torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in (8, 16)], (8, 16), 0.5)
    points = (places * steps).T
    small, large = [10.0, 10, 30, 30], [4.0, 4, 60, 60]
    which, stands = assigned(points, steps, torch.tensor([small, large]))
    assert set(steps[stands & (which == 0)].tolist()) == {8}
    assert set(steps[stands & (which == 1)].tolist()) == {16}
    assert ((points[stands & (which == 0)] - 20).abs() <= 12).all()


def test_corners_that_are_off_by_the_radius_of_a_middle_leave_a_box_that_shares_enough() -> None:
    w, h = 40.0, 24.0
    radius = 3 * (float(spread(torch.tensor([w, h]))) - 1 / 6)
    own = torch.tensor([[0.0, 0, w, h]])
    for first, last in ((1, -1), (-1, 1), (1, 1)):  # within, outside, one of each
        off = torch.tensor([[first, first, last, last]]) * radius
        assert float(shared(own, own + off)) >= ALIKE - 1e-5
    shares = [float(shared(own, own + torch.tensor([[a, a, b, b]]) * radius)) for a, b in ((1, -1), (-1, 1), (1, 1))]
    assert min(shares) == pytest.approx(ALIKE, abs=1e-4)


def test_what_scenes_cannot_teach_is_refused() -> None:
    with pytest.raises(InputError, match="one for image-classification"):
        train_scenes("starnet_nano", SHORT)
    with pytest.raises(InputError, match="at least 4, the things in scenes"):
        fit_scenes(zoo.create("gelan_nano", num_classes=2), SHORT)
    assert len(scene(0).boxes) > 0


@pytest.mark.parametrize("name", ["pan_nano", "unet_nano", "litepose_nano", "mlsd_nano", "idisc_nano", "movinet_nano"])
def test_a_net_is_judged_on_scenes_of_its_task(name: str) -> None:
    net = zoo.create(name)
    figures = judge(net, Transform(preprocess_for(net)), count=2)
    assert set(figures) == set(METRICS[net.spec.family.task])
