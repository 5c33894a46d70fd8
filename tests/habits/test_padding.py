"""Padding counts nowhere: not in what a model answers, and neither in the losses and the reports that its blocks leave behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from blocks.context import Context
from tests.sampled import STAND_FOR_ALL
from zoo import catalog

TASKS = ("language-modeling", "masked-language-modeling", "translation", "recommendation")
"""Those of models that read tokens: their specs say so too, and take seconds to be read."""
LANGUAGE = [name for name, entry in catalog.entries().items() if name.endswith("_nano") and entry.task in TASKS]
TELLING = {"entropy_guided_nano", "cskv_nano", "mixtral_nano", "deepseek_v3_nano", "routed_lm_topk_nano"}
"""Their blocks leave losses or reports."""
REAL, PADDING = 17, 5
PLACES = {
    "behind": [*range(REAL)],
    "before": [*range(PADDING, REAL + PADDING)],
    "between": [*range(4), *range(4 + PADDING, REAL + PADDING)],
}


def padded(ids: torch.Tensor, places: list[int], vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(the tokens at their places among padding of any ids, the mask)."""
    longer = torch.randint(0, vocabulary, (len(ids), REAL + PADDING))
    longer[:, places] = ids
    return longer, torch.zeros(longer.shape, dtype=torch.bool).index_fill(1, torch.tensor(places), True)


def trained(model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, Context]:
    torch.manual_seed(1)
    ctx = Context()
    return model.train()(ids, ctx, mask=mask).logits, ctx


@pytest.mark.slow  # reads every spec of the catalogue
def test_models_of_tokens_are_those_of_these_tasks() -> None:
    assert [
        name for name in catalog.entries() if name.endswith("_nano") and zoo.spec(name).input.kind == "tokens"
    ] == LANGUAGE


@pytest.mark.parametrize(
    "name",
    [name if name in STAND_FOR_ALL | TELLING else pytest.param(name, marks=pytest.mark.slow) for name in LANGUAGE],
)
@pytest.mark.parametrize("where", PLACES)
def test_padding_changes_no_loss_and_no_report(name: str, where: str) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create(name).double()
    vocabulary = model.spec.input.vocab_size
    ids = torch.randint(0, vocabulary, (2, REAL))
    longer, mask = padded(ids, PLACES[where], vocabulary)
    try:
        (logits, whole), (more, part) = trained(model, ids, None), trained(model, longer, mask)
    except ValueError as refusal:
        assert "mask" in str(refusal) or "padding" in str(refusal)
        return
    if not any(getattr(module, "p", 0) for module in model.modules()):
        torch.testing.assert_close(more[:, PLACES[where]], logits, rtol=1e-6, atol=1e-9)
    for expected, found in ((whole.losses, part.losses), (whole.reports, part.reports)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(TELLING))
def test_a_sample_of_padding_alone_has_no_part_in_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create(name)
    ids = torch.randint(0, model.spec.input.vocab_size, (2, REAL))
    logits, ctx = trained(model, ids, torch.tensor([[True], [False]]).expand(2, REAL))
    (logits[0].square().mean() + ctx.total_loss()).backward()
    assert [
        name for name, each in model.named_parameters() if each.grad is not None and not each.grad.isfinite().all()
    ] == []
    model.zero_grad()
    _, ctx = trained(model, ids[:0], None)
    assert float(sum(loss.detach() for losses in ctx.losses.values() for loss in losses.values())) == 0
