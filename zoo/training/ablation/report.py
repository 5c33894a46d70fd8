"""A study as a page that stands alone, and as JSON."""

from __future__ import annotations

import html
import statistics
from pathlib import Path

import msgspec

from zoo.system.folders import write_whole
from zoo.training.ablation.study import Study

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
.better { color: #0a6b2d } .worse { color: #a02020 }
"""


def write(found: Study, folder: Path) -> list[Path]:
    """`study.json` and `study.html`."""
    files = [folder / "study.json", folder / "study.html"]
    write_whole(files[0], msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    write_whole(files[1], page(found).encode())
    return files


def verdict_rows(found: Study) -> list[list[str]]:
    """Host, rival, measure, difference, interval, verdict."""
    return [
        [
            comparison.host,
            comparison.other,
            comparison.measure,
            f"{comparison.mean:+.4f}",
            f"{comparison.low:+.4f} to {comparison.high:+.4f}",
            comparison.verdict,
        ]
        for comparison in found.comparisons
    ]


def growth_rows(found: Study) -> list[list[str]]:
    """Block, length, milliseconds, MiB."""
    return [
        [row["block"], str(row["length"]), f"{row['ms']:.2f}", f"{row['peak_bytes'] / 2**20:.2f}"]
        for row in found.growth
    ]


def page(found: Study) -> str:
    """One HTML file without scripts."""
    runs = [
        [run.host, run.block, f"{statistics.fmean(run.scores):.4f}", " ".join(f"{score:.4f}" for score in run.scores), f"{run.macs:,.0f}",
         f"{run.params:,}", f"{run.scale:g}", f"{run.rate:g}", f"{run.seconds:.0f}"] for run in found.runs
    ]  # fmt: skip
    refusals = [[run.host, run.block, run.why] for run in found.refused]
    parts = [
        f"<h1>{html.escape(found.block)}</h1>",
        f"<p>{found.seeds} seeds; {html.escape(found.match)} matched within 2 % by the width of channel mixers; the same recipe, and the same three "
        f"learning rates tried for each. Length of a run: {html.escape(', '.join(f'{host} {length}' for host, length in found.length.items()))} (epochs of scans, "
        "steps of text). Accuracy is a share; bits per byte are shown below zero, so that more is always better.</p>",
        "<h2>Verdicts</h2><p>The block less another, in runs of the same seed. The intervals hold together at 95 %.</p>",
        _table(["host", "against", "measure", "difference", "interval", "verdict"], verdict_rows(found), verdict=True),
        "<h2>Runs</h2>",
        _table(["host", "block", "mean", "by seed", "MACs", "parameters", "width", "rate", "seconds"], runs),
        "<h2>Time and memory by length</h2><p>The block alone, forward, one sequence, one thread.</p>",
        _table(["block", "length", "ms", "MiB at one time"], growth_rows(found)),
    ]
    if refusals:
        parts += ["<h2>Not compared</h2>", _table(["host", "block", "because"], refusals)]
    body = "\n".join(parts)
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(found.block)}</title><style>{STYLE}</style>\n{body}\n</html>\n"


def _table(columns: list[str], rows: list[list[str]], verdict: bool = False) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="{html.escape(row[-1])}">{cells}</tr>' if verdict else f"<tr>{cells}</tr>")
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"
