"""Tables that follow from numbers: in no state, and the same after everything that is done to a model's memory."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import blocks
import zoo
from blocks.attention.window_attention import HIDDEN, border, distances
from blocks.tables import Table
from zoo.testing.block_cases import Subject


def model_of(block: str) -> torch.nn.Module:
    """A small block that holds tables, with parameters that make them count."""
    torch.manual_seed(0)
    made = {
        "window_attention": lambda: blocks.get(block)(32, window=3, shift=1, head_dim=8, input_size=(7, 6)),
        "cascaded_group_attention": lambda: blocks.get(block)(64, window=3, input_size=(7, 6)),
        "aggregated_attention": lambda: blocks.get(block)(32, head_dim=8, input_size=(7, 6)),
        "cosine_attention": lambda: blocks.get(block)(32, head_dim=8, input_size=(7, 6)),
        "modality_router": lambda: blocks.get(block)(32, sizes=[2, 1]),
    }[block]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


TABLED = ("window_attention", "cascaded_group_attention", "aggregated_attention", "cosine_attention", "modality_router")


def answer(block: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(2, 32 if block.block_id != "core/cascaded_group_attention@1" else 64, 7, 6).to(dtype)
    y = blocks.chain.run(block, x)
    return y if isinstance(y, torch.Tensor) else y.weights


def test_no_block_registers_memory_that_its_state_does_not_hold() -> None:
    for subject in map(Subject, blocks.list_blocks()):
        module = subject.build(subject.spaces[0], device="meta")
        assert {key for key, _ in module.named_buffers()} <= set(module.state_dict()), subject.name


@pytest.mark.parametrize("name", TABLED)
def test_tables_outlive_memory_that_is_given_anew(name: str) -> None:
    whole = model_of(name)
    with torch.device("meta"):
        made = model_of(name)
    made.to_empty(device="cpu").load_state_dict(whole.state_dict())
    assert torch.equal(answer(made), answer(whole))


@pytest.mark.parametrize("name", TABLED)
def test_tables_are_not_averaged(name: str) -> None:
    whole = model_of(name)
    average = AveragedModel(whole, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        average.update_parameters(whole)
    assert torch.allclose(answer(average.module), answer(whole), atol=1e-6)


@pytest.mark.parametrize("name", TABLED)
def test_tables_go_with_copies_and_conversions(name: str) -> None:
    whole = model_of(name)
    expected = answer(whole)
    assert torch.equal(answer(copy.deepcopy(whole)), expected)
    assert torch.equal(answer(pickle.loads(pickle.dumps(whole))), expected)
    there_and_back = whole.to("meta").to_empty(device="cpu")
    there_and_back.load_state_dict(model_of(name).state_dict())
    assert torch.equal(answer(there_and_back), expected)
    assert torch.allclose(answer(there_and_back.double(), torch.float64).float(), expected, atol=1e-5)


def test_a_table_met_in_inference_mode_can_be_trained_through() -> None:
    block = model_of("window_attention").double()
    with torch.inference_mode():
        answer(block, torch.float64)
    answer(block, torch.float64).sum().backward()
    assert block.relative_position_bias_table.grad is not None


@pytest.mark.parametrize("name", TABLED[:4])
def test_an_exported_block_holds_its_tables(name: str) -> None:
    block, x = model_of(name), torch.randn(2, 64 if "cascaded" in name else 32, 7, 6)
    x = x.flatten(2).mT if block.layout == "BLC" else x
    program = torch.export.export(block, (x,))
    torch.testing.assert_close(program.module()(x), block(x))


def test_a_mask_is_finite_in_every_dtype_and_hides_all_the_same() -> None:
    mask = border(7, 6, 3, 1)
    assert set(mask.unique().tolist()) == {HIDDEN, 0.0}
    assert mask.half().isfinite().all()
    assert torch.tensor(HIDDEN, dtype=torch.float64).exp() == 0


def test_a_table_is_its_call() -> None:
    table = Table(distances, (3,))
    assert table == Table(distances, (3,)) != Table(distances, (4,))
    assert table.values.tolist()[0] == [12, 11, 10, 7, 6, 5, 2, 1, 0]
    assert pickle.loads(pickle.dumps(table)) == table


def test_written_out_biases_follow_the_learned_ones() -> None:
    block = model_of("cascaded_group_attention")
    deployed = blocks.folding.fuse(block)
    torch.testing.assert_close(answer(deployed), answer(block), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for module in (block, deployed):
            module.relative_bias.mul_(-3)
    torch.testing.assert_close(answer(deployed), answer(block), rtol=1e-4, atol=1e-5)


def test_a_deployed_net_survives_memory_that_is_given_anew() -> None:
    whole = zoo.create("efficientvit_m0", form="deploy")
    made = copy.deepcopy(whole).to_empty(device="cpu")
    made.load_state_dict(whole.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made(x), whole(x))
