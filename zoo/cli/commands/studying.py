"""`zoo study`: a block against others, in hosts of the catalogue."""

from __future__ import annotations

import statistics
from argparse import Namespace
from functools import partial
from pathlib import Path

import msgspec

from zoo.display.console import complain, dump, table
from zoo.training.ablation.report import growth_rows, verdict_rows, write
from zoo.training.ablation.study import study as run


def study(arguments: Namespace) -> int:
    """Exit code 0 whatever the verdicts: a study that ran is no failure."""
    found = run(
        arguments.block, _listed(arguments.hosts), _listed(arguments.against), match=arguments.match, seeds=arguments.seeds,
        minutes=arguments.minutes, told=partial(_tell, arguments.minutes),
    )  # fmt: skip
    files = write(found, Path(arguments.out)) if arguments.out else []
    if arguments.json:
        dump(msgspec.to_builtins(found))
        return 0
    rows = [
        [
            one.host,
            one.block,
            f"{statistics.fmean(one.scores):.4f}",
            f"{one.macs:,.0f}",
            f"{one.params:,}",
            f"{one.scale:g}",
            f"{one.seconds:.0f}",
        ]
        for one in found.runs
    ]
    table(["host", "block", "mean", "MACs", "parameters", "width", "seconds"], rows)
    table(["host", "against", "measure", "difference", "interval", f"{found.block} is"], verdict_rows(found))
    table(["block alone", "length", "ms", "MiB"], growth_rows(found))
    for one in found.refused:
        complain(f"not compared: {one.block} in {one.host}: {one.why}")
    for path in files:
        print(path)
    return 0


def _tell(minutes: float, what: str, share: float) -> None:
    """One line: how much of the time is behind, what is being done, and how long it may still take."""
    left = round(60 * minutes * (1 - share))
    complain(f"{share:5.0%}  {what}" + (f"; at most {left // 60}:{left % 60:02} left" if left else ""))


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
