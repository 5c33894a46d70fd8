"""The parts of a training on pictures: order, randomness, losses, adapters, norms."""

from __future__ import annotations

import pathlib
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from blocks.context import Context
from tests.training import shades
from zoo.data.folders import labelled
from zoo.data.labelled import split
from zoo.errors import InputError
from zoo.training import adapters
from zoo.training.augmentation import Augmented
from zoo.training.batches import Order, Pictures, Share, balanced_weights, loader, targets_of
from zoo.training.freezing import freeze
from zoo.training.judging import rows_of
from zoo.training.objectives import Objective, class_weights
from zoo.training.optimizers import optimizer_of
from zoo.training.recipe import Augment, Loss, Optimizer
from zoo.training.state import Facts, load_state, save_state
from zoo.weights.manifest import Preprocess

GREY = Preprocess(size=16, mean=(0.5,), std=(0.5,), channels=1)
STRONG = Augment(randaugment="rand-m7-mstd0.5", erasing=0.5, vflip=0.5)


@pytest.fixture
def pictures(tmp_path: pathlib.Path) -> Pictures:
    data = split(labelled(shades.folder(tmp_path)), 0.25)
    examples = data.parts["train"]
    return Pictures(examples, targets_of(examples, data.task, 2), Augmented(GREY, STRONG))


def test_a_run_that_goes_on_sees_what_it_would_have_seen() -> None:
    order = Order(50, 8, seed=3)
    whole = list(order.steps(0, 18))
    assert list(order.steps(7, 18)) == whole[7:]
    assert sorted(row for step in whole[:6] for _, row in step) != list(range(48))
    assert len({row for step in whole[:6] for _, row in step}) == 48


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (17, 1), (17, 2), (16, 3), (3, 4)])
def test_processes_judge_all_pictures_in_turns_and_equally_often(count: int, processes: int) -> None:
    shares = [rows_of(count, 4, Share(rank, processes)) for rank in range(processes)]
    seen = [row for turn in zip(*shares, strict=True) for rows in turn for row in rows]
    assert seen[:count] == list(range(count)) and not any(seen[count:])


def test_a_step_in_one_call_is_the_step_of_each_tensor() -> None:
    nets = [nn.Linear(3, 5) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    fused, single = (optimizer_of(net, None, Optimizer(lr=1e-2)) for net in nets)
    for group in single.param_groups:
        group["fused"] = None
    for _ in range(3):
        for net, optimizer in zip(nets, (fused, single), strict=True):
            optimizer.zero_grad()
            net(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(nets[0].weight, nets[1].weight)


def test_processes_and_parts_share_each_batch(pictures: Pictures) -> None:
    order = Order(18, 8, seed=0)
    whole = [x for x, _ in loader(pictures, order, 0, 3)]
    for processes, accumulate in ((2, 1), (1, 4), (2, 2)):
        shares = [loader(pictures, order, 0, 3, Share(rank, processes, accumulate)) for rank in range(processes)]
        parts = [[x for x, _ in share] for share in shares]
        for step, batch in enumerate(whole):
            mine = [part[step * accumulate + i] for part in parts for i in range(accumulate)]
            assert torch.equal(torch.cat(mine), batch)


def test_a_picture_is_the_same_in_a_worker_and_moves_no_generator(pictures: Pictures) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index, union-attr]
    here = torch.stack([pictures[2, i][0] for i in range(8)])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]  # type: ignore[index, union-attr]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.equal(here, torch.stack([pictures[2, i][0] for i in range(8)]))
    assert not torch.equal(here, torch.stack([pictures[3, i][0] for i in range(8)]))


