"""Gates that let samples leave early, against their authors' code, and what the merge makes of them."""

from __future__ import annotations

import pytest
import torch

from blocks.context import Context
from blocks.heads.early_exit import EarlyExit, ExitGate, exit_levels, exit_loss, exit_shares, gate_loss


@torch.no_grad()
def test_a_gate_equals_upstream(golden):
    case = golden("layer_jei_gate")
    gate = ExitGate().to(case.dtype)
    gate.load_state_dict(case.state)
    case.check(gate(case.inputs["logits"]))


@torch.no_grad()
def test_exits_and_their_loss_equal_upstream(golden):
    case = golden("op_jei_exits")
    count = case.about["arguments"]["gates"]
    logits = [case.inputs[f"logits.{i}"] for i in range(count + 1)]
    gates = torch.cat([case.inputs[f"gate_logits.{i}"] for i in range(count)], -1)
    shares = exit_shares(gates)
    case.check(shares, "exit_probabilities")
    levels = exit_levels(shares)
    assert levels.equal(case.data["exit_level"])
    assert torch.bincount(levels, minlength=count + 1).equal(case.data["exits_per_gate"])
    case.check(torch.stack(logits, 1)[torch.arange(len(levels)), levels], "gated_logits")
    case.check(exit_loss(logits[:-1], case.data["in.targets"].long()), "loss")


def test_the_loss_of_gates_and_its_gradient_equal_upstream(golden):
    case = golden("op_jei_gates")
    arguments = case.about["arguments"]
    logits = [case.inputs[f"logits.{i}"] for i in range(arguments["gates"] + 1)]
    gates = torch.cat([case.inputs[f"gate_logits.{i}"] for i in range(arguments["gates"])], -1).requires_grad_()
    loss = gate_loss(logits, gates, case.data["in.targets"].long(), arguments["tradeoff"])
    case.check(loss.detach(), "loss")
    case.check(torch.autograd.grad(loss, gates)[0], "gradient")


def test_where_classes_are_known_the_losses_of_exits_and_gates_are_left_in_ctx():
    torch.manual_seed(0)
    merge, ctx = EarlyExit((5,) * 4).double().train(), Context()
    logits = [torch.randn(16, 5, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    ctx.write("classes", "", torch.arange(16) % 5)
    merge(*logits, ctx=ctx)
    losses = ctx.losses[merge.path]
    early = torch.autograd.grad(losses["exits"], [*logits, *merge.parameters()], retain_graph=True, allow_unused=True)
    assert all(grad.abs().sum() > 0 for grad in early[:3]) and early[3:] == (None,) * (len(early) - 3)
    late = torch.autograd.grad(losses["gates"], [*logits, *merge.parameters()], allow_unused=True)
    assert late[:4] == (None,) * 4 and all(grad.abs().sum() > 0 for grad in late[4:])
    merge.eval()(*logits, ctx=(judged := Context(slots=ctx.slots)))
    assert judged.losses == {}


@torch.no_grad()
def made(count: int = 4, classes: int = 5) -> tuple[EarlyExit, list[torch.Tensor]]:
    torch.manual_seed(0)
    merge = EarlyExit((classes,) * count).double()
    for gate in merge.gates:
        torch.nn.init.constant_(gate.linear.weight, 0.0)
        torch.nn.init.constant_(gate.linear.weight[:, 0], 4.0)
        torch.nn.init.constant_(gate.linear.bias, -3.2)
    return merge, [3 * torch.randn(16, classes, dtype=torch.float64) for _ in range(count)]


@torch.no_grad()
def test_a_sample_gets_the_answer_of_the_exit_that_it_takes():
    merge, logits = made()
    merge.eval()
    ctx = Context()
    y = merge(*logits, ctx=ctx)
    taken = []
    for i in range(16):
        left, level = 1.0, len(logits) - 1
        used = 0.0
        for exit_, gate in enumerate(merge.gates):
            g = float(gate(logits[exit_][i]).sigmoid())
            share = max(0.0, min(g, 1 - used))
            used += g
            given = min(1.0, share / left)
            if given >= 0.5:
                level = exit_
                break
            left *= 1 - given
        taken.append(level)
        assert y[i].equal(logits[level][i])
    expected = torch.bincount(torch.tensor(taken), minlength=4).double() / 16
    torch.testing.assert_close(ctx.reports[""]["exits"], expected)
    assert len(set(taken)) > 1


def test_training_gives_what_is_expected_of_all_exits_and_every_gate_learns():
    torch.manual_seed(0)
    merge = EarlyExit((5,) * 4).double().train()
    logits = [torch.randn(16, 5, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    y = merge(*logits)
    torch.testing.assert_close(y.exp().sum(-1), torch.ones(16, dtype=torch.float64))
    torch.nn.functional.nll_loss(y, torch.arange(16) % 5).backward()
    assert all(z.grad is not None and z.grad.abs().sum() > 0 for z in logits)
    assert all(parameter.grad.abs().sum() > 0 for parameter in merge.parameters())


def test_tokens_leave_one_by_one():
    merge, logits = made()
    merge.eval()
    with torch.no_grad():
        whole = merge(*(z.view(2, 8, 5) for z in logits))
        torch.testing.assert_close(whole.view(16, 5), merge(*logits))


@pytest.mark.parametrize("dims", [(5,), (1, 1)])
def test_fewer_than_two_classifiers_or_classes_are_refused(dims, refused):
    with refused(f"two classifiers of two classes are the fewest; there are {len(dims)} of {dims[0]}"):
        EarlyExit(dims)


def test_exits_are_told_of_real_tokens_alone():
    torch.manual_seed(0)
    logits, mask = [torch.randn(2, 7, 5) for _ in range(3)], torch.arange(7) < torch.tensor([[7], [3]])
    block, whole, part = EarlyExit((5, 5, 5)), Context(mask=mask), Context()
    block(*logits, ctx=whole)
    block(*(each[mask] for each in logits), ctx=part)
    torch.testing.assert_close(whole.reports[""]["exits"], part.reports[""]["exits"])
