"""Speeds, compared within one run: `python -m tests.benchmarks --help` names them."""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import sys
from typing import Any

import torch

from tests.benchmarks import (
    choosing,
    clocks,
    clusters,
    creation,
    decoding,
    deployed,
    deploying,
    experts,
    forward,
    gradients,
    imports,
    kernels,
    ops,
    plugged,
    predictions,
    recurrences,
    sharding,
    training,
)
from tests.benchmarks.harness import Comparison
from zoo.measure.this_device import this_device

WHAT = [
    "imports",
    "plugins",
    "create",
    "forward",
    "deployed",
    "kernels",
    "ops",
    "experts",
    "clocks",
    "choosing",
    "gradients",
    "predictions",
    "deploy",
    "ray",
    "sharding",
    "training",
    "decoding",
]
UNASKED = {"predictions", "deploy", "ray", "sharding", "training", "decoding"}
"""Run only when named: they take many minutes of a quiet machine, or packages that tests do without."""


def main(arguments: list[str]) -> int:
    """Runs the benchmarks and prints one table of ratios each."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speeds, compared within one run.")
    parser.add_argument("what", nargs="*", choices=WHAT, help="all without a word")
    parser.add_argument(
        "--models",
        default="",
        metavar="TEXT",
        help="models whose name holds TEXT, all of them; predictions: how many; deploy: names with commas between",
    )
    parser.add_argument("--batch", default="1", metavar="N,N", help="inputs at one time; several for deploy alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="predictions: for the calibration; deploy: for each choice"
    )
    parser.add_argument(
        "--rows",
        default="deploy-rows.jsonl",
        metavar="FILE",
        help="deploy: rows as they come; those in it are not measured again",
    )
    parser.add_argument("--runtimes", default=",".join(deploying.RUNTIMES), help="deploy: what `auto` chooses from")
    parser.add_argument("--families", type=int, default=12, help="predictions: of so many, `--models` in number")
    parser.add_argument("--script", default="train.py", metavar="FILE", help="training: timm's own, of its repository")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    parser.add_argument("--markdown", metavar="FILE", help="bring the rows of a table of ratios up to date")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    print(f"{platform.processor() or platform.machine()}, {chosen.threads} threads, torch {torch.__version__}")
    results: dict[str, Any] = {}
    what = chosen.what or [one for one in WHAT if one not in UNASKED]
    if "imports" in what:
        _show(results, "import", imports.run(chosen.rounds))
    if "plugins" in what:
        _show(results, "listing", plugged.run(chosen.rounds))
    if "create" in what:
        for table in (creation.random_weights, creation.from_file):
            for name, comparison in table(max(3, chosen.rounds // 2)).items():
                _show(results, f"create {name}", comparison)
    if "forward" in what:
        for name in forward.models(chosen.models):
            _show(results, name, forward.against_timm(name, int(chosen.batch), chosen.rounds))
    if "deployed" in what:
        for name, comparison in deployed.run(chosen.rounds).items():
            _show(results, name, comparison)
    if "kernels" in what:
        for name, comparison in kernels.run(chosen.rounds).items():
            _show(results, name, comparison)
    if "ops" in what:
        for rows in (ops, recurrences):
            for name, comparison in rows.run(chosen.rounds).items():
                _show(results, name, comparison)
    if "experts" in what:
        for name, comparison in experts.run(chosen.rounds).items():
            _show(results, name, comparison)
    if "clocks" in what:
        print("", *clocks.report(chosen.rounds), sep="\n")
    if "choosing" in what:
        print("", *choosing.report(chosen.threads), sep="\n")
    if "gradients" in what:
        for name, comparison in gradients.run(chosen.rounds).items():
            _show(results, name, comparison)
    if "predictions" in what:
        models = int(chosen.models) if chosen.models.isdigit() else 30
        print("", *predictions.report(chosen.minutes, models, chosen.families, chosen.threads), sep="\n")
    if "sharding" in what:
        print("", *sharding.report(), sep="\n")
    if "training" in what:
        print("", *training.report(chosen.script), sep="\n")
    if "decoding" in what:
        if reason := decoding.missing():
            print(reason, file=sys.stderr)
            return 1
        for name, comparison in decoding.run(chosen.threads, chosen.rounds).items():
            _show(results, name, comparison)
    if "ray" in what:
        print("", *clusters.report(int(chosen.batch), chosen.rounds), sep="\n")
    if "deploy" in what:
        return _deploy(chosen)
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(results, file, indent=1)
    if chosen.markdown:
        path = pathlib.Path(chosen.markdown)
        before = path.read_text() if path.exists() else ""
        path.write_text(markdown(results, f"{chosen.threads} threads, torch {torch.__version__}", before))
    return 0


def _deploy(chosen: argparse.Namespace) -> int:
    """Runs on unattended: a net that fails is told of, and the exit code is 1."""
    names = chosen.models.split(",") if chosen.models else deploying.NETS
    batches = [int(word) for word in chosen.batch.split(",")]
    rows = deploying.run(
        names,
        batches,
        chosen.threads,
        chosen.minutes,
        chosen.rounds,
        pathlib.Path(chosen.rows),
        chosen.runtimes.split(","),
    )
    print("", *deploying.table(rows), sep="\n")
    if chosen.markdown:
        path = pathlib.Path(chosen.markdown)
        part = deploying.section(rows, f"{this_device().id}, {chosen.threads} threads, torch {torch.__version__}")
        path.write_text(deploying.with_section(path.read_text() if path.exists() else "", part))
    if chosen.json:
        pathlib.Path(chosen.json).write_text(json.dumps(rows, indent=1))
    return 1 if any("failed" in row for row in rows) else 0


def markdown(results: dict[str, Any], machine: str, before: str = "") -> str:
    """The figures as one table: each candidate's ratio to the first, with its 95 % interval. What was not measured stays as `before`."""
    table, _, _ = before.partition("\n## ")
    rows = {line.split(" | ")[0][2:]: line for line in table.splitlines() if line.startswith("| ") and " ms | " in line}
    lines = [
        "# Speeds, compared within one run",
        "",
        f"Made by `python -m tests.benchmarks --markdown tests/benchmarks/RESULTS.md` ({machine}). A ratio above 1 is faster than",
        "the first candidate of its row; in brackets a 95 % interval. Milliseconds are those of one shared machine and mean little.",
        "",
        "| what | machine | first candidate | the others |",
        "|---|---|---|---|",
    ]
    for title, row in results.items():
        names = list(row["seconds"])
        others = [
            f"{name} **{row['ratios'][name][0]:.2f}x** ({row['ratios'][name][1]:.2f} to {row['ratios'][name][2]:.2f})"
            for name in names[1:]
        ]
        first = f"{names[0]}, {row['seconds'][names[0]] * 1e3:.1f} ms"
        rows[title] = f"| {title} | {row['verdict']} | {first} | {'; '.join(others)} |"
    start = before.find("\n## ")
    return "\n".join([*lines, *rows.values()]) + "\n" + (before[start:] if start >= 0 else "")


def _show(results: dict[str, Any], title: str, comparison: Comparison) -> None:
    results[title] = comparison._asdict() | {"verdict": comparison.verdict}
    print(f"\n{title}  ({comparison.verdict}: others took {comparison.others:.0%})", flush=True)
    for name, seconds in comparison.seconds.items():
        ratio = comparison.ratios[name]
        print(f"  {name:28s} {seconds * 1e3:9.2f} ms   {ratio.median:5.2f}x  ({ratio.low:.2f} to {ratio.high:.2f})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
