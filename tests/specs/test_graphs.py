"""Graphs as data: written out, checked with all problems at once, built with the shapes that meet, drawn."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import zoo
from zoo.errors import InputError, SpecError
from zoo.specs.drawing import mermaid, svg

UNIT = {"block": "conv_norm_act", "out_dim": "$dim", "norm": "batch_norm", "act": "relu"}
NODES: list[dict[str, Any]] = [
    {"name": "d2", "from": "levels.2", "do": [UNIT]},
    {
        "name": "d{l}",
        "each": {"l": [1, 0]},
        "from": [{"of": "d{l+1}", "like": "levels.{l}"}, "levels.{l}"],
        "do": [UNIT],
    },
    {"name": "logits", "from": {"of": "d0", "like": "input"}, "do": ["class_map"]},
    {"name": "edges", "from": "d0", "do": [{"block": "conv", "kernel_size": 1, "out_dim": 1}]},
]


def unet(**graph: Any) -> dict[str, Any]:
    """A small net with two outputs, one of which is there in training alone."""
    outputs = {"logits": "logits", "edges": {"of": "edges", "when": "train"}}
    return {
        "schema": "zoo.spec/1",
        "spec": {
            "backbone": {"model": "starnet_nano", "levels": [0, 1, 2]},
            "num_classes": 4,
            "graph": {"let": {"dim": 8}, "nodes": NODES, "outputs": outputs, **graph},
        },
    }


def whole(nodes: list[dict[str, Any]], **graph: Any) -> dict[str, Any]:
    """A net that is one graph."""
    spec = {"input": {"kind": "image", "channels": 3, "size": 16}, "num_classes": 2, "graph": {"nodes": nodes, **graph}}
    return {"schema": "zoo.spec/1", "spec": spec}


def sentences(nodes: list[dict[str, Any]], **graph: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        zoo.create(whole(nodes, **graph), device="meta")
    return [f"{problem.where}: {problem.sentence()}" for problem in caught.value.problems]


def conv(out_dim: int, **params: Any) -> dict[str, Any]:
    return {"block": "conv", "out_dim": out_dim, **params}


@pytest.mark.parametrize("name", ["steps", "order", "widths", "out_dim", "fuse", "training"])
def test_no_node_is_called_as_a_member_of_the_graph(name: str) -> None:
    sentence = f"no part can be called `{name}` here: the wiring has a member of that name"
    assert sentence in "; ".join(sentences([{"name": name, "from": "input", "do": [conv(2)]}]))


def test_one_output_is_a_tensor_and_several_are_a_table() -> None:
    model = zoo.create(unet())
    assert model(torch.zeros(1, 1, 33, 31)).shape == (1, 4, 33, 31)
    assert list(model.train()(torch.zeros(2, 1, 32, 32))) == ["logits", "edges"]


def test_nodes_are_written_out_with_all_that_they_read() -> None:
    nodes = zoo.spec(unet()).graph["parts"]
    assert [node["name"] for node in nodes] == ["d2", "d1", "d0", "logits", "edges"]
    assert nodes[1]["from"][0]["like"] == zoo.spec(unet()).graph["inputs"][1]


def test_the_graph_of_a_net_with_stages_stands_alone_and_is_given_their_levels() -> None:
    net = zoo.create("efficientdet_tf_d0_neck_heads")
    whole = zoo.create("efficientdet_tf_d0").state_dict()
    assert not list(net.stages) and net.stem is None
    assert {key: x.shape for key, x in net.state_dict().items()} == {
        key: x.shape for key, x in whole.items() if key.startswith("graph.")
    }
    with pytest.raises(SpecError, match="expected a net with stages; found `stages.6`"):
        zoo.create("efficientdet_nano", {"dims": "none"})


def test_a_filled_spec_reads_back_as_itself() -> None:
    spec = zoo.spec(unet())
    again = zoo.spec(json.loads(spec.to_json()))
    assert (again, again.digest) == (spec, spec.digest)


def test_the_order_of_nodes_changes_no_name_of_the_state() -> None:
    nodes = [{"name": "b", "from": "a", "do": ["relu"]}, {"name": "a", "from": "input", "do": [conv(4)]}]
    assert list(zoo.create(whole(nodes, outputs="b")).state_dict()) == ["graph.a.0.weight", "graph.a.0.bias"]


def test_a_value_of_let_may_be_scaled_and_part_of_a_name() -> None:
    nodes = [
        {"name": "first_{n}", "from": "input", "do": [conv("$dim*2")]},
        {"name": "y", "from": "first_3", "do": [conv("$dim/2")]},
    ]  # type: ignore[arg-type]
    state = zoo.create(whole(nodes, let={"n": 3, "dim": 4})).state_dict()
    assert [tuple(tensor.shape[:2]) for tensor in state.values() if tensor.ndim == 4] == [(8, 3), (2, 8)]


def test_a_shared_chain_is_one_module() -> None:
    nodes = [
        {"name": "a", "from": "input", "do": [conv(3)]},
        {"name": "y{k}", "each": {"k": [0, 1]}, "from": {"per_each": ["input", "a"]}, "do": [conv(5)], "same_as": "y0"},
    ]
    model = zoo.create(whole(nodes, outputs=["y0", "y1"]))
    assert list(model.state_dict()) == ["graph.a.0.weight", "graph.a.0.bias", "graph.y0.0.weight", "graph.y0.0.bias"]
    found = model(torch.randn(1, 3, 8, 8))
    assert found["y0"].shape == found["y1"].shape == (1, 5, 8, 8)


def test_a_graph_of_several_inputs_and_outputs_is_a_cell() -> None:
    cell = {
        "graph": [
            {"name": "b", "from": ["p", {"of": "q", "like": "p"}], "merge": "sum", "do": [conv(4)]},
            {"name": "c", "from": ["q", {"of": "b", "do": ["max_pool"]}], "merge": "weighted_sum"},
        ],
        "inputs": ["p", "q"],
        "outputs": ["b", "c"],
    }
    nodes = [
        {"name": "p", "from": "input", "do": [conv(4)]},
        {"name": "q", "from": "p", "do": ["max_pool"]},
        {"name": "cell0", "from": ["p", "q"], "merge": cell},
        {"name": "cell1", "from": ["cell0.b", "cell0.c"], "merge": cell},
    ]
    found = zoo.create(whole(nodes, outputs=["cell1.b", "cell1.c"]))(torch.randn(1, 3, 8, 8))
    assert {name: tuple(y.shape) for name, y in found.items()} == {"b": (1, 4, 8, 8), "c": (1, 4, 4, 4)}


def test_names_that_lead_nowhere_come_all_at_once() -> None:
    found = sentences(
        [
            {"name": "aa", "from": "input", "do": [conv(4)]},
            {"name": "bb", "from": ["aa", "abb"]},
            {"name": "cc", "from": ["bb", "stages.3"]},
            {"name": "lost", "from": "aa"},
        ],
        outputs=["cc", "dd"],
    )
    assert found == [
        "spec: spec.graph.nodes.2.from.1: expected a net with stages; found `stages.3`",
    ]


def test_dangling_names_unread_nodes_and_outputs_are_refused_together() -> None:
    found = sentences(
        [
            {"name": "aa", "from": "input", "do": [conv(4)]},
            {"name": "bb", "from": ["aa", "abb"]},
            {"name": "lost", "from": "aa"},
        ],
        outputs=["bb", "dd"],
    )
    assert [sentence.partition(": expected")[0] for sentence in found] == [
        "spec: spec.graph.nodes.1.from.1",
        "spec: spec.graph.outputs.1",
        "spec: spec.graph.nodes.2",
    ]
    assert "nearest `bb`" in found[0] or "nearest `aa`" in found[0]
    assert "which nobody reads" in found[2]


def test_stages_beside_a_graph_have_widths() -> None:
    net = whole([{"name": "y", "from": "input", "do": [conv(2)]}])
    net["spec"] |= {"depths": [1, 1], "layer": ["layer_norm"]}
    with pytest.raises(SpecError, match="spec.dims\n    expected `dims`; found nothing"):
        zoo.create(net, device="meta")


def test_a_circle_is_shown() -> None:
    found = sentences([{"name": "a", "from": ["input", "b"]}, {"name": "b", "from": "a"}], outputs="b")
    assert found[0].endswith("expected nodes that do not wait for themselves; found a circle: `a` -> `b` -> `a`")


def test_a_clash_of_sizes_names_both_shapes_and_where_they_come_from() -> None:
    found = sentences([{"name": "a", "from": "input", "do": ["max_pool"]}, {"name": "y", "from": ["a", "input"]}])
    assert len(found) == 1
    assert found[0].startswith("graph.y: node `y` cannot merge `a` (1, 3, 8, 8) and `input` (1, 3, 16, 16)")


def test_a_clash_of_widths_names_both() -> None:
    found = sentences(
        [{"name": "a", "from": "input", "do": [conv(4)]}, {"name": "y", "from": ["a", "input"], "merge": "sum"}]
    )
    assert "tensors of 4, 3 channels have no sum; it meets `a` of 4 channels, `input` of 3 channels" in found[0]


def test_an_unknown_value_names_the_nearest() -> None:
    found = sentences([{"name": "y", "from": "input", "do": [conv("$widht")]}], let={"width": 4})  # type: ignore[arg-type]
    assert found == [
        "spec: spec.graph.nodes.0.do.0.out_dim: expected one of `width`, as `let` and `each` say; found `$widht`; nearest `width`"
    ]


def test_a_wiring_that_takes_one_tensor_is_no_merge() -> None:
    found = sentences([{"name": "y", "from": ["input"], "merge": {"residual": ["relu"]}}])
    assert "`residual` takes one tensor, and a merge several: put it into `do`" in found[0]


def test_levels_that_a_backbone_does_not_have_are_refused() -> None:
    spec = unet()
    spec["spec"]["backbone"]["levels"] = [0, 7]
    with pytest.raises(SpecError, match="expected levels of `starnet_nano` from -"):
        zoo.spec(spec)


def test_a_backbone_is_swapped_by_name() -> None:
    spec = zoo.create(unet(), swap={"backbone": "linear_vit_nano"}, device="meta").spec
    assert spec.tree["backbone"]["model"] == "linear_vit_nano"


def test_a_backbone_that_is_written_out_is_not_swapped() -> None:
    with pytest.raises(InputError, match="a backbone whose stages are not written out"):
        zoo.create(zoo.spec(unet()), swap={"backbone": "vim_nano"}, device="meta")


def test_the_deploy_form_has_no_nodes_of_training_and_gives_the_same() -> None:
    model = zoo.create(unet())
    x = torch.randn(1, 1, 32, 32)
    deployed = zoo.deploy(model)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), model(x), rtol=1e-4, atol=1e-5)
    assert not any("edges" in name for name in deployed.state_dict())


def test_another_number_of_classes_draws_the_last_layer_alone() -> None:
    model = zoo.create(unet())
    before = model.graph.d0[0] if hasattr(model.graph.d0, "__getitem__") else model.graph.d0._modules["0"]
    model.reset_classifier(7)
    assert model(torch.zeros(1, 1, 16, 16)).shape[1] == 7
    assert torch.equal(model.graph.d0._modules["0"].conv.weight, before.conv.weight)


def test_the_backbone_of_a_graph_gives_its_levels() -> None:
    assert len(zoo.create(unet(), features_only=True)(torch.zeros(1, 1, 32, 32))) == 3


def test_a_node_is_reached_by_its_name_in_overrides_and_selectors() -> None:
    changed = zoo.spec(unet(), {"graph.nodes.edges.do.0.out_dim": 5})
    assert changed.graph["parts"][4]["do"]["out_dim"] == 5
    selected = zoo.spec(unet(), {"graph.parts.d0.**.<conv_norm_act>.act": "gelu"})
    assert selected.graph["parts"][2]["do"]["act"]["block"] == "core/gelu@1"
    assert selected.graph["parts"][1]["do"]["act"]["block"] == "core/relu@1"


def test_the_chart_has_a_line_for_every_edge() -> None:
    chart = mermaid(zoo.spec(unet()))
    assert '  n_d2 -- "as ' in chart
    assert 'out_edges(["edges, train only"])' in chart
    assert chart.count("-->") + chart.count('-- "as') >= 11


def test_the_drawing_has_a_box_for_each_place_and_an_arrow_for_each_line_of_the_chart() -> None:
    spec = zoo.spec(unet())
    chart, root = mermaid(spec), ElementTree.fromstring(svg(spec))
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert "input" in texts and len(texts) == len(set(re.findall(r"^  (\w+)\(?\[", chart, re.MULTILINE)))
    paths = [path.get("d", "") for path in root.iter(f"{space}path")]
    assert len(paths) == chart.count("-->")
    assert all(float(words[1]) < float(words[-1]) for words in (re.findall(r"[\d.]+", d) for d in paths)), "downwards"


@pytest.mark.parametrize("decoder", ["fpn_nano", "unet_nano", "mlp_decoder_nano"])
@pytest.mark.parametrize("backbone", ["unireplknet_nano", "linear_vit_nano", "moe_vit_nano", "starnet_nano"])
def test_any_decoder_stands_on_any_backbone_and_learns(decoder: str, backbone: str) -> None:
    model = zoo.create(decoder, swap={"backbone": backbone}).train()
    y = model(torch.randn(2, model.spec.input.channels, 32, 32))
    y.square().mean().backward()
    assert y.shape == (2, 4, 32, 32)
    assert model.graph is not None
    assert all(parameter.grad is not None for parameter in model.graph.parameters())


def test_a_backbone_that_is_not_there_is_one_problem() -> None:
    spec = unet()
    spec["spec"]["backbone"]["model"] = "starnet_nanno"
    with pytest.raises(SpecError) as caught:
        zoo.spec(spec)
    assert [problem.nearest for problem in caught.value.problems] == ["starnet_nano"]


def test_levels_without_a_backbone_are_refused() -> None:
    assert (
        "expected a `backbone`, whose level that is; found `levels.0`"
        in sentences([{"name": "y", "from": "levels.0"}])[0]
    )
