"""The ranges of a sweep: read whole, and refused with every problem."""

from __future__ import annotations

import pathlib

import pytest

from zoo.errors import InputError
from zoo.training.space import Range, drawn_of, read_space


def test_a_file_of_ranges_is_read_by_the_paths_of_a_recipe(tmp_path: pathlib.Path) -> None:
    (tmp_path / "space.toml").write_text("""
seed = [0, 1]

[optimizer]
lr = { low = 1e-4, high = 1e-2, log = true }

[schedule]
epochs = { low = 5, high = 20, step = 5 }

[augment]
scale = [[0.5, 1.0], [0.8, 1.0]]
""")
    space = read_space(tmp_path / "space.toml")
    assert space == {
        "seed": (0, 1),
        "optimizer.lr": Range(1e-4, 1e-2, log=True),
        "schedule.epochs": Range(5, 20, step=5),
        "augment.scale": ([0.5, 1.0], [0.8, 1.0]),
    }
    assert drawn_of("augment.scale", "[0.8,1.0]", space) == [0.8, 1.0]
    assert drawn_of("seed", 1, space) == 1


def test_all_that_is_wrong_with_ranges_is_told() -> None:
    with pytest.raises(InputError) as caught:
        read_space({
            "optimizer.rate": [1, 2],
            "optimizer.lr": {"low": 0.1, "high": 0.01},
            "optimizer.name": {"low": 1, "high": 2},
            "schedule.epochs": {"low": 1, "high": 2.5},
            "optimizer.clip": {"low": 0, "high": 1, "log": True},
            "loss.label_smoothing": {"low": 0.0, "high": 0.2, "step": 0.5},
            "data.batch_size": [8, 8],
            "optimizer.weight_decay": {"low": 0.0, "high": float("inf")},
            "seed": "1 to 9",
        })  # fmt: skip
    text = str(caught.value)
    for words in (
        "9 errors",
        "expected a field of a recipe; found none of that name; nearest `optimizer.",
        "expected `low` below `high`; found 0.1 and 0.01",
        "expected `low` below `high`; found 0 and inf",
        "expected a list of values, each a text; found a range of numbers",
        "expected whole numbers; found 1 to 2.5",
        "expected `log` with `low` above 0 and without `step`",
        "expected a `step` above 0 that fits into the range; found 0.5",
        "expected two values at least, each another; found [8, 8]",
        "or a list of values; found '1 to 9'",
    ):
        assert words in text, words


def test_values_out_of_the_bounds_of_their_field_are_refused() -> None:
    with pytest.raises(InputError, match="augment.hflip\n +expected a number >= 0 and <= 1; found 2"):
        read_space({"augment.hflip": {"low": 0, "high": 2}})
    with pytest.raises(InputError, match="expected one of 'cosine', 'linear', 'constant'; found 'square'"):
        read_space({"schedule.shape": ["cosine", "square"]})
    with pytest.raises(InputError, match="expected a range for one field at least; found none"):
        read_space({})
