"""The digits trainer: it learns, repeats itself under a seed, and publishes what can be read back."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from blocks.context import Context
from zoo import catalog
from zoo.catalog import index
from zoo.catalog.collection import Collection
from zoo.data import digits
from zoo.errors import InputError
from zoo.training import digits as training
from zoo.training.digits import Recipe, Result, fit
from zoo.training.loop import rate_factor
from zoo.weights.manifest import read_manifest
from zoo.weights.probe import check_probe
from zoo.weights.stats import wilson_interval
from zoo.weights.verify import sha256_of

QUICK = Recipe(epochs=1)


class Small(nn.Module):
    """Two convolutions and a classifier; `aside` is reached by an auxiliary loss alone."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 4, 4), nn.GELU(), nn.BatchNorm2d(16), nn.Conv2d(16, 48, 3, 2), nn.GELU(), nn.Flatten()
        )
        self.head = nn.Linear(432, 10)
        self.aside = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None:
            ctx.losses["aside"] = {"square": self.aside.square()}
        return self.head(self.body(x))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training set of 256 scans, where what is learned does not matter."""
    images, labels = digits.training_set()
    monkeypatch.setattr(digits, "training_set", lambda: (images[:256], labels[:256]))


def test_a_small_network_learns_the_digits() -> None:
    losses: list[float] = []
    result = fit(Small(), Recipe(epochs=6, lr=5e-3), lambda epoch, epochs, loss: losses.append(loss))
    assert result.accuracy > 0.9
    assert losses[-1] < losses[0]
    assert (result.n, result.accuracy) == (359, result.correct / 359)
    assert result.ci95 == wilson_interval(result.correct, result.n)


@pytest.mark.usefixtures("few")
def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (fit(Small(), Recipe(epochs=1, seed=seed)).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.usefixtures("few")
def test_auxiliary_losses_are_added_to_the_loss() -> None:
    assert fit(Small(), QUICK).model.aside.item() < 1.0


@pytest.mark.usefixtures("few")
def test_the_trained_model_is_handed_back_in_eval_mode() -> None:
    assert not any(module.training for module in fit(Small(), QUICK).model.modules())


def test_only_matrices_decay() -> None:
    model = Small()
    decayed, free = training._groups(model, training.Recipe(weight_decay=0.05))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(p) for p in model.parameters() if p.ndim > 1}
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [rate_factor(step, 100, 0.1) for step in range(101)]
    assert rates[:10] == [(step + 1) / 10 for step in range(10)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def test_images_without_augmentation_are_not_changed() -> None:
    x = digits.to_input(digits.held_out()[0][:4])
    still = Recipe(still=1.0)
    torch.testing.assert_close(training._moved(x, still, torch.Generator()), x, rtol=0, atol=1e-5)


def test_published_weights_are_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    model = zoo.create("gmlp_nano")
    result = Result(model, 350, 359, wilson_interval(350, 359), 1.0)
    with monkeypatch.context() as elsewhere:
        for place in (catalog, index):
            elsewhere.setattr(place, "home_of", lambda name: Collection("", tmp_path, "blockzoo"))
        training.publish("gmlp_nano", result, Recipe(seed=5))
    manifest = read_manifest(tmp_path / "weights" / "gmlp_nano.digits.json")
    weights = tmp_path / "weights" / "gmlp_nano.digits.safetensors"
    metric = manifest.metrics["digits/top1@32"]
    assert (manifest.digest, manifest.size_bytes) == (model.digest, weights.stat().st_size)
    assert manifest.sha256 == sha256_of(weights, use_stamps=False)
    assert (metric.correct, metric.n, metric.seed) == (350, 359, 5)
    assert metric.ci95 == wilson_interval(350, 359)
    check_probe(zoo.create("gmlp_nano", weights=weights), manifest.probe, "gmlp_nano")


def test_without_scikit_learn_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r'found no such package; next: pip install "blockzoo\[train\]"'):
        digits.training_set()


def test_the_held_out_scans_need_no_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    images, labels = digits.held_out()
    assert images.shape == (359, 8, 8)
    assert labels.shape == (359,)


def test_a_progress_call_follows_each_epoch(few: Any) -> None:
    calls: list[tuple[int, int]] = []
    fit(Small(), Recipe(epochs=2), lambda epoch, epochs, loss: calls.append((epoch, epochs)))
    assert calls == [(1, 2), (2, 2)]


def test_scans_are_enlarged_in_every_way_of_the_recipe() -> None:
    images = digits.held_out()[0][:4]
    smooth, _, blocky = training._enlarged(images, Recipe().upscaling)
    torch.testing.assert_close(smooth, digits.to_input(images))
    assert torch.equal(blocky[..., ::4, ::4], blocky[..., 3::4, 3::4])
