"""What every mixer with a state promises: any split, any padding, any packing gives the same, and states keep their size."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocks.construct import construct
from blocks.context import Context
from blocks.registry import describe, list_blocks
from blocks.registry.slots import Place

LENGTH, DIM = 21, 64
MORE: dict[str, dict[str, Any]] = {
    "attention, grouped and rotary": {
        "block": "attention",
        "num_heads": 4,
        "num_kv_heads": 2,
        "rope": {"theta": 100.0},
    },
    "attention with a window": {"block": "attention", "window": 4, "rope": {"theta": 100.0}, "qk_norm": "rms_norm"},
    "attention with a window of one": {"block": "attention", "window": 1},
    "delta_net with gate": {"block": "delta_net", "gate": True, "neg_eigval": True},
    "hgrn2 with a lower bound": {"block": "hgrn2", "lower_bound": 0.4},
    "mamba2 with groups": {"block": "mamba2", "groups": 2, "head_dim": 16, "state_dim": 8, "dt_limit": [0.01, 0.2]},
    **{
        f"linear_attention, {name}": {"block": "linear_attention", "feature_map": name, "head_dim": 8}
        for name in ("relu", "relu2", "taylor", "rebased", "favor", "hedgehog")
    },
    "latent_attention with short queries": {"block": "latent_attention", "q_rank": 24, "v_dim": 20},
    "linear_attention, cosformer": {"block": "linear_attention", "feature_map": "cosformer", "max_length": 50},
}
"""Other forms of a block, by the name of the test: its parameters with `block`."""


@functools.cache
def made(name: str) -> nn.Module:
    """The block, made once, with default parameters, causal where it may be either, no parameter at 0 or 1."""
    call = MORE.get(name, {"block": name})
    if "causal" in describe(call["block"]).params:
        call = call | {"causal": True}
    torch.manual_seed(3)
    module = construct(call, Place(), DIM)
    assert module is not None
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    module.path = "here"  # type: ignore[assignment]
    return module.double().eval()


def tokens(length: int = LENGTH, samples: int = 2) -> Tensor:
    return torch.randn(samples, length, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


NAMES = [name for name in list_blocks(ability="step") if name != "mamba"] + list(MORE)
every_block = pytest.mark.parametrize("name", [*NAMES, "mamba"])
but_mamba = pytest.mark.parametrize(
    "name", NAMES
)  # which takes a mask or a state, not both, and does not tell its size


def same(found: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-10)


@functools.cache
@torch.no_grad()
def whole(name: str) -> tuple[Tensor, list[Tensor]]:
    """What the block makes of all tokens, and its state behind them."""
    ctx = Context(state={})
    return made(name)(tokens(), ctx), list(ctx.state["here"])


@torch.no_grad()
@every_block
@pytest.mark.parametrize("lengths", [[1] * LENGTH, [20, 1], [3, 5, 13], [2, 0, 19]], ids=str)
def test_whole_equals_any_split_and_leaves_the_same_state(name, lengths):
    block, ctx = made(name), Context(state={})
    parts = [block(part, ctx) for part in tokens().split(lengths, 1) if part.shape[1]]
    outputs, state = whole(name)
    same(torch.cat(parts, 1), outputs)
    for found, right in zip(ctx.state["here"], state, strict=True):
        same(found, right)


@torch.no_grad()
@every_block
def test_a_state_that_is_kept_changes_no_output(name):
    same(made(name)(tokens()), whole(name)[0])


def padded(x: Tensor, spots: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(x (B, L, C) among 9 paddings of large numbers, at the spots of each sample; the mask)."""
    mask = torch.ones(len(x), x.shape[1] + 9, dtype=torch.bool)
    for row, where in zip(mask, spots, strict=True):
        row[where] = False
    out = torch.full((*mask.shape, x.shape[2]), 90.0, dtype=x.dtype)
    out[mask] = x.flatten(0, 1)
    return out, mask


SPOTS = {
    "left": [list(range(9))] * 2,
    "right": [list(range(LENGTH, LENGTH + 9))] * 2,
    "one each": [list(range(9)), list(range(LENGTH, LENGTH + 9))],
    "among the tokens": [[0, 2, 5, 6, 7, 11, 19, 28, 29], [1, 3, 5, 7, 9, 11, 13, 15, 17]],
}


@torch.no_grad()
@every_block
@pytest.mark.parametrize("side", SPOTS)
def test_padding_changes_no_output_and_nothing_of_what_follows(name, side):
    block, (x, mask), rest = made(name), padded(tokens(), SPOTS[side]), tokens(4).flip(2)
    ctx = Context(mask=mask, state={})
    outputs = whole(name)[0].flatten(0, 1)
    same(block(x, Context(mask=mask))[mask], outputs)
    same(block(x, ctx)[mask], outputs)
    found = block(rest, Context(state=ctx.state))
    same(found, block(torch.cat([tokens(), rest], 1))[:, LENGTH:])


@torch.no_grad()
@every_block
def test_samples_of_different_lengths_continue_each_where_it_ended(name):
    block, x, rest = made(name), tokens(), tokens(5).flip(2)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, 4:] = False
    ctx = Context(mask=mask, state={})
    block(x, ctx)
    later = torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = block(rest, Context(state=ctx.state, mask=later))
    same(found[:1], block(torch.cat([x[:1, :4], rest[:1]], 1))[:, 4:])
    same(found[1:, :2], block(torch.cat([x[1:], rest[1:, :2]], 1))[:, LENGTH:])


@torch.no_grad()
@every_block
def test_packed_sequences_equal_separate_ones(name):
    block, x, borders = made(name), tokens(30, 1), [0, 1, 9, 30]
    found = block(x, Context(cu_seqlens=torch.tensor(borders)))
    for begin, end in itertools.pairwise(borders):
        same(found[:, begin:end], block(x[:, begin:end]))


@torch.no_grad()
@every_block
def test_packed_sequences_continue(name):
    block, x, borders = made(name), tokens(30, 1), torch.tensor([0, 11, 30])
    ctx = Context(cu_seqlens=borders, state={})
    block(x, ctx)
    rest = tokens(4, 2)
    found = block(rest, Context(state=ctx.state))
    for index, part in enumerate(x.split([11, 19], 1)):
        whole = block(torch.cat([part, rest[index : index + 1]], 1))
        same(found[index : index + 1], whole[:, part.shape[1] :])


@torch.no_grad()
@every_block
def test_state_saves_and_loads(name, tmp_path):
    block, ctx = made(name), Context(state={})
    block(tokens()[:, :9], ctx)
    torch.save(ctx.state, tmp_path / "state.pt")
    loaded = Context(state=torch.load(tmp_path / "state.pt", weights_only=True))
    same(block(tokens()[:, 9:], loaded), block(tokens()[:, 9:], ctx))


@torch.no_grad()
@every_block
@pytest.mark.parametrize("length", [1, 5, 300])
def test_size_of_the_state_is_as_told(name, length):
    block, ctx = made(name), Context(state={})
    block(tokens(length, 3), ctx)
    assert sum(part.numel() for part in ctx.state["here"]) == 3 * block.state_size(length)


@torch.no_grad()
@every_block
def test_state_that_went_in_is_left_as_it_was(name):
    block, ctx = made(name), Context(state={})
    block(tokens()[:, :9], ctx)
    before = ctx.state["here"]
    held = [part.clone() for part in before]
    block(tokens()[:, 9:], Context(state=dict(ctx.state)))
    assert all(torch.equal(part, kept) for part, kept in zip(before, held, strict=True))
