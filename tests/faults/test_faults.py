"""Every fault that was found is right today, each tried in a process of its own."""

import pytest

from tests.faults.__main__ import outcome
from tests.faults.catalogue import Fault, faults


@pytest.mark.slow
@pytest.mark.parametrize("one", faults(), ids=lambda one: one.id)
def test_fault_is_mended(one: Fault):
    assert outcome(one) is None


def test_every_fault_has_one_id():
    ids = [one.id for one in faults()]
    assert len(set(ids)) == len(ids)
