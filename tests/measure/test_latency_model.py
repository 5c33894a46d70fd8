"""From a few measured models to all: the law, what it is told to measure next, its errors, and pieces that add up."""

from __future__ import annotations

import functools
import random
from collections import Counter

import msgspec
import numpy as np
import pytest
import torch

import zoo
from tests.measure.machines import Machine, machine, subjects
from tests.measure.simulated import Outcome, simulate
from zoo import catalog
from zoo.build.builder import build
from zoo.catalog.published import published_spec
from zoo.measure.coverage import checked
from zoo.measure.design import GLANCE, chosen, explored
from zoo.measure.latency import Runtime
from zoo.measure.latency_model import Law, Seen, Subject
from zoo.measure.load import KINDS, Load, batched, decoded, loads
from zoo.measure.load_counter import Kinds, load_of
from zoo.measure.segments import piece_times, pieces
from zoo.measure.store import shipped_rows
from zoo.measure.worker import Job, example, prepared

HERE = "here"
DECOMPOSED = (
    "elements", "transcendental", "batch_normalised", "layer_normalised", "copied", "moved", "softmax", "pooled", "operations", "views",
    "products", "matmul_traffic", "packed_traffic", "convolution_traffic",
)  # fmt: skip
"""Kinds that follow how a release of torch takes functions apart."""
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]


def seen(one: Subject, ms: float, device: str = HERE, noise: float = 0.02) -> Seen:
    return Seen(one, device, ms, noise)


@functools.cache
def recorded(threads: int) -> dict[Subject, float]:
    """What the rows that ship say of float32 with so many threads, of the device of which most are known at two."""
    known = {(one.digest, one.form): one for one in subjects()}
    device, _ = Counter(row.device for row in shipped_rows() if row.runtime.threads == 2).most_common(1)[0]
    return {
        known[row.digest, row.form]: row.p50_ms
        for row in shipped_rows()
        if (row.device, row.runtime.key) == (device, Runtime(threads).key) and (row.digest, row.form) in known
    }


def some(count: int) -> list[Subject]:
    return random.Random(1).sample(subjects(), count)


def test_measured_models_are_predicted_as_measured_and_relatives_nearly() -> None:
    truth = machine(1)
    measured = some(60)
    law = Law([seen(one, truth.ms(one)) for one in measured], HERE)
    means, covariance = law.predict(measured)
    assert np.abs(means - np.log([truth.ms(one) for one in measured])).max() < 0.1
    deviations = np.sqrt(covariance.diagonal())
    strangers = [one for one in subjects() if one.family not in {known.family for known in measured}]
    assert np.median(np.sqrt(law.predict(strangers)[1].diagonal())) > 3 * np.median(deviations)


def test_a_machine_that_is_slower_by_a_factor_is_known_from_few_models_and_the_rows_of_another() -> None:
    other = [seen(one, machine(2).ms(one), "other") for one in subjects()]
    few = [seen(one, 3.7 * machine(2).ms(one)) for one in some(10)]
    means, _ = Law([*other, *few], HERE).predict(subjects())
    off = np.abs(np.exp(means) / [3.7 * machine(2).ms(one) for one in subjects()] - 1)
    assert np.median(off) < 0.03 and np.quantile(off, 0.95) < 0.15


def test_a_model_left_out_is_predicted_as_by_a_fit_without_it() -> None:
    """But for the point around which the rates are expanded, which moves a little without it."""
    known = [seen(one, machine(3).ms(one)) for one in some(30)]
    law = Law(known, HERE)
    errors, deviations = law.left_out([4, 7])
    rest = Law([one for i, one in enumerate(known) if i not in (4, 7)], HERE)
    assert rest.doubt == law.doubt
    means, covariance = rest.predict([known[4].subject, known[7].subject])
    assert errors == pytest.approx(np.log([known[4].ms, known[7].ms]) - means, abs=0.02)
    assert deviations == pytest.approx(np.sqrt(covariance.diagonal() + (law.doubt * 0.02) ** 2), abs=0.02)


def test_a_noisy_machine_is_doubted() -> None:
    draw = random.Random(0)
    asked = some(80)
    quiet = Law([seen(one, machine(4).ms(one)) for one in asked], HERE)
    noisy = Law([seen(one, machine(4).ms(one) * draw.lognormvariate(0, 0.2)) for one in asked], HERE)
    assert noisy.doubt >= 4 > quiet.doubt


