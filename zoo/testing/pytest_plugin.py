"""`pytest --zoo-conformance acme`: the checks of this package, run on the blocks and models of a namespace as tests.

    pytest --zoo-conformance acme                 all blocks and models of acme/, a test for each check
    pytest --zoo-conformance core -k mlp          the core's own
    pytest --zoo-conformance acme --zoo-report FILE

The report is a table in Markdown, made to stand in a README. pytest imports this file in every run: nothing heavy at its top.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

SETTING = "zoo_conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zoo", "conformance of blocks and models")
    group.addoption(
        "--zoo-conformance",
        dest=SETTING,
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="check its blocks and models",
    )
    group.addoption(
        "--zoo-report", dest="zoo_report", default="", metavar="FILE", help="write the table of the checks, in Markdown"
    )


def pytest_collection(session: pytest.Session) -> bool | None:
    """Instead of files, the checks: a run with the option is for them alone. `-k` and `--maxfail` work as ever."""
    config = session.config
    namespaces = config.getoption(SETTING)
    if not namespaces:
        return None
    session.items = [item for name in namespaces for item in _Namespace.from_parent(session, name=name).collect()]
    config.hook.pytest_collection_modifyitems(session=session, config=config, items=session.items)
    config.hook.pytest_collection_finish(session=session)
    session.testscollected = len(session.items)
    return True


class _Namespace(pytest.Collector):
    """All checks of one namespace."""

    def collect(self) -> Iterator[_Check]:
        from blocks import registry
        from zoo import catalog
        from zoo.testing import conformance, models

        blocks = [name for name in registry.identities() if name.partition("/")[0] == self.name]
        prefix = "" if self.name == "core" else f"{self.name}/"
        names = [
            name
            for name, entry in catalog.entries().items()
            if name.rpartition("/")[0] == prefix.rstrip("/") and entry.file
        ]
        if not blocks and not names:
            spaces = sorted({name.partition("/")[0] for name in registry.identities()})
            raise pytest.UsageError(
                f"nothing of `{self.name}/` is installed; namespaces are {', '.join(spaces)}; `zoo plugins` says more"
            )
        for identity in blocks:
            for check in conformance.CHECKS:
                yield _Check.from_parent(self, name=f"{identity}::{check}", subject=identity, check=check, of="block")
        for name in names:
            for check in models.CHECKS:
                yield _Check.from_parent(self, name=f"{name}::{check}", subject=name, check=check, of="model")


class _Check(pytest.Item):
    """One check of one block or model."""

    def __init__(self, *, subject: str, check: str, of: str, **rest: Any):
        super().__init__(**rest)
        self.subject, self.check, self.of = subject, check, of

    def runtest(self) -> None:
        from zoo.testing import conformance, models
        from zoo.testing.block_cases import Subject
        from zoo.testing.outcomes import FAILED, NOT_APPLICABLE

        if self.of == "block":
            result = conformance.run_check(Subject(self.subject), self.check)
        else:
            result = models.run_check(models.Subject(self.subject), self.check)
        _results(self.config).append(result)
        if result.outcome == NOT_APPLICABLE:
            pytest.skip(result.sentence)
        if result.outcome == FAILED:
            raise _Failed(result.sentence)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, _Failed) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[pathlib.Path, int | None, str]:
        return self.path, None, f"{self.subject}: {self.check}"


class _Failed(Exception):
    """A check that did not hold; its sentence is the whole report."""


def _results(config: pytest.Config) -> list[Any]:
    return config.stash.setdefault(_KEY, [])


_KEY: pytest.StashKey[list[Any]] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    results = _results(config)
    if not results:
        return
    report = table(results)
    terminalreporter.section("zoo conformance")
    terminalreporter.write_line(report)
    if path := config.getoption("zoo_report"):
        pathlib.Path(path).write_text(report + "\n", encoding="utf-8")


def table(results: list[Any]) -> str:
    """A row for each block and model: what holds, what fails, what was never promised."""
    from blocks.registry import plugins
    from zoo import __version__

    rows: dict[str, dict[str, list[str]]] = {}
    for result in results:
        rows.setdefault(result.block, {}).setdefault(result.outcome, []).append(result.check)
    owner = plugins.owner_of(next(iter(rows)).partition("/")[0])
    lines = [
        f"Checked by blockzoo {__version__}" + (f": {owner.owner}." if owner else "."),
        "",
        "| | holds | fails | does not apply |",
        "|---|---|---|---|",
    ]
    for name, outcomes in rows.items():
        holds, fails, not_made = (outcomes.get(kind, []) for kind in ("ok", "failed", "not applicable"))
        lines.append(
            f"| {name} | {len(holds)} of {len(holds) + len(fails)} | {', '.join(fails)} | {', '.join(not_made)} |"
        )
    return "\n".join(lines)
