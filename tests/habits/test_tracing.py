"""Models are traced as any other: symbolically by torch.fx, with an example by torch.jit, in the form of training and of deployment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import zoo
from tests.sampled import sampled
from zoo import catalog
from zoo.catalog.listing import list_models
from zoo.errors import InputError

SIZED = {name: entry.input_size for name, entry in catalog.entries().items() if "/" not in name}
IMAGES = [
    name
    for task in ("image-classification", "audio-classification")
    for name in list_models("*_nano", task=task)
    if name in SIZED and max(SIZED[name]) <= 64
]
"""Those of scans of digits and of short series; `convnextv2_nano` is the size of that name of a large family."""
MERGED = "smear_nano"
"""Its experts run with an average of their parameters, which torch.jit does not record: it is refused in a sentence."""
TRACED = [name for name in IMAGES if name != MERGED]
DEPLOYED = ("unireplknet_nano", "vanillanet_nano", "convit_nano")
"""Nets of which the deploy form is traced in every run: layers that are merged, and those that are not."""
LARGER = ["deit_tiny_patch16_224", "efficientvit_m0", "poolformer_s12"]


def images(model: Any, batch: int) -> torch.Tensor:
    channels, size = model.spec.input.channels, model.spec.input.size
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
@pytest.mark.parametrize("name", sampled([*IMAGES, *LARGER]))
def test_a_symbolic_trace_computes_what_the_model_computes(name: str) -> None:
    model: Any = zoo.create(name)
    traced = torch.fx.symbolic_trace(model)
    for batch in (1, 3):
        torch.testing.assert_close(traced(images(model, batch)), model(images(model, batch)), rtol=0, atol=0)
    assert len(list(traced.graph.nodes)) > len(list(model.stages))


@torch.no_grad()
def test_features_are_read_at_any_node_of_a_symbolic_trace() -> None:
    model: Any = zoo.create("starnet_nano")
    x = images(model, 2)
    tracer = torch.fx.Tracer()
    graph = tracer.trace(model)
    node = [one for one in graph.nodes if one.op == "call_module" and one.target.startswith("stages.1.")][-1]
    for output in [one for one in graph.nodes if one.op == "output"]:
        graph.erase_node(output)
    graph.output(node)
    kept: list[torch.Tensor] = []
    model.get_submodule(node.target).register_forward_hook(lambda module, args, y: kept.append(y.clone()))
    model(x)
    features = GraphModule(model, graph)
    graph.eliminate_dead_code()
    features.recompile()
    torch.testing.assert_close(features(x), kept[0], rtol=0, atol=0)


def test_a_tracer_is_left_as_it_was() -> None:
    class Whole(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return type(m).__name__ == "Chain" or super().is_leaf_module(m, module_qualified_name)

    tracer, model = Whole(), zoo.create("starnet_nano")
    graph = tracer.trace(model)
    assert {type(model.get_submodule(one.target)).__name__ for one in graph.nodes if one.op == "call_module"} >= {
        "Chain"
    }
    assert tracer.is_leaf_module.__func__ is Whole.is_leaf_module  # type: ignore[attr-defined]


def test_a_symbolic_trace_is_trained_like_the_model() -> None:
    model: Any = zoo.create("starnet_nano").train()
    traced = torch.fx.symbolic_trace(model)
    traced(images(model, 2)).square().mean().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []


def check_traced(name: str, form: str) -> None:
    model: Any = zoo.create(name, form=form)
    traced = torch.jit.trace(model, images(model, 2))
    with torch.no_grad():
        torch.testing.assert_close(traced(images(model, 5)), model(images(model, 5)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sampled([*TRACED, *LARGER]))
def test_a_trace_with_an_example_passes_its_own_check(name: str) -> None:
    check_traced(name, "train")


@pytest.mark.parametrize(
    "name", [name if name in DEPLOYED else pytest.param(name, marks=pytest.mark.slow) for name in (*TRACED, *LARGER)]
)
def test_a_trace_of_a_deploy_form_passes_its_own_check(name: str) -> None:
    check_traced(name, "deploy")


def test_merged_experts_are_recorded_by_torch_jit_for_their_batch() -> None:
    model: Any = zoo.create(MERGED)
    x = images(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))


def test_a_net_with_a_graph_is_recorded_inside_another() -> None:
    model: Any = zoo.create("fpn_nano")
    with pytest.raises(InputError, match=r"next: trace `torch.nn.Sequential\(model\)`"):
        torch.fx.symbolic_trace(model)
    traced, x = torch.fx.symbolic_trace(nn.Sequential(model)), images(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)
