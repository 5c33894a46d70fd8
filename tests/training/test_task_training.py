"""Mixers on generated tasks: the net that they stand in, that it learns, and the table that is filled row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import zoo
from zoo import cli
from zoo.data.tasks import TASKS
from zoo.errors import SpecError
from zoo.measure import task_table
from zoo.measure.task_table import TaskRecipe, TaskRow, TaskTable, scores, shipped
from zoo.publish.mixer_card import TASKS_SAID, mixer_card
from zoo.training import tasks as task_training
from zoo.training.tasks import evaluate, measure_table, mixers, publish, row_of, task_spec, train_task


@pytest.mark.parametrize("mixer", mixers())
def test_every_causal_mixer_stands_in_the_net(mixer: str) -> None:
    task = TASKS["recall"]
    model = zoo.create(task_spec(mixer, task))
    ids, _ = task.batch(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids).logits
        assert whole.shape == (2, task.length, task.vocab_size)
        later = model(torch.cat([ids[:, :20], ids[:, : task.length - 20]], 1)).logits
    assert torch.allclose(whole[:, :20], later[:, :20], atol=1e-4)  # nothing later is needed


def test_a_mixer_that_sees_the_future_is_refused() -> None:
    with pytest.raises(SpecError):
        zoo.create(task_spec("pooling", TASKS["recall"]))


def test_one_seed_gives_the_same_net() -> None:
    recipe = TaskRecipe(steps=3, batch_size=8, dim=16)
    first, second = (train_task("gla", TASKS["parity"], recipe)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.fixture
def empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table of its own, in which nothing stands."""
    monkeypatch.setattr(task_table, "TABLE", tmp_path / "tasks.json")
    monkeypatch.setattr(task_training, "TABLE", tmp_path / "tasks.json")
    shipped.cache_clear()
    yield
    shipped.cache_clear()


NET = torch.nn.Linear(2, 3)


def test_a_row_has_an_accuracy_for_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_training, "train_task", lambda mixer, task, recipe, seed, progress: (NET, 0.25 * seed))
    assert row_of("gla", "parity", seeds=3) == TaskRow("gla", "parity", [0.0, 0.25, 0.5], 9)


def test_a_further_seed_trains_no_earlier_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_training, "train_task", lambda mixer, task, recipe, seed, progress: (NET, 0.25 * seed))
    known = TaskRow("gla", "parity", [0.7], 4)
    assert row_of("gla", "parity", 3, known=known) == TaskRow("gla", "parity", [0.7, 0.25, 0.5], 4)


def test_a_table_goes_on_where_it_was_broken_off(empty_table: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []

    def row(mixer: str, task: str, *_: object) -> TaskRow:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append((mixer, task))
        return TaskRow(mixer, task, [0.5], 1)

    monkeypatch.setattr(task_training, "row_of", row)
    with pytest.raises(KeyboardInterrupt):
        measure_table(["gla", "mamba2"], ["parity", "recall"], keep=publish)
    monkeypatch.setattr(task_training, "row_of", lambda mixer, task, *_: TaskRow(mixer, task, [0.1], 1))
    table = measure_table(["gla", "mamba2"], ["parity", "recall"], table=shipped(), keep=publish)
    assert [row.accuracies for row in table.rows] == [[0.5], [0.5], [0.5], [0.1]]
    shipped.cache_clear()
    assert shipped() == table


def test_a_table_of_another_recipe_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_training, "row_of", lambda mixer, task, *_: TaskRow(mixer, task, [0.1], 1))
    other = TaskTable(TaskRecipe(steps=7), {}, [TaskRow("gla", "parity", [0.9], 1)])
    assert [row.accuracies for row in measure_table(["gla"], ["parity"], table=other).rows] == [[0.1]]


NOT_YET = {
    "compressed_cache_attention",
    "entropy_attention",
    "forgetting_attention",
    "gated_short_conv",
    "h3",
    "hgrn",
    "hip_attention",
    "kimi_delta_attention",
    "lawcat",
    "lmu",
    "lstm",
    "mesa",
    "miras",
    "paired_attention",
    "pruned_cache_attention",
    "rg_lru",
    "running_mean",
    "rwkv4",
    "seq_boat",
    "sequence_conv",
    "sequence_lif",
}
"""Mixers that were not trained on the tasks yet: `zoo train tasks MIXER --publish` does it."""