def test_the_next_model_is_the_one_that_tells_most_for_its_time() -> None:
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert chosen(covariance, [1.0, 2.0, 1.0], 0.1, left=10.0, most=2) == [0, 2]  # the second is known with the first
    assert chosen(covariance, [5.0, 1.0, 5.0], 0.1, left=10.0, most=1) == [1]
    assert chosen(covariance, [5.0, 6.0, 7.0], 0.1, left=4.0, most=3) == []


def test_the_models_that_are_measured_are_of_many_families_and_of_all_sizes() -> None:
    spent, slow = [0.0], machine(5)._replace(families=0.0)
    picked: list[Subject] = []

    def look(some: list[Subject]) -> list[tuple[Subject, Seen]]:
        picked.extend(some)
        spent[0] += sum(2.0 + 12 * slow.ms(one) / 1e3 for one in some)
        return [(one, Seen(one, HERE, slow.ms(one), GLANCE)) for one in some]

    explored([], subjects(), HERE, look, lambda: 120.0 - spent[0])  # type: ignore[arg-type]
    times = sorted(slow.ms(one) for one in picked)
    assert len({one.family for one in picked}) >= 12
    assert times[-1] > 50 * times[0] and {one.form for one in picked} == {"train", "deploy"}
    assert len({(one.digest, one.form) for one in picked}) == len(picked)  # each once