def test_pictures_reach_workers_that_begin_anew(pictures: Pictures) -> None:
    assert torch.equal(pickle.loads(pickle.dumps(pictures))[1, 2][0], pictures[1, 2][0])


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "adafactorbv", "nadamw", "muon", "adopt"])
def test_what_an_optimiser_remembers_comes_back(name: str, tmp_path: pathlib.Path) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))
        return net, optimizer_of(net, None, Optimizer(name=name, lr=1e-2))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            optimizer.zero_grad()
            net(torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
            optimizer.step()

    whole, broken, again = made(), made(), made()
    steps(*whole, range(6))
    steps(*broken, range(3))
    save_state(tmp_path / "state.safetensors", Facts("x", step=3), broken[0], None, broken[1])
    assert load_state(tmp_path / "state.safetensors", again[0], None, again[1]).step == 3
    steps(*again, range(3, 6))
    for key, value in whole[0].state_dict().items():
        assert torch.equal(again[0].state_dict()[key], value)


def test_balanced_draws_have_each_class_as_often(tmp_path: pathlib.Path) -> None:
    data = labelled(shades.folder(tmp_path, 20))
    rare = [one for i, one in enumerate(data.parts[""]) if one.target == 0 or i % 5 == 0]
    weights = balanced_weights(rare, 2)
    drawn = [row for step in Order(len(rare), 4, 0, weights).steps(0, 300) for _, row in step]
    assert 0.45 < np.mean([rare[row].target for row in drawn]) < 0.55


def test_a_batch_in_parts_has_the_loss_of_the_whole() -> None:
    objective = Objective("classification", Loss(label_smoothing=0.1), class_weights([30, 10, 2], "classification"))
    logits, targets = torch.randn(12, 3, dtype=torch.float64), torch.randint(3, (12,))
    parts = [objective.of(x, y) for x, y in zip(logits.split(3), targets.split(3), strict=True)]
    torch.testing.assert_close(sum(parts) / 4, objective.of(logits, targets), rtol=1e-12, atol=0)


def test_class_weights_leave_the_mean_of_all_pictures_at_one() -> None:
    counts = [30, 10, 2]
    weights = class_weights(counts, "classification")
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))
    assert weights[2] / weights[0] == pytest.approx(15)


def test_a_teacher_that_answers_alike_adds_nothing_to_the_gradient() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 3)

        def forward(self, x: Any, ctx: Any) -> Any:
            return self.map(x), None

        def forward_features(self, x: Any) -> Any:
            return x

        def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
            return self.map(x)

    from zoo.training.recipe import Distill

    model = Linear()
    taught = Objective("classification", Loss(), teacher=model, distill=Distill(teacher="x", weight=1.0))
    taught(model, (torch.randn(5, 4), torch.randint(3, (5,))), Context()).backward()
    assert float(model.map.weight.grad.abs().max()) < 1e-6  # type: ignore[union-attr]


def test_adapters_begin_as_nothing_and_merge_into_the_matrices() -> None:
    model: Any = zoo.create("convformer_nano")
    x = torch.randn(2, 1, 32, 32)
    before, names = model(x), set(model.state_dict())
    assert adapters.adapt(model, rank=2, alpha=4) > 0
    torch.testing.assert_close(model(x), before)
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(name.startswith("head") or name.endswith((".a", ".b")) for name in learned)
    for module in model.modules():
        if isinstance(module, adapters.LowRank):
            nn.init.normal_(module.b, std=0.1)
    adapted = model(x)
    adapters.merge(model)
    torch.testing.assert_close(model(x), adapted)
    assert set(model.state_dict()) == names
    assert not torch.allclose(adapted, before)


def test_what_is_frozen_learns_nothing() -> None:
    model: Any = zoo.create("convformer_nano")
    freeze(model, 1)
    free = {name.split(".layers")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("stem", "stages.0")) for name in free)
    assert any(name.startswith("stages.1") for name in free)
    freeze(model, -1)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "head.classifier.weight",
        "head.classifier.bias",
    }
    with pytest.raises(InputError, match="the stages of convformer_nano"):
        freeze(model, 9)


def test_an_operation_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="a text that timm reads"):
        Augmented(GREY, Augment(randaugment="random-9"))
