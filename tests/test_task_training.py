"""Mixers on generated tasks: the net that they stand in, that it learns, and the table that is filled row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo import task_training
from zoo.errors import SpecError
from zoo.task_training import (
    TaskRecipe,
    TaskRow,
    TaskTable,
    evaluate,
    mixers,
    row_of,
    shipped,
    task_spec,
    train_task,
    write_table,
)
from zoo.tasks import TASKS

SHORT = TaskRecipe(steps=120, batch_size=32, dim=32, lrs=(4e-3,))


@pytest.mark.parametrize("mixer", mixers())
def test_every_causal_mixer_stands_in_the_net(mixer: str) -> None:
    task = TASKS["recall"]
    model = zoo.create(task_spec(mixer, task))
    ids, _ = task.batch(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids).logits
        assert whole.shape == (2, task.length, task.vocab_size)
        later = model(torch.cat([ids[:, :20], ids[:, :12]], 1)).logits
    assert torch.allclose(whole[:, :20], later[:, :20], atol=1e-4)  # nothing later is needed


def test_a_mixer_that_sees_the_future_is_refused() -> None:
    with pytest.raises(SpecError):
        zoo.create(task_spec("pooling", TASKS["recall"]))


def test_a_state_that_is_carried_learns_what_needs_one() -> None:
    _, before = train_task("hgrn2", TASKS["induction"], TaskRecipe(steps=1, batch_size=32, dim=32), 4e-3)
    model, after = train_task("attention", TASKS["selective_copying"], SHORT, 4e-3)
    assert before < 0.35
    assert after > 1.5 * TASKS["selective_copying"].chance
    assert evaluate(model, TASKS["selective_copying"]) == after


def test_one_seed_gives_the_same_net() -> None:
    recipe = TaskRecipe(steps=3, batch_size=8, dim=16)
    first, second = (train_task("gla", TASKS["parity"], recipe)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_best_rate_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {(1e-3, 0): 0.4, (4e-3, 0): 0.7, (4e-3, 1): 0.6}
    net = torch.nn.Linear(2, 3)
    monkeypatch.setattr(task_training, "train_task", lambda mixer, task, recipe, lr, seed=0: (net, scores[lr, seed]))
    row = row_of("gla", "parity", seeds=2)
    assert (row.accuracies, row.lr, row.params) == ([0.7, 0.6], 4e-3, 9)


def test_a_table_goes_on_where_it_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []

    def made(mixer: str, task: str, seeds: int, recipe: TaskRecipe) -> TaskRow:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((mixer, task))
        return TaskRow(mixer, task, [0.5] * seeds, 1e-3, 1, 1.0)

    monkeypatch.setattr(task_training, "TABLE", tmp_path / "tasks.json")
    monkeypatch.setattr(task_training, "row_of", made)
    shipped.cache_clear()
    with pytest.raises(KeyboardInterrupt):
        write_table(["gla", "mamba2"], ["parity", "recall"])
    shipped.cache_clear()
    monkeypatch.setattr(task_training, "row_of", lambda *given: TaskRow(given[0], given[1], [0.1], 1e-3, 1, 1.0))
    table = write_table(["gla", "mamba2"], ["parity", "recall"])
    assert [row.accuracies for row in sorted(table.rows, key=lambda row: (row.mixer, row.task))] == [
        [0.5],
        [0.5],
        [0.5],
        [0.1],
    ]
    shipped.cache_clear()
    assert shipped() == TaskTable(TaskRecipe(), sorted(table.rows, key=lambda row: (row.mixer, row.task)))
    shipped.cache_clear()
