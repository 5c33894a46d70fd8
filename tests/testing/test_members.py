"""Members of the contract under a wrong name are refused, and those under their own are listed with their class."""

from __future__ import annotations

import importlib
import pathlib
import sys

import pytest
from torch import Tensor, nn

from zoo.testing.block_cases import Subject
from zoo.testing.conformance import run_check
from zoo.testing.isolation import own_registrations
from zoo.testing.members import members_of, near_miss
from zoo.testing.outcomes import FAILED, OK, Result

PLUGINS = pathlib.Path(__file__).parents[2] / "plugins"


class Mixer(nn.Module):
    """A mixer without optional members, the base of those that have some."""

    def __init__(self, dim: int):
        nn.Module.__init__(self)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Misspelt(Mixer):
    def resize_tabel(self, name: str, tensor: Tensor, expected_shape: tuple[int, ...]) -> None:
        return None


class Singular(Mixer):
    """Its near-miss is an attribute of the module."""

    def __init__(self, dim: int):
        Mixer.__init__(self, dim)
        self.lr_scale = {"weight": 2.0}


class Stated(Mixer):
    """Its near-miss is a parameter of its own."""

    def __init__(self, dim: int, *, lr_scale: float = 1.0):
        Mixer.__init__(self, dim)
        self.lr_scale = lr_scale


class Folds(Mixer):
    no_decay = ("weight",)

    def __init__(self, dim: int):
        Mixer.__init__(self, dim)
        self.lr_scales = {"weight": 2.0}

    def fuse(self) -> nn.Module:
        return self


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Misspelt, "nobody looks up `resize_tabel`; nearest `resize_table`; next: take that name, or one less like it"),
        (Singular, "nobody looks up `lr_scale`; nearest `lr_scales`; next: take that name, or one less like it"),
    ],
)
def test_near_miss_of_a_member_is_named_with_the_member(registered, cls, sentence):
    assert run_check(registered(cls), "members") == Result(cls.__name__.lower(), "members", FAILED, sentence)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("fues", "fuse"),
        ("fuses", "fuse"),
        ("mac", "macs"),
        ("no_decays", "no_decay"),
        ("heads", ""),
        ("scale_rows", ""),
    ],
)
def test_names_are_near_by_their_letters(name, member):
    assert near_miss(name, ["fuse", "lr_scales", "macs", "no_decay", "reads"]) == member


@pytest.mark.parametrize("cls", [Mixer, Stated, Folds])
def test_members_and_parameters_are_no_near_misses(registered, cls):
    assert run_check(registered(cls), "members").outcome == OK


def test_members_are_listed_with_the_class_that_defines_them(registered):
    assert members_of(registered(Folds)) == {"fuse": "Folds", "lr_scales": "itself", "no_decay": "Folds"}


def test_a_renamed_method_is_no_member(registered):
    class Renamed(Mixer):
        fold = Folds.fuse

    assert members_of(registered(Renamed)) == {}


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [
        ("zoo-fourier", "zoo_fourier.global_filter", "fourier/global_filter"),
        ("zoo-fourier", "zoo_fourier.fnet_mixer", "fourier/fnet_mixer"),
        ("zoo-plugin-template", "acme_blocks.shift_mixer", "acme/shift_mixer"),
    ],
)
def test_blocks_of_the_plugins_beside_us_have_no_near_misses(monkeypatch, package, module, name):
    monkeypatch.syspath_prepend(str(PLUGINS / package))
    forget(module)
    with own_registrations():
        values = vars(importlib.import_module(module)).values()
        assert f"{name}@1" in [getattr(value, "block_id", "") for value in values]
        assert run_check(Subject(name), "members").outcome == OK
    forget(module)


def forget(module: str) -> None:
    """Its package is imported anew when it is asked for again."""
    package = module.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
