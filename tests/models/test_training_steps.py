"""Every model of images trains as `zoo.create` lays it out, and one of each language family; each in a process of its own."""

from __future__ import annotations

import pytest

from tests.training_steps import outcome, subjects


@pytest.mark.slow
@pytest.mark.parametrize("name", subjects(1e8))
def test_model_trains_as_it_is_created(name):
    works, told = outcome(name)
    assert works, told
