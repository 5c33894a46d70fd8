"""The entropy of attentions and the loss on it: against its authors' code, and as a model gathers it."""

from __future__ import annotations

import math

import torch

import zoo
from blocks.attention.attention import Attention
from blocks.attention.entropy_attention import EntropyAttention, entropy_loss, row_entropy
from blocks.context import Context


@torch.no_grad()
def test_the_loss_equals_upstream(golden):
    case = golden("op_entropy_regularisation")
    given = case.about["arguments"]
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
    entropies = [row_entropy(case.inputs[f"scores.{i}"].masked_fill(hidden, -torch.inf)) for i in range(2)]
    for i, entropy in enumerate(entropies):
        case.check(entropy, f"entropy.{i}")
    loss = entropy_loss(entropies, case.inputs["thresholds"], given["tolerance_margin_factor"])
    case.check(given["loss_coeff"] * loss, "loss")


def test_an_attention_that_tells_its_entropy_is_the_attention():
    torch.manual_seed(0)
    ours, plain = (kind(32, num_heads=4, causal=True).double() for kind in (EntropyAttention, Attention))
    plain.load_state_dict(ours.state_dict())
    x, ctx = torch.randn(2, 9, 32, dtype=torch.float64), Context()
    torch.testing.assert_close(ours.train()(x, ctx), plain(x))
    entropy = ctx.read("entropy")[""]
    q, k, _ = ours.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / math.sqrt(8)).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(entropy, torch.special.entr(weights).sum(-1), rtol=0, atol=1e-7)
    assert "entropy" not in (quiet := Context()).slots and ours.eval()(x, quiet) is not None
    assert not quiet.slots


def test_padding_has_no_entropy_and_changes_that_of_no_token():
    torch.manual_seed(0)
    mixer, x = EntropyAttention(32, num_heads=4, causal=True).double(), torch.randn(2, 9, 32, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    whole, part = Context(mask=mask), Context()
    mixer(x, whole)
    mixer(x[1:, :6], part)
    told = whole.read("entropy")[""]
    torch.testing.assert_close(told[1:, :, :6], part.read("entropy")[""])
    assert not told[1, :, 6:].any()


def test_the_thresholds_of_a_model_learn_from_all_its_layers():
    torch.manual_seed(0)
    model = zoo.create("entropy_guided_nano").train()
    ctx = Context()
    model(torch.randint(0, 256, (2, 16)), ctx)
    depth = model.spec.stages[0].layers
    assert len(ctx.read("entropy")) == len(depth)
    (loss,) = ctx.losses["stages.0.post"].values()
    penalty = model.stages[0].post
    expected = entropy_loss(list(ctx.read("entropy").values()), penalty.thresholds, penalty.margin)
    torch.testing.assert_close(loss, penalty.weight * expected)
    loss.backward()
    assert penalty.thresholds.grad.abs().min() > 0
