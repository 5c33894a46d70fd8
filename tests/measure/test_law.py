"""From pieces to models: the law, its errors, and pieces that add up."""

from __future__ import annotations

import random

import pytest
import torch

import zoo
from zoo import catalog
from zoo.build.builder import build, meta_input
from zoo.measure.law import ENOUGH, Law, Load, Seen, cross_validated, fit, fit_groups
from zoo.measure.pieces import pieces

TRUE = Law(1.1, 0.02, 0.04)


def seen(noise: float = 0.0, families: int = 6) -> list[Seen]:
    draw = random.Random(0)
    found = []
    for i in range(60):
        load = Load(draw.uniform(1, 100), draw.randint(8, 50), draw.uniform(1, 200))
        found.append(Seen(f"family{i % families}", load, TRUE.ms(load) * draw.uniform(1 - noise, 1 + noise)))
    return found


def test_the_law_is_found_again() -> None:
    found = fit(seen())
    assert (found.scale, found.each, found.per_megabyte) == pytest.approx((1.1, 0.02, 0.04), rel=1e-6)


def test_a_few_wild_values_move_it_little() -> None:
    wild = [one._replace(ms=3 * one.ms) if i % 15 == 0 else one for i, one in enumerate(seen())]
    load = Load(50.0, 20, 100.0)
    assert fit(wild).ms(load) == pytest.approx(TRUE.ms(load), rel=0.02)


def test_no_number_is_negative() -> None:
    falling = [Seen("f", Load(10.0, i, 1.0), 20.0 - i / 10) for i in range(1, 30)]
    found = fit(falling)
    assert min(found.scale, found.each, found.per_megabyte) >= 0


def test_groups_of_enough_models_have_laws_of_their_own() -> None:
    other = Law(0.8, 0.1, 0.1)
    mixed = [one._replace(group="a") for one in seen()]
    mixed += [one._replace(group="b", ms=other.ms(one.load)) for one in seen()]
    few = [one._replace(group="c") for one in seen()[: ENOUGH - 1]]
    alone = [one._replace(group="d", family="x") for one in seen()]
    laws = fit_groups(mixed + few + alone)
    assert set(laws.groups) == {"a", "b"} and laws.of("c") == laws.of("d") == laws.general
    for group, law in (("a", TRUE), ("b", other)):
        assert laws.of(group).ms(Load(20.0, 10, 50.0)) == pytest.approx(law.ms(Load(20.0, 10, 50.0)))
    errors, together = cross_validated(mixed), cross_validated([one._replace(group="") for one in mixed])
    assert errors is not None and together is not None and errors.p95 < 1e-6 < 0.01 < together.p95


def test_errors_are_those_of_families_left_out() -> None:
    errors = cross_validated(seen(noise=0.1))
    assert errors is not None and (errors.models, errors.families) == (60, 6)
    assert 0.02 < errors.median < 0.08 < errors.p95 < 0.15
    assert errors.low < 1 < errors.high


def test_fewer_than_three_families_tell_no_error() -> None:
    assert cross_validated(seen(families=2)) is None


@pytest.mark.parametrize("name", ["starnet_nano", "vim_nano", "mambavision_nano", "efficientvim_nano", "moe_vit_nano"])
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_pieces_run_alone_and_hold_all_weights(name: str, form: str) -> None:
    net = build(catalog.published_spec(name))
    net = zoo.deploy(net) if form == "deploy" else net
    found = list(pieces(net))
    assert sum(piece.weight_bytes for piece in found if piece.call.__name__ != "_exit") == sum(
        tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()
    )
    with torch.inference_mode():
        outputs = [piece.ready(form == "deploy")() for piece in found]
        expected = net(meta_input(net.spec))
    assert outputs[-1].shape == expected.shape and bool(outputs[-1].isfinite().all())


def test_equal_layers_are_one_piece_whatever_net_they_stand_in() -> None:
    small, large = (list(pieces(build(catalog.published_spec(name)))) for name in ("convnext_tiny", "convnext_small"))
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
