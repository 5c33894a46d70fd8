"""Potentials of molecules: forces, and what a turn, a mirror, another order and another molecule beside them change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.models import test_dense as dense


def molecule(count: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Places, kinds and molecules of atoms, the last third a molecule of its own."""
    generator = torch.Generator().manual_seed(seed)
    places = 1.5 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    kinds = torch.randint(1, 10, (count,), generator=generator)
    return places, kinds, (torch.arange(count) >= count - count // 3).long()


def model(name: str) -> Any:
    torch.manual_seed(0)
    return zoo.create(name).double()


def rotation(mirror: bool = False) -> Tensor:
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    return q * torch.linalg.det(q) * (-1 if mirror else 1)


def test_forces_are_those_of_the_reference() -> None:
    net, (places, *beside) = dense.loaded("tensornet_o3_small"), dense.samples("tensornet_o3_small")
    places.requires_grad_()
    (slope,) = torch.autograd.grad(net(places, *beside)["energy"].sum(), places)
    expected = dense.golden("tensornet_o3_small")[1]["out.forces"].double()
    assert float((-slope - expected).norm() / expected.norm()) <= 1e-5


def test_forces_can_be_learned() -> None:
    net, (places, *beside) = model("tensornet_nano"), molecule()
    places.requires_grad_()
    (slope,) = torch.autograd.grad(net(places, *beside)["energy"].sum(), places, create_graph=True)
    slope.square().sum().backward()
    learned = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert learned >= {"graph.atoms.0.weight", "graph.layer0.merge.own.0.skew.weight"}
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "mirror"), [("tensornet_nano", False), ("tensornet_nano", True), ("tensornet_so3_small", False)]
)
def test_the_energy_does_not_turn(name: str, mirror: bool) -> None:
    net, (places, *beside) = model(name), molecule()
    with torch.no_grad():
        torch.testing.assert_close(net(places @ rotation(mirror).T + 3, *beside), net(places, *beside))


def test_without_mirror_images_left_is_told_from_right() -> None:
    net, (places, *beside) = model("tensornet_so3_small"), molecule()
    with torch.no_grad():
        change = net(-places, *beside)["energy"] - net(places, *beside)["energy"]
    assert change.abs().max() > 1e-9


@pytest.mark.parametrize("name", ["tensornet_nano", "escaip_nano"])
def test_molecules_do_not_see_each_other_and_atoms_have_no_order(name: str) -> None:
    net, (places, kinds, groups) = model(name), molecule()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = net(places, kinds, groups)["energy"]
        alone = [net(places[groups == g], kinds[groups == g], groups[groups == g] * 0)["energy"] for g in (0, 1)]
        torch.testing.assert_close(torch.cat(alone), together)
        torch.testing.assert_close(net(places[order], kinds[order], groups[order])["energy"], together)
