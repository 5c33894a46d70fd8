"""Generated tasks: every target is what a slow reading of the ids gives, and nothing later is needed for it."""

from __future__ import annotations

import pytest
import torch

from zoo.tasks import (
    CLOSE,
    FILLING,
    OPEN,
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
        known = dict(zip(row[0:16:2], row[1:16:2], strict=True))
        asked = {place: known[row[place]] for place in range(16, 64) if row[place] in known}
        assert len(known) == len(asked) == 8
        assert wanted == [asked.get(place, UNASKED) for place in range(64)]


def test_copying_asks_for_what_is_not_noise_in_its_order() -> None:
    ids, targets = selective_copying(16, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        data = [token for token in row[:56] if token < 16]
        assert len(data) == 8 and wanted == [UNASKED] * 56 + data and row[56:] == [17] * 8


def test_induction_asks_for_what_stood_behind_the_mark() -> None:
    ids, targets = induction(64, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        first = row.index(16)
        assert row[-1] == 16 and row.count(16) == 2 and first < 62
        assert wanted == [UNASKED] * 63 + [row[first + 1]]


def test_parity_is_that_of_the_ones_so_far() -> None:
    ids, targets = parity(8, seeded())
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        assert wanted == [sum(row[: place + 1]) % 2 for place in range(64)]


def value_of(tokens: list[int]) -> int:
    """A parser of its own."""
    stack: list[list[int]] = [[]]
    for token in tokens:
        if OPEN <= token < CLOSE:
            stack.append([token])
        elif token == CLOSE:
            operator, *values = stack.pop()
            middle = sorted(values)[len(values) // 2]
            stack[-1].append([max(values), min(values), middle, sum(values) % 10][operator - OPEN])
        else:
            stack[-1].append(token)
    (answer,) = stack.pop()
    return answer


def test_listops_is_the_value_of_the_expression() -> None:
    ids, targets = listops(200, seeded())
    nested = 0
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        tokens = [token for token in row if token != FILLING]
        assert wanted == [UNASKED] * 63 + [value_of(tokens)]
        nested += sum(OPEN <= token < CLOSE for token in tokens) > 1
    assert nested >= 50


def test_accuracy_counts_what_is_asked() -> None:
    logits = torch.eye(3).unsqueeze(0)
    assert accuracy(logits, torch.tensor([[0, UNASKED, 1]])) == 0.5
