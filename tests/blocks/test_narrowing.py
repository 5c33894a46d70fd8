"""Narrowed models: which layers, what their state holds, and that copies and files compute the same."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from blocks.narrowing import Narrow, NarrowDense, NarrowEmbedding, NarrowLinear, narrow
from blocks.ops.narrow_linear import Form, widened
from blocks.primitives.linears import Dense, Matrix
from zoo.build.deploy import fused

IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(2))
FORMS: list[Form] = ["int8", "bfloat16"]
every_form = pytest.mark.parametrize("form", FORMS)


def narrowed_net(form: Form, name: str = "gla_nano") -> Any:
    torch.manual_seed(0)
    return narrow(fused(zoo.create(name)), form)


def widened_net(net: Any) -> Any:
    """The same with plain layers that hold the weights which the codes stand for, in float64."""
    plain = copy.deepcopy(net)
    for module in [module for module in plain.modules() if isinstance(module, Narrow)]:
        weight = widened(module.codes, module.scales, torch.float64)
        del module.codes, module.scales
        kinds: dict[type, Any] = {NarrowLinear: nn.Linear, NarrowDense: Dense, NarrowEmbedding: type(module).__mro__[2]}
        module.__class__ = kinds[type(module)]
        module.weight = nn.Parameter(weight, requires_grad=False)
    return plain.double()


@every_form
@pytest.mark.parametrize("name", ["gla_nano", "mamba_nano", "llama_nano", "jamba_nano"])
def test_a_narrowed_model_computes_with_the_weights_that_its_codes_stand_for(form: Form, name: str) -> None:
    net = narrowed_net(form, name)
    right = widened_net(net)(IDS).logits
    with torch.no_grad():
        assert (net(IDS).logits - right).abs().max() <= 1e-4 * right.abs().max()


@every_form
@torch.no_grad()
def test_decoding_is_the_whole_within_rounding(form: Form) -> None:
    net, state, parts = narrowed_net(form, "mamba_nano"), {}, []
    for token in IDS.split(1, 1):
        logits, state = net(token, state=state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), net(IDS).logits, rtol=1e-4, atol=1e-5)


def test_large_maps_and_tables_are_narrowed_and_routers_are_not() -> None:
    net = narrowed_net("int8", "mixtral_nano")
    kinds = {name: type(part) for name, part in net.named_modules()}
    assert kinds["stem"] is NarrowEmbedding
    assert kinds["stages.0.layers.0.0.1.proj"] is NarrowDense
    assert all(kind is nn.Linear for name, kind in kinds.items() if name.endswith("router.gate"))
    small = nn.Sequential(nn.Linear(8, 8), Matrix(64, 64), nn.Linear(64, 64))
    assert [type(part) for part in narrow(small, "int8")] == [nn.Linear, NarrowDense, NarrowLinear]  # type: ignore[arg-type]


@every_form
def test_the_state_goes_into_another_net_and_out_of_copies(form: Form) -> None:
    net = narrowed_net(form)
    torch.manual_seed(1)
    other: Any = narrow(fused(zoo.create("gla_nano")), form)
    right = net(IDS).logits
    assert not torch.allclose(other(IDS).logits, right)
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(IDS).logits, right)
    twin.stem.codes.zero_()
    assert torch.equal(net(IDS).logits, right)


def test_a_state_holds_a_quarter_of_the_bytes() -> None:
    def size(net: nn.Module) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())

    whole = fused(zoo.create("gla_nano", {"dims": [512], "depths": [1]}))
    before = size(whole)
    assert size(narrow(copy.deepcopy(whole), "int8")) < 0.28 * before
    assert size(narrow(whole, "bfloat16")) < 0.52 * before


def test_images_go_through_a_narrowed_dense_layer_as_through_a_plain_one() -> None:
    torch.manual_seed(0)
    dense = Dense(64, 80).requires_grad_(False)
    x = torch.randn(2, 64, 3, 5)
    right = dense(x)
    narrow(dense, "bfloat16")
    torch.testing.assert_close(dense(x), right, rtol=0.02, atol=0.02)


def test_ids_beyond_the_table_are_named() -> None:
    with pytest.raises(IndexError, match=r"^token ids should be in \[0, 256\), the vocabulary; found 3 to 300$"):
        narrowed_net("int8")(torch.tensor([[3, 300]]))


@every_form
def test_padded_prompts_and_repeats_write_the_same(form: Form) -> None:
    net = narrowed_net(form)
    alone = net.generate(IDS, 8)
    assert torch.equal(net.generate(IDS, 8), alone)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], 1)
    mask = torch.ones_like(padded, dtype=torch.bool)
    mask[:, :3] = False
    assert torch.equal(net.generate(padded, 8, mask=mask), alone)
    assert torch.equal(net.double().generate(IDS, 3), alone[:, :3])
