"""Models that stand for all where a test takes seconds for each: nets that differ most. The others are tried by `pytest -m slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

STAND_FOR_ALL = {
    "starnet_nano",  # convolutions alone
    "mobilenetv4_nano",
    "vanillanet_nano",  # two forms that differ
    "unireplknet_nano",
    "fcanet_nano",
    "gmlp_nano",  # one size alone
    "vim_nano",  # a scan
    "mambavision_nano",
    "convit_nano",  # attention with tables
    "efficientvim_nano",  # a head that reads a slot
    "moe_vit_nano",  # experts
    "soft_moe_nano",
    "btt_vit_nano",  # structured linear maps
    "efficientvit_m0",
    "unet_nano",  # a graph
    "movinet_nano",  # clips
    "llama_nano",  # tokens: attention, a scan, a delta rule
    "mamba2_nano",
    "gated_delta_net_nano",
}


def sampled(names: Iterable[str]) -> list[Any]:
    """The names as parameters of a test, all but those that stand for the others under `slow`."""
    return [pytest.param(name, marks=() if name in STAND_FOR_ALL else pytest.mark.slow) for name in names]
