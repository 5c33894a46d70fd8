"""Module paths of release 0.1 answer for one release more, with a warning that names the new path."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from blocks import _moved
from zoo._moved import MOVED as OF_ZOO

MOVED = OF_ZOO | _moved.MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_gives_the_module_of_the_new_one(old: str) -> None:
    new = importlib.import_module(MOVED[old])
    for name in [name for name in sys.modules if name == old]:
        del sys.modules[name]
    with pytest.warns(DeprecationWarning, match=f"`{MOVED[old]}`"):
        found = importlib.import_module(old)
    assert found is new and found.__spec__.name == MOVED[old]


def test_names_of_the_catalogue_answer_under_their_old_place() -> None:
    from zoo import catalog
    from zoo.catalog.listing import list_models

    assert catalog.list_models is list_models and "starnet_s1" in catalog.list_models()


@pytest.mark.parametrize("old", ["zoo.digits", "zoo.catalog", "zoo.measure.profiles"])
def test_python_m_runs_under_the_old_name(old: str) -> None:
    """What is a file of code that runs is found; nothing is run here but its import."""
    code = f"import runpy, sys; sys.argv = ['x', '--help']; print(runpy._get_module_details({old!r})[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
