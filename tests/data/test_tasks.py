"""Generated tasks: every target is what a slow reading of the ids gives, and nothing later is needed for it."""

from __future__ import annotations

import pytest
import torch

from zoo.data.tasks import (
    CLOSE,
    FILLING,
    OPEN,
    SHORTEST,
    TASKS,
    UNASKED,
    accuracy,
    induction,
    listops,
    parity,
    recall,
    selective_copying,
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", TASKS)
def test_batches_have_the_form_that_the_task_tells(name: str) -> None:
    task = TASKS[name]
    ids, targets = task.batch(32, seeded())
    assert ids.shape == targets.shape == (32, task.length)
    assert int(ids.min()) >= 0 and int(ids.max()) < task.vocab_size
    asked = targets[targets != UNASKED]
    assert len(asked) >= 32 and int(asked.min()) >= 0 and int(asked.max()) < task.vocab_size
    assert all(torch.equal(a, b) for a, b in zip(task.batch(32, seeded()), (ids, targets), strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_the_commonest_answer_is_about_as_good_as_chance(name: str) -> None:
    task = TASKS[name]
    _, targets = task.batch(512, seeded())
    asked = targets[targets != UNASKED]
    assert float(asked.bincount().max() / len(asked)) <= 2.2 * task.chance


def test_recall_asks_for_the_value_beside_a_key() -> None:
    ids, targets = recall(16, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        known = dict(zip(row[0:32:2], row[1:32:2], strict=True))
        assert len(known) == 16 and all(value >= 32 for value in known.values())
        assert wanted == [UNASKED] * 32 + [known[key] for key in row[32:]]


def test_copying_asks_for_what_is_not_noise_in_its_order() -> None:
    ids, targets = selective_copying(16, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        data = [token for token in row[:56] if token < 16]
        assert len(data) == 8 and wanted == [UNASKED] * 56 + data and row[56:] == [17] * 8


def test_induction_asks_for_what_stood_behind_a_token_when_it_came_first() -> None:
    ids, targets = induction(64, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        assert len(set(row[:24])) == 24 and sorted(row[24:]) == sorted(row[:24])
        assert wanted == [UNASKED] * 24 + [row[row.index(token) + 1] for token in row[24:]]


def test_parity_is_that_of_the_ones_so_far() -> None:
    ids, targets = parity(8, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        assert wanted == [sum(row[: place + 1]) % 2 for place in range(64)]


def values_of(tokens: list[int]) -> list[int]:
    """A parser of its own: the value of each bracket, where it closes."""
    stack: list[list[int]] = []
    found = []
    for token in tokens:
        value = token
        if OPEN <= token < CLOSE:
            stack.append([token])
            continue
        if token == CLOSE:
            operator, *values = stack.pop()
            middle = sorted(values)[len(values) // 2]
            value = [max(values), min(values), middle, sum(values) % 10][operator - OPEN]
        found.append(value if token == CLOSE else UNASKED)
        if stack:
            stack[-1].append(value)
    assert not stack
    return found


def test_listops_is_the_value_of_each_bracket_where_it_closes() -> None:
    ids, targets = listops(100, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        length = row.index(FILLING) if FILLING in row else len(row)
        assert length > 48 - SHORTEST and set(row[length:]) <= {FILLING} and set(wanted[length:]) <= {UNASKED}
        closed = iter(values_of(row[:length]))
        told = [UNASKED if OPEN <= token < CLOSE else next(closed) for token in row[:length]]
        assert wanted[:length] == told
    nested = (ids[:, 1:] >= OPEN) & (ids[:, 1:] < CLOSE) & (ids[:, :-1] < 10)
    assert int(nested.sum()) >= 50


def test_accuracy_counts_what_is_asked() -> None:
    logits = torch.eye(3).unsqueeze(0)
    assert accuracy(logits, torch.tensor([[0, UNASKED, 1]])) == 0.5