def test_the_shipped_table_is_of_the_recipe_the_mixers_and_the_tasks_of_the_code() -> None:
    assert shipped().recipe == TaskRecipe()
    assert shipped().chance == {task.name: task.chance for task in TASKS.values()}
    found = [(row.mixer, row.task) for row in shipped().rows]
    measured = {*mixers()} - NOT_YET
    assert sorted(found) == sorted((mixer, task) for mixer in measured for task in TASKS)


def test_the_shipped_table_shows_the_known_differences() -> None:
    recalled = {name: found["recall"] for name in mixers() if "recall" in (found := scores(name))}
    assert recalled["attention"] >= 0.95 and scores("attention")["induction"] >= 0.95
    assert recalled["attention"] > recalled["linear_attention"] + 0.05
    assert recalled["linear_attention"] > recalled["identity"] + 0.1
    assert abs(recalled["identity"] - TASKS["recall"].chance) < 0.02
    assert scores("rwkv7")["parity"] > scores("attention")["parity"] + 0.1


@pytest.mark.slow  # the whole recipe, a minute
def test_a_shipped_figure_is_found_again() -> None:
    row = next(row for row in shipped().rows if (row.mixer, row.task) == ("attention", "induction"))
    model, again = train_task("attention", TASKS["induction"])
    assert again == evaluate(model, TASKS["induction"]) == pytest.approx(row.accuracies[0], abs=0.02)
    assert sum(parameter.numel() for parameter in model.parameters()) == row.params


def test_the_page_of_mixers_has_a_row_for_each_and_a_sentence_for_each_task() -> None:
    page = mixer_card()
    assert set(TASKS_SAID) == set(TASKS)
    assert all(f"| `{row.mixer}` |" in page for row in shipped().rows)
    assert all(f"{task.name} ({task.chance:.1%})" in page for task in TASKS.values())


def test_the_command_on_blocks_says_what_a_mixer_learned(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["blocks", "attention"]) == 0
    assert f"learned, of generated tasks: recall {scores('attention')['recall']:.0%}, " in capsys.readouterr().out
    assert cli.main(["blocks", "mlp"]) == 0
    assert "learned" not in capsys.readouterr().out
    assert cli.main(["blocks", "attention", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == scores("attention")


OWN = '''
import torch
from torch import nn

from blocks import block


@block("own_mixer", kind="token_mixer", layout="BLC", abilities=("causal",))
class OwnMixer(nn.Module):
    """Mean of the past."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])
'''


def test_the_command_trains_a_block_of_ones_own_beside_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task_training, "TaskRecipe", partial(TaskRecipe, steps=2, batch_size=4))
    (tmp_path / "own.py").write_text(OWN)
    before = shipped()
    assert cli.main(["train", "tasks", str(tmp_path / "own.py"), "--tasks", "recall,parity"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split() == ["mixer", "recall", "parity"]
    assert lines[1].split()[0] == "local/own_mixer" and lines[1].split()[3] == "here"
    assert {line.split()[0] for line in lines[2:-1]} == set(before.names())
    assert lines[-1].split() == ["a", "guess", "6.2%", "50.0%"]
    assert "own_mixer on parity: step 2/2" in told.err
    assert json.loads(task_table.TABLE.read_text())["recipe"]["steps"] == before.recipe.steps  # nothing was published


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attention", "--tasks", "recal"], "no such task"),
        (["attentoin"], "nearest `attention`"),
        (["pooling", "--tasks", "parity"], "`pooling` sees what follows"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_refuses_in_a_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "tasks", *words]) != 0
    assert said in capsys.readouterr().err


def test_a_number_of_seeds_is_one_at_least(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "tasks", "attention", "--seeds", "0"])
    assert "expected a whole number from 1; found `0`" in capsys.readouterr().err
