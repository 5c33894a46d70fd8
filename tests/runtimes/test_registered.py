"""Which runtimes there are, what is said of one that is missing, and those of plugins, whose code may do anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.registry import plugins
from zoo.errors import InputError
from zoo.runtimes import registered

GOOD = """
class Acme:
    name, distribution = "acme", "acme-runtime"
    def missing(self): return ""
    def version(self): return "1.0"
    def precisions(self): return ("float32", "float7")
    def compile(self, net, signature, precision, threads, folder): raise NotImplementedError
    def open(self, folder, signature, precision, threads): raise NotImplementedError
    remake = open
    def complete(self, session, folder): pass
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions that declare runtimes."""
    codes = {
        "acme": GOOD, "raises": "raise SystemExit(3)", "half": "class Half:\n    name = distribution = 'half'\n    def missing(self): return ''",
        "torch": GOOD, "twice": GOOD, "again": GOOD,
    }  # fmt: skip
    kinds = {"half": "Half"}
    for name, code in codes.items():
        (tmp_path / f"{name}_rt.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        declared = "twice" if name == "again" else name
        (info / "entry_points.txt").write_text(f"[zoo.runtimes]\n{declared} = {name}_rt:{kinds.get(name, 'Acme')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.forget()
    yield tmp_path
    plugins.forget()


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="found `openvno`; nearest `openvino`"):
        registered.runtime("openvno")


@pytest.mark.parametrize("module", ("onnxruntime", "openvino"))
def test_a_runtime_that_is_not_installed_is_one_sentence_with_the_command(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as refusal:
        registered.runtime(module)
    assert f'next: pip install "blockzoo[{module}]"' in str(refusal.value)
    assert next(row for row in registered.rows() if row.name == module).missing
    assert module not in [found.name for found in registered.usable()]


def test_listing_imports_no_torch_and_no_runtime() -> None:
    code = "import sys; from zoo.runtimes import registered; registered.declared(); print({'torch', 'openvino', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.strip() == "set()"


def test_a_plugin_adds_a_runtime(site: Path) -> None:
    row = next(row for row in registered.rows() if row.name == "acme")
    assert row == registered.Row("acme", "acme-runtime", "1.0", ("float32",), "", "acme 1.0")
    assert registered.runtime("acme").name == "acme"


def test_a_plugin_that_breaks_is_a_row_with_a_reason_and_the_rest_works(site: Path) -> None:
    rows = {row.name: row for row in registered.rows()}
    assert "SystemExit: 3; next: pip install -U raises, or uninstall it" in rows["raises"].missing
    assert (
        "found one without `version`, `precisions`, `compile`, `open`, `complete` or `remake`" in rows["half"].missing
    )
    assert (
        "expected one plugin that declares it; found again 1.0 and twice 1.0; next: uninstall one"
        in rows["twice"].missing
    )
    assert rows["torch"].owner == "" and rows["torch"].missing == ""
    assert {"torch", "onnxruntime", "openvino"} <= {found.name for found in registered.usable()}


def test_telemetry_is_off() -> None:
    code = """
import sys, zoo
from zoo.runtimes.open_vino import core
core()
import openvino.tools.ovc.telemetry_utils as told
import openvino.tools.ovc as tools
print(tools.telemetry.__class__.__module__, "openvino_telemetry" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
