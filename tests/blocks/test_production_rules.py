"""Rules that compete for entities: against their authors' code, and with perceptrons against the steps of section 3 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.moe.production_rules import ProductionRules


@torch.no_grad()
def test_one_rule_and_one_entity_equal_upstream(golden):
    case = golden("layer_nps_rules")
    given, state = case.about["config"], case.state
    rules = ProductionRules(
        given["hidden_dim"],
        num_rules=given["num_rules"],
        rule_dim=given["rule_dim"],
        key_dim=32,
        input_size=(given["num_variables"],),
    ).to(case.dtype)
    rules.load_state_dict(
        {
            "rules": state["rule_embeddings"][0],
            "rule_query.weight": state["rule_select_.gll_read.weight"],
            "rule_query.bias": state["rule_select_.gll_read.bias"],
            "rule_key.weight": state["rule_select_.gll_write.weight"],
            "rule_key.bias": state["rule_select_.gll_write.bias"],
            "entity_query.weight": state["variables_select_.gll_read.weight"][0].T,
            "entity_query.bias": state["variables_select_.gll_read.bias"][0],
            "entity_key": state["variables_select_.gll_write.weight"],
            "entity_bias": state["variables_select_.gll_write.bias"],
            "proj.weight": state["project_rule_.weight"],
            "proj.bias": state["project_rule_.bias"],
        }
    )
    y = rules.eval()(case.inputs["hidden"])
    case.check(y)
    assert y.abs().sum(-1).argmax(-1).equal(case.data["variable"])


def naive(rules: ProductionRules, x: Tensor) -> Tensor:
    """One sample (N, C): the rule, the entity that it acts on, its context, and what the perceptron of the rule gives."""
    query = rules.rule_query(x.flatten())
    r = int(torch.stack([query @ rules.rule_key(e) for e in rules.rules]).argmax())
    keys = [x[i] @ rules.entity_key[i] + rules.entity_bias[i] for i in range(len(x))]
    p = int(torch.stack([rules.entity_query(rules.rules[r]) @ key for key in keys]).argmax())
    asked = rules.context_query(x[p])
    c = int(torch.stack([asked @ rules.context_key(each) for each in x]).argmax())
    seen = torch.cat([x[p], x[c]])
    hidden = (seen @ rules.hidden[r] + rules.hidden_bias[r]).relu()
    y = torch.zeros_like(x)
    y[p] = hidden @ rules.out[r] + rules.out_bias[r]
    return y


def made() -> tuple[ProductionRules, Tensor]:
    torch.manual_seed(0)
    rules = ProductionRules(8, num_rules=5, rule_dim=6, key_dim=7, hidden_dim=9, input_size=(4,)).double()
    return rules, 2 * torch.randn(32, 4, 8, dtype=torch.float64)


@torch.no_grad()
def test_a_rule_with_a_perceptron_follows_the_steps_of_the_paper():
    rules, x = made()
    y = rules.eval()(x)
    torch.testing.assert_close(y, torch.stack([naive(rules, sample) for sample in x]))
    changed = y.abs().sum(-1) > 0
    assert changed.sum(-1).le(1).all()
    assert len(changed.float().argmax(-1).unique()) > 1


def test_choices_have_the_gradient_of_their_scores():
    rules, x = made()
    for training in (False, True):
        rules.train(training).zero_grad()
        rules(x).square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in rules.parameters())
