"""Recipes are data: every field is explained and bounded, and whatever is wrong with one is told at once."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from zoo.errors import InputError
from zoo.training.recipe import Recipe, fields, read_recipe, shipped, to_toml, values


def refusal(source: Any = "finetune", settings: Any = None) -> str:
    with pytest.raises(InputError) as caught:
        read_recipe(source, settings)
    return str(caught.value)


@pytest.mark.parametrize("name", ["finetune", "from-scratch", "linear-probe"])
def test_a_shipped_recipe_is_whole_and_comes_back_from_what_it_is_written_as(name: str, tmp_path: pathlib.Path) -> None:
    recipe = read_recipe(name)
    (tmp_path / "again.toml").write_text(to_toml(recipe))
    assert name in shipped()
    assert read_recipe(tmp_path / "again.toml") == recipe


def test_every_field_has_a_type_and_a_sentence() -> None:
    rows = list(fields())
    assert {path for path, *_ in rows} == set(values(Recipe()))
    assert all(len(text) > 10 and kind for _, kind, _, text in rows)


def test_a_field_that_is_not_there_has_a_nearest_one_and_all_problems_come_at_once() -> None:
    message = refusal(
        settings={"optimizer.learning_rate": 1, "schedule.epoch": 3, "data.split": 2, "model.freeze": "all"}
    )
    assert "nearest `schedule.epochs`" in message
    assert "expected a number > 0 and < 1; found 2" in message
    assert "recipe finetune: 4 errors" in message


def test_values_that_clash_are_told() -> None:
    assert "a divisor of data.batch_size, 32" in refusal(settings={"optimizer.accumulate": 5})
    assert "float32 or bfloat16 where engine.sharded" in refusal(
        settings={"engine.sharded": True, "engine.precision": "float16"}
    )
    assert "adapters freeze what they adapt" in refusal(settings={"model.lora": 4, "model.freeze": 1})


def test_a_file_states_what_differs_from_its_base(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "finetune"\n[schedule]\nepochs = 7\n')
    mine, base = read_recipe(tmp_path / "mine.toml"), read_recipe("finetune")
    assert (mine.schedule.epochs, mine.schedule.warmup, mine.optimizer) == (7, base.schedule.warmup, base.optimizer)


def test_a_recipe_of_another_name_or_form_is_refused(tmp_path: pathlib.Path) -> None:
    assert "nearest `finetune`" in refusal("fine-tune")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    assert "expected TOML" in refusal(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text("schedule = 3")
    assert "expected a table; found 3" in refusal(tmp_path / "bad.toml")
