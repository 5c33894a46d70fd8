"""Folders become classes of a model by name, WordNet id, number or order."""

from __future__ import annotations

import pytest

from zoo.errors import InputError
from zoo.evaluating.classes import matching


def test_names_are_found_in_any_order_and_capitals() -> None:
    assert matching(["dog", "Cat"], ["cat", "dog", "cow"], 3, "m") == ((1, 0), "name")


def test_a_name_that_two_classes_share_is_none() -> None:
    with pytest.raises(InputError, match="1 of 2 classes of the data are none of the 3 of the model"):
        matching(["crane", "cow"], ["crane", "crane", "cow"], 3, "m")


def test_a_part_of_imagenet_is_found_by_its_ids() -> None:
    assert matching(["n01440764", "n15075141"], ["tench"] * 1000, 1000, "m") == ((0, 999), "wordnet")


def test_all_ids_of_imagenet_need_no_list() -> None:
    ids = [f"n{number:08d}" for number in range(1000)]
    assert matching(list(reversed(ids)), (), 1000, "m").indices[:2] == (999, 998)


def test_numbers_count_from_0() -> None:
    assert matching(["0", "10", "2"], ["x"] * 11, 11, "m") == ((0, 10, 2), "number")


def test_order_is_used_unasked_only_where_nobody_knows_names() -> None:
    assert matching(["a", "b"], (), 2, "m") == ((0, 1), "order")
    with pytest.raises(InputError, match="--classes order, where the folders sorted by name are the classes"):
        matching(["a", "b"], ["x", "y"], 2, "m")
    assert matching(["a", "b"], ["x", "y"], 2, "m", "order") == ((0, 1), "order")


def test_a_class_that_the_model_lacks_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="expected a class of m; found `dgo`; nearest `dog`"):
        matching(["cat", "dgo"], ["cat", "dog"], 2, "m")
