"""torch.compile and torch.export take every model: one for each kind of code by default, the others when there is time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.models.thin import thin
from zoo import catalog
from zoo.build.inputs import drawn_inputs
from zoo.catalog.listing import list_models

NANO = [name for name in list_models("*_nano")]
FIRST = [
    next(name for name, entry in catalog.entries().items() if entry.family == family) for family in zoo.list_modules()
]
BROKEN = {name for name in list_models(task="language-modeling") if "core/moe@1" in catalog.entry(name).blocks}
"""Nets of which every layer is a graph of its own, and compiling them takes seconds: `moe_vit_nano` stands for them."""
SEEN = {catalog.entry(name).family for name in NANO}
ALONE = [name for name in FIRST if catalog.entry(name).family not in SEEN and catalog.entry(name).params < 8_000_000]
SMALL = sorted({*NANO, *ALONE} - BROKEN)
HUGE = 4_000_000_000
"""Parameters beyond which `create` asks whether that is meant."""
REST = [name for name in list_models() if name not in SMALL and catalog.entry(name).params < HUGE]
LARGE = 60_000_000
"""Parameters from which on a model is taken with fewer layers: the blocks and widths are its own."""
KINDS = {
    "starnet_nano",  # convolutions
    "convit_nano",  # attention with tables
    "vim_nano",  # a scan
    "efficientvim_nano",  # a head that reads a slot
    "moe_vit_nano",  # experts
    "btt_vit_nano",  # structured linear maps
    "unet_nano",  # a graph
    "movinet_nano",  # clips
    "llama_nano",  # tokens
    "gated_delta_net_nano",
}
"""Nets that a tracer sees as unlike: recording one takes seconds."""
ROUTED = {name for name in list_models() if "core/moe@1" in catalog.entry(name).blocks}
"""Expert dispatch depends on the data: it breaks a compiled graph; an exported one holds the masked dense sum."""


def spec_of(name: str) -> zoo.Spec:
    return thin(name, LARGE, fewest=2)


def examples(name: str, batch: int) -> tuple[torch.Tensor, ...]:
    form: Any = spec_of(name).input
    if form.kind == "tokens":
        return (torch.randint(0, form.vocab_size, (batch, 24), generator=torch.Generator().manual_seed(0)),)
    return drawn_inputs(spec_of(name), batch)


def values(output: Any) -> torch.Tensor:
    """The logits, of language models too."""
    found: torch.Tensor = getattr(output, "logits", output)
    return found


def compiles(name: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, inputs = zoo.create(spec_of(name)), examples(name, 2)
    with torch.no_grad():
        expected = values(model(*inputs))
        found = values(torch.compile(model, backend="eager", fullgraph=name not in ROUTED)(*inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def exports(name: str) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create(spec_of(name))
    net = nn.Sequential(model) if hasattr(model, "graph") else model  # a program of torch's has a `graph` of its own
    with torch.no_grad():
        inputs = examples(name, 2)
        free = {0: torch.export.Dim("batch", min=1, max=64)}
        program = torch.export.export(net, inputs, dynamic_shapes=tuple(free for _ in inputs))
        for batch in (1, 3):
            inputs = examples(name, batch)
            torch.testing.assert_close(values(program.module()(*inputs)), values(model(*inputs)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_a_model_compiles_in_one_graph(name: str) -> None:
    compiles(name)


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_a_model_exports_with_any_batch(name: str) -> None:
    exports(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_every_model_compiles_in_one_graph(name: str) -> None:
    compiles(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_every_model_exports_with_any_batch(name: str) -> None:
    exports(name)