def test_errors_need_three_families_and_ranges_hold_nine_in_ten_of_what_is_left_out() -> None:
    two = [one for one in subjects() if one.family in ("starnet", "resnet")]
    assert checked(Law([seen(one, machine(6).ms(one)) for one in two], HERE)) is None
    wild = machine(6)._replace(models=0.3)  # far more than the law expects of any model
    errors = checked(Law([seen(one, wild.ms(one)) for one in some(80)], HERE))
    assert errors is not None and errors.models > 40 and errors.width >= 1.645


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("known", [True, False], ids=["another known", "none known"])
def test_a_machine_of_which_nothing_is_known_is_learned_in_four_minutes(seed: int, known: bool) -> None:
    truth, other = machine(seed), machine(seed + 100)
    elsewhere = [Seen(one, "other", other.ms(one), 0.02) for one in subjects()] if known else []
    _check(simulate(subjects(), truth.ms, elsewhere, 4, seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("threads", "others"), [(2, 1), (1, 2)])
def test_recorded_rows_are_predicted_from_those_of_another_device(threads: int, others: int, seed: int) -> None:
    truth, elsewhere = recorded(threads), [Seen(one, "other", ms, 0.02) for one, ms in recorded(others).items()]
    four = simulate(list(truth), truth.__getitem__, elsewhere, 4, seed)
    _check(four)
    assert abs(four.claimed - four.median) < 0.05


@pytest.mark.slow
def test_after_twenty_minutes_recorded_rows_are_predicted_within_five_percent() -> None:
    truth, elsewhere = recorded(2), [Seen(one, "other", ms, 0.02) for one, ms in recorded(1).items()]
    found = simulate(list(truth), truth.__getitem__, elsewhere, 20)
    assert found.median <= 0.05 and found.p95 <= 0.15 and found.covered >= 0.85


def test_recorded_rows_are_predicted_where_no_other_device_is_known() -> None:
    found = [simulate(list(recorded(1)), recorded(1).__getitem__, [], 4, seed) for seed in range(2)]
    assert np.mean([one.median for one in found]) <= 0.10 and np.mean([one.covered for one in found]) >= 0.85


def _check(found: Outcome) -> None:
    assert found.median <= 0.10 and found.p95 <= 0.25 and found.covered >= 0.85, found


def test_a_machine_with_a_cache_makes_large_models_slower_than_small_ones_say() -> None:
    cached = Machine("cached", [1.0] * KINDS, cache_mb=8.0, memory=0.2)
    _check(simulate(subjects(), cached.ms, [], 4))


@pytest.mark.parametrize("name", ["starnet_nano", "vim_nano", "llama_nano", "moe_vit_nano"])
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_shipped_loads_are_those_that_are_counted(name: str, form: str) -> None:
    counted = load_of(build(published_spec(name)), form)
    for kind, amount in msgspec.structs.asdict(counted).items():
        rough = kind in DECOMPOSED
        assert getattr(loads()[name][form], kind) == pytest.approx(amount, rel=0.25 if rough else 1e-9), kind


def test_every_model_has_a_load_in_both_forms() -> None:
    assert set(loads()) == set(catalog.entries())
    assert all(load.operations and load.weight_bytes for forms in loads().values() for load in forms.values())


def test_more_inputs_are_more_work_and_not_more_weights() -> None:
    once = Load(matmul=3, elements=5, weight_bytes=7, products=1, operations=2, views=4)
    assert batched(once, 4) == Load(matmul=12, elements=20, weight_bytes=7, products=1, operations=2, views=4)


def test_work_is_told_apart_by_what_makes_it_fast_or_slow() -> None:
    """1 x 1, depthwise 3 x 3 and 9 x 9, dilated, grouped, transposed; a layer that is packed in the deploy form, and one that is too small."""
    conv = torch.nn.Conv2d
    net = torch.nn.Sequential(
        conv(32, 64, 1), conv(64, 64, 3, padding=1, groups=64), conv(64, 64, 9, padding=4, groups=64),
        conv(64, 64, 3, padding=2, dilation=2, groups=64), conv(64, 64, 3, padding=1, groups=16),
        torch.nn.ConvTranspose2d(64, 32, 2, 2), torch.nn.Flatten(2), torch.nn.Linear(1024, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 2),
    ).to("meta")  # fmt: skip
    counted = []
    for packs in (False, True):
        work = Kinds(packs)
        with torch.no_grad(), work:
            net(torch.empty(1, 32, 16, 16, device="meta"))
        counted.append(dict(work.amounts))
    pixels = 16 * 16
    assert counted[0] == {
        "convolutions": 6, "pointwise": 2 * pixels * 32 * 64, "depthwise": 2 * pixels * 64 * 9, "large_depthwise": 2 * pixels * 64 * 81,
        "dilated_depthwise": 2 * pixels * 64 * 9, "grouped": 2 * pixels * 64 * 4 * 9, "transposed": 2 * pixels * 64 * 32 * 4,
        "convolution_traffic": pixels * (32 + 64 + 8 * 64 + 64 + 4 * 32), "products": 2, "matmul": 2 * 32 * 1024 * 1026,
        "matmul_traffic": 32 * (1024 + 1024 + 1024 + 2), "transcendental": 32 * 1024, "moved": 32 * pixels,
    }  # fmt: skip
    assert counted[1]["packed"] == 2 * 32 * 1024**2 and counted[1]["matmul"] == 2 * 32 * 1024 * 2
    assert counted[1]["packed_traffic"] == 32 * 2048 and counted[1]["matmul_traffic"] == 32 * 1026


def test_loads_of_another_release_count_as_none() -> None:
    data = b'{"old": {"train": [1, 2, 3], "deploy": [1, 2, 3]}, "new": {"train": [' + b",".join([b"7"] * KINDS) + b"]}}"
    assert decoded(data) == {"old": {}, "new": {"train": Load(*[7] * KINDS)}}


@pytest.mark.parametrize("name", ["starnet_nano", "vim_nano", "mambavision_nano", "efficientvim_nano", "moe_vit_nano"])
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_pieces_hold_all_weights_and_are_timed_in_passes_of_the_whole_net(name: str, form: str) -> None:
    net = build(published_spec(name))
    net = zoo.deploy(net) if form == "deploy" else net
    found = list(pieces(net))
    assert sum(piece.weight_bytes for piece in found if piece.call.__name__ != "_exit") == sum(
        tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()
    )
    job = Job("", name, form, Runtime())  # type: ignore[arg-type]
    with torch.inference_mode():
        model = prepared(job)
        times = piece_times(model, example(job, model), 0.005)  # type: ignore[arg-type]
    assert len(times) == len(found) and all(ms > 0 for ms in times)


def test_equal_layers_are_one_piece_whatever_net_they_stand_in() -> None:
    small, large = (list(pieces(build(published_spec(name)))) for name in ("convnext_tiny", "convnext_small"))
    assert {piece.key for piece in small} == {piece.key for piece in large}
    assert len({piece.key for piece in small}) < len(small) < len(large)


def test_other_widths_and_sizes_are_other_pieces() -> None:
    keys = [
        next(
            piece.key
            for piece in pieces(build(zoo.spec("convnext_tiny", changes)))
            if piece.path == "stages.0.layers.0"
        )
        for changes in ({}, {"dims": [64, 128, 256, 512]}, {"input.size": 192})
    ]
    assert len(set(keys)) == 3
