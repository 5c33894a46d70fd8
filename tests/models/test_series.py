"""Models that read series of numbers, and encoders of text, against outputs of their authors' code; padding, pieces and rules of names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from blocks.context import Context
from blocks.heads.ctc_head import CtcHead
from tests.models.reference import Reference


@pytest.fixture(scope="module")
def squeezebert() -> Reference:
    changes = {"input.vocab_size": 64, "stem.1.max_positions": 64, "dims": [32], "depths": [2]}
    return Reference("model_squeezebert", "squeezebert_nano", changes)


@torch.no_grad()
def test_squeezebert_gives_the_logits_of_transformers(squeezebert: Reference) -> None:
    real = squeezebert.data["in.attention_mask"].bool()
    slots = {"token_types": {"": squeezebert.data["in.token_type_ids"]}}
    ctx = Context(mask=real, slots=slots)
    logits = squeezebert.model(squeezebert.data["in.input_ids"], ctx)
    squeezebert.check(logits.masked_fill(~real.unsqueeze(-1), 0), "logits")
    squeezebert.check(ctx.read("pooled")["head"], "pooled")
    squeezebert.leads_back()


@pytest.fixture(scope="module")
def time_moe() -> Reference:
    changes = {
        "dims": [32], "depths": [2],
        "define.moe": {"router.num_experts": 6, "expert.hidden_dim": 24, "shared.hidden_dim": 48},
    }  # fmt: skip
    return Reference("model_time_moe", "time_moe_nano", changes)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [5, 1, 18], [1] * 24], ids=str)
def test_time_moe_gives_the_forecasts_of_its_authors_in_any_pieces(time_moe: Reference, pieces: list[int]) -> None:
    state: dict[str, Any] = {}
    parts = []
    for series in time_moe.data["in.input"].double().unsqueeze(-1).split(pieces, 1):
        parts.append(time_moe.model(series, Context(state=state)))
    for horizon in (1, 8):
        time_moe.check(torch.cat([part[f"horizon{horizon}"] for part in parts], 1), f"predictions.{horizon}")


def test_time_moe_balances_as_its_authors_do(time_moe: Reference) -> None:
    ctx = Context()
    with torch.no_grad():
        time_moe.model(time_moe.data["in.input"].double().unsqueeze(-1), ctx)
    load, share = (
        torch.stack([report[key] for report in ctx.reports.values()]).mean(0) for key in ("load", "importance")
    )
    torch.testing.assert_close((6 * 2 * load * share).sum().float(), time_moe.data["aux_loss"], rtol=0, atol=1e-6)
    time_moe.leads_back()


@torch.no_grad()
def test_lmuformer_gives_the_outputs_of_its_authors() -> None:
    changes = {
        "input": {"features": 10, "length": 24}, "num_classes": 5, "dims": [16], "define.memory": {"memory_dim": 16, "theta": 24.0},
        "layer.1.residual.0.ratio": 2,
    }  # fmt: skip
    case = Reference("model_lmuformer", "lmuformer_nano", changes)
    x = case.data["in.x"].double()
    features = case.model.forward_features(x)
    case.check(features.mT, "features")
    case.check(case.model.forward_head(features), "output")
    means = features.cumsum(1) / torch.arange(1, 25).view(-1, 1)
    case.check(case.model.head.classifier(means).transpose(0, 1), "running_output")
    case.leads_back()


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[40, 24], [1] * 64], ids=["two", "steps"])
def test_a_stream_of_sounds_is_told_as_the_whole(pieces: list[int]) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create("lmuformer_stream_nano").double()
    x, state = torch.randn(2, 64, 16, dtype=torch.float64), {}
    whole = model(x)
    parts = [model(part, Context(state=state)) for part in x.split(pieces, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(whole[:, -1], model.head.classifier(model.stages[0].post(_before(model, x))[:, -1]))


def _before(model: Any, x: Tensor) -> Tensor:
    """What the running mean meets."""
    x = model.stem(x)
    for layer in model.stages[0].layers:
        x = layer(x)
    return x


@torch.no_grad()
def test_squeezeformer_gives_the_outputs_of_its_authors_and_leaves_the_lengths() -> None:
    changes = {
        "input": {"features": 80, "length": 48}, "num_classes": 0, "dims": [16], "define.root.factor": 4.0,
        "stem": [{"block": "conv_subsampling", "filters": 6, "hides_padding": False}, "@root", "@norm"],
    }  # fmt: skip
    renamed = {"layers.7.": "layers.1.", "layers.15.": "layers.3."}
    case = Reference("model_squeezeformer", "squeezeformer_nano", changes, renamed)
    x, lengths = case.data["in.x"].double().squeeze(-1), case.data["in.lengths"]
    ctx = Context(mask=torch.arange(48) < lengths.unsqueeze(1))
    found = case.model(x, ctx)
    assert ctx.mask is not None and torch.equal(ctx.mask.sum(1), case.data["out_lengths"].clamp(max=12))
    case.check(found * ctx.mask.unsqueeze(-1), "output")
    case.check(next(case.model.stem.children()).subsampled(x), "subsampled")
    case.leads_back()


def test_a_ctc_head_reads_what_its_loss_was_taught() -> None:
    torch.manual_seed(0)
    head = CtcHead(32, num_classes=10)
    texts, x = torch.tensor([[3, 3, 7, 1]]), torch.randn(1, 16, 32)
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = head.loss(head(x), texts, torch.tensor([16]), torch.tensor([4]))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 and head.decode(head(x)) == texts.tolist()
    assert head.decode(head(x), torch.zeros(1, 16, dtype=torch.bool)) == [[]]
