"""A layer that is run again in the backward pass leaves the trace of one run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from blocks.context import Context
from zoo.build.checkpointing import checkpointed
from zoo.build.inputs import drawn_inputs


@pytest.mark.parametrize("name", ["starnet_nano", "mobilenetv4_nano", "unireplknet_nano"])
def test_statistics_move_once_in_a_step(name: str) -> None:
    plain = zoo.create(name).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = torch.randn(4, plain.spec.input.channels, 16, 16)
    for model in (plain, saving):
        model(x).square().mean().backward()
    for key, buffer in plain.named_buffers():
        assert torch.equal(saving.get_buffer(key), buffer), key
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(saving.get_parameter(key).grad, parameter.grad, msg=key)


class Counts(nn.Module):
    """Counts its runs, and hands on what it reads."""

    takes_ctx = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: torch.Tensor, ctx: Context) -> torch.Tensor:
        self.runs += 1
        y = x * self.weight + sum(ctx.read("hint").values())
        ctx.write("hint", "here", y.sin() * self.weight)
        return y * ctx.read("hint")["here"]


def test_a_second_run_reads_what_the_first_one_met() -> None:
    found = []
    for save in (False, True):
        layers, ctx = [Counts() for _ in range(3)], Context()
        ctx.write("hint", "here", torch.tensor(0.5))
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        y = x
        for layer in layers:
            y = checkpointed(layer, y, ctx) if save else layer(y, ctx)
        last = ctx.read("hint")["here"]
        (y.sum() + last.sum()).backward()
        found.append([x.grad, *(layer.weight.grad for layer in layers), *(layer.runs for layer in layers)])
        assert ctx.read("hint")["here"] is last
    for saved, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(saved, plain)


def test_reports_of_routers_under_checkpointing_are_those_of_the_step() -> None:
    plain = zoo.create("moe_vit_nano").train()
    saving, reports = copy.deepcopy(plain), []
    saving.set_grad_checkpointing()
    x = torch.randn(2, 1, 32, 32)
    for model in (plain, saving):
        ctx = Context()
        loss = model(x, ctx).square().mean() + ctx.total_loss()
        before = dict(ctx.reports)
        loss.backward()
        assert all(ctx.reports[path] is report for path, report in before.items())
        reports.append(before)
    for path, report in reports[0].items():
        torch.testing.assert_close(reports[1][path], report)


def test_norms_that_read_the_moments_they_move_have_the_gradients_of_a_plain_step() -> None:
    """Maps are continued at their borders by running moments (`rep_conv` of Meta-SpikeFormer), which the first run has moved."""
    torch.manual_seed(0)
    model: Any = zoo.create("metaspikformer_nano").double().train()
    x = drawn_inputs(model.spec, 2)[0].double()
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    for each in (model, twin):
        each(x).square().mean().backward()
    plain, saved = ({name: one.grad for name, one in each.named_parameters()} for each in (model, twin))
    torch.testing.assert_close(saved, plain, rtol=0, atol=0)
    torch.testing.assert_close(dict(twin.named_buffers()), dict(model.named_buffers()), rtol=0, atol=0)
