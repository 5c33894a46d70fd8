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


def test_loads_are_still_counted_under_the_old_name() -> None:
    """What reads them is there under the same name, so that no path has moved; the counting itself is not run here."""
    code = (
        "import runpy, warnings, zoo.measure.load_counter as counter\n"
        "ran = []; real = runpy.run_module\n"
        "runpy.run_module = lambda name, **how: ran.append((name, how['run_name']))\n"
        "with warnings.catch_warnings(record=True) as heard:\n"
        "    warnings.simplefilter('always'); real('zoo.measure.load', run_name='__main__')\n"
        "assert ran == [(counter.__name__, '__main__')], ran\n"
        "assert any('is now `python -m zoo.measure.load_counter`' in str(one.message) for one in heard)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
