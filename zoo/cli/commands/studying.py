"""`zoo study`: a block against others, in hosts of the catalogue."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.cli.options import command, positive, split, whole
from zoo.display.console import complain, dump, table


def add(commands: Any) -> None:
    parser = command(commands, "study", study)
    parser.add_argument("block", help="a registered block, or a Python file that defines one")
    parser.add_argument(
        "--hosts",
        default="convformer_nano,vim_nano,gla_nano",
        metavar="NAME,NAME",
        help="nets to stand in (default convformer_nano,vim_nano,gla_nano)",
    )
    parser.add_argument(
        "--against",
        default="attention,mamba2,identity",
        metavar="BLOCK,BLOCK",
        help="its rivals (default attention,mamba2,identity)",
    )
    parser.add_argument(
        "--match", default="macs", choices=["macs", "params"], help="what rivals cost the same in (default macs)"
    )
    parser.add_argument("--seeds", type=whole(2), default=5, help="runs of each block, at least 2 (default 5)")
    parser.add_argument(
        "--minutes", type=positive, default=60.0, help="for everything together, on the clock (default 60)"
    )
    parser.add_argument("--out", default="", metavar="DIR", help="write study.json and study.html")


def study(arguments: Namespace) -> int:
    """Exit code 0 whatever the verdicts: a study that ran is no failure."""
    import statistics

    import msgspec

    from zoo.training.ablation.report import growth_rows, verdict_rows, write
    from zoo.training.ablation.study import study as run

    result = run(
        arguments.block, split(arguments.hosts), split(arguments.against), match=arguments.match, seeds=arguments.seeds,
        minutes=arguments.minutes, told=partial(_tell, arguments.minutes),
    )  # fmt: skip
    files = write(result, Path(arguments.out)) if arguments.out else []
    if arguments.json:
        dump(msgspec.to_builtins(result))
        return 0
    rows = [
        [
            entry.host,
            entry.block,
            f"{statistics.fmean(entry.scores):.4f}",
            f"{entry.macs:,.0f}",
            f"{entry.params:,}",
            f"{entry.scale:g}",
            f"{entry.seconds:.0f}",
        ]
        for entry in result.runs
    ]
    table(["host", "block", "mean", "MACs", "parameters", "width", "seconds"], rows)
    table(["host", "against", "measure", "difference", "interval", f"{result.block} is"], verdict_rows(result))
    table(["block alone", "length", "ms", "MiB"], growth_rows(result))
    for entry in result.refused:
        complain(f"not compared: {entry.block} in {entry.host}: {entry.why}")
    for path in files:
        print(path)
    return 0


def _tell(minutes: float, what: str, share: float) -> None:
    """One line: how much of the time is behind, what is being done, and how long it may still take."""
    seconds = round(60 * minutes * (1 - share))
    complain(f"{share:5.0%}  {what}" + (f"; at most {seconds // 60}:{seconds % 60:02} left" if seconds else ""))
