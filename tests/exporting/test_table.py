"""The published table of exports: a row for every family, and each row as it comes again."""

from __future__ import annotations

import os
import signal

import pytest

from zoo import catalog
from zoo.exporting import table
from zoo.exporting.export import format_of
from zoo.exporting.ports import SIZES

ROWS = table.read()
MODELS = table.models()
FAMILIES = sorted({catalog.entry(name).family for name in MODELS})
CELLS = [(name, to) for name, row in ROWS.items() for to in row]


@pytest.mark.slow  # held before a release: the command writes a new family's row
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_of_each_family_has_a_row(family: str) -> None:
    smallest = next(name for name in MODELS if catalog.entry(name).family == family)
    assert "onnx" in ROWS[smallest]


def test_rows_are_of_models_and_say_what_is_free_or_why_there_is_none() -> None:
    assert set(ROWS) <= set(MODELS)
    words = {"batch", *SIZES}
    for name, to in CELLS:
        cell = ROWS[name][to].removesuffix(table.EDGES).removesuffix(table.ILL)
        assert cell.startswith("refused: ") or cell == table.FIXED or set(cell.split(", ")) <= words, (name, to, cell)


@pytest.mark.parametrize(("name", "to"), [("starnet_nano", "onnx"), ("gmlp_nano", "onnx")])
def test_a_row_comes_again(name: str, to: str) -> None:
    assert table.row(name, to) == ROWS[name][to]


def ended(name: str, to: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_a_runtime_that_ends_its_process_makes_a_row() -> None:
    wanted = "refused: expected a file that runs; found an end of the process, SIGKILL"
    assert table.row_apart("starnet_nano", "onnx", ended) == wanted


def test_a_format_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "is_installed", lambda to: False)
    assert table.main(["starnet_nano"]) == 0 and capsys.readouterr().out == ""


def test_a_row_made_apart_is_the_row() -> None:
    assert table.row_apart("starnet_nano", "onnx") == ROWS["starnet_nano"]["onnx"]


@pytest.mark.slow  # every cell is an export, and passes in float64
@pytest.mark.parametrize(("name", "to"), CELLS)
def test_every_row_comes_again(name: str, to: str) -> None:
    if not table.is_installed(to):
        pytest.skip(f"{to} needs {', '.join(format_of(to).packages)}")
    assert table.row(name, to) == ROWS[name][to]
