"""Deployed models against what one line makes of timm's: plain exports to ONNX Runtime and OpenVINO, in turns, in one process for each net.

Both have the same weights, drawn at random, so that what a lower precision loses means nothing here: `auto` in bfloat16 is asked with a
loss that allows all. What `auto` chose is timed as the form that it is, among all others, so its ratio to the best of them is exact.

A row is written as soon as it is known, and a run that was broken off goes on behind the last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
NETS = [
    "mobileone_s1", "repvgg_a0", "resnet50", "mobilenetv4_conv_small", "mobilenetv4_conv_medium", "convnext_tiny", "starnet_s1",
    "starnet_s4", "efficientvit_m0", "efficientvit_m4", "efficientvim_m1", "vit_tiny_patch16_224", "deit_small_patch16_224",
    "swin_tiny_patch4_window7_224", "poolformer_s12", "poolformerv2_s12", "caformer_s18", "convformer_s18", "inceptionnext_atto",
    "inceptionnext_tiny", "mambaout_femto", "gmlp_ti16_224",
]  # fmt: skip
"""22 nets of 17 families, of up to 30 million parameters."""
RUNTIMES = ["torch", "onnxruntime", "openvino"]
"""What takes no minutes to make."""
PAUSE_S = 0.06
"""Before each turn, so that the threads of the runtime before it have stopped spinning."""
EAGER, PLAIN_ORT, PLAIN_ORT_NEW, PLAIN_OV, PLAIN_OV_BF16 = (
    "timm", "timm, onnxruntime", "timm, onnxruntime (dynamo)", "timm, openvino", "timm, openvino bfloat16",
)  # fmt: skip
LIMIT, LOW_LIMIT = 1e-2, 0.3
"""A share of the largest output: a form that is further off timm's net, in float32 or below, is told of and not timed."""
LIMIT_S = 1800
"""Seconds that one net may take at one batch size."""

Row = dict[str, Any]


def run(
    names: Sequence[str], batches: Sequence[int], threads: int, minutes: float, rounds: int, file: pathlib.Path,
    runtimes: Sequence[str] = RUNTIMES, tell: Callable[[str], None] = print,
) -> list[Row]:  # fmt: skip
    """The rows of all nets at all batch sizes; those that `file` holds are not measured again, and each new one is added to it."""
    known = {(row["net"], row["batch"], row["threads"]): row for row in _read(file)}
    rows = []
    for name in names:
        for batch in batches:
            row = known.get((name, batch, threads))
            if row is None:
                row = _apart(name, batch, threads, minutes, rounds, runtimes)
                with file.open("a") as rows_file:
                    rows_file.write(json.dumps(row) + "\n")
            tell(line_of(row))
            rows.append(row)
    return rows


def _read(file: pathlib.Path) -> list[Row]:
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if "failed" not in row]


def _apart(name: str, batch: int, threads: int, minutes: float, rounds: int, runtimes: Sequence[str]) -> Row:
    """One row, measured in a process of its own; one that fails is a row with the last line that it said."""
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        name,
        *map(str, (batch, threads, minutes, rounds)),
        ",".join(runtimes),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=output, text=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return {"net": name, "batch": batch, "threads": threads, "failed": f"it took more than {LIMIT_S} s"}
        output.seek(0)
        last = ([line for line in output.read().splitlines() if line.strip()] or ["no word"])[-1]
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return (
        json.loads(answers[-1]) if answers else {"net": name, "batch": batch, "threads": threads, "failed": last[:300]}
    )


def measured(name: str, batch: int, threads: int, minutes: float, rounds: int, runtimes: Sequence[str]) -> Row:
    """One row: milliseconds of each form, its speed as a multiple of timm's as created, and what `auto` chose."""
    import torch

    import zoo
    from tests.benchmarks.harness import compare
    from tests.models.parity import entries
    from zoo._timm import import_timm
    from zoo.runtimes.registered import find_runtime

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    theirs = import_timm().create_model(entries("timm")[name]).eval()
    for parameter in theirs.parameters():
        if not parameter.any():  # a head that begins at zero answers nothing that could be compared
            torch.nn.init.normal_(parameter, std=0.02)
    ours = zoo.create(name, weights=theirs.state_dict(), source="timm")
    x = torch.randn(batch, *theirs.default_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    offered = {runtime: find_runtime(runtime).precisions() for runtime in runtimes}
    forms: dict[str, Any] = {EAGER: theirs}
    forms |= _plain(theirs, x, threads, bfloat16="bfloat16" in offered.get("openvino", ()))
    _tell(f"{name}, batch {batch}: timm is exported")
    wish: dict[str, Any] = {"example": x, "threads": threads, "minutes": minutes, "max_loss": 1.0, "again": True}
    chosen = {}
    for precision in ("float32", "auto"):
        fast = zoo.deploy(ours, runtimes, precision, **wish)
        chosen[precision] = f"zoo, {fast.runtime} {fast.precision}"
        _tell(f"{name}, batch {batch}: {fast.report().summary}")
    for runtime, precisions in offered.items():
        for precision in precisions:
            try:
                forms[f"zoo, {runtime} {precision}"] = zoo.deploy(ours, runtime, precision, **wish)
            except zoo.InputError as error:
                _tell(f"{name}, {runtime}, {precision}: {error}")
    with torch.inference_mode():
        expected = theirs(x)
        for form in list(forms):
            off = float((torch.as_tensor(forms[form](x)).float() - expected).abs().max() / expected.abs().max())
            if not off < (LOW_LIMIT if "float16" in form else LIMIT):  # in bfloat16, too; NaN is below nothing
                _tell(f"{name}, {form}: off by {off:.1e} of the largest output, and left out")
                del forms[form]
        comparison = compare({form: _calling(call, x) for form, call in forms.items()}, rounds, pause=PAUSE_S)
    return {
        "net": name, "batch": batch, "threads": threads, "others": round(comparison.others, 3), "chosen": chosen,
        "ms": {form: round(1e3 * seconds, 3) for form, seconds in comparison.seconds.items()},
        "speed": {form: [round(value, 3) for value in ratio] for form, ratio in comparison.ratios.items()},
    }  # fmt: skip


def _calling(call: Any, x: Any) -> Callable[[], object]:
    return lambda: call(x)


def _plain(net: Any, x: Any, threads: int, bfloat16: bool) -> dict[str, Any]:
    """timm's net as one line of each exporter makes it; an exporter that fails is left out, and told of."""
    plain: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, dynamo in ((PLAIN_ORT, False), (PLAIN_ORT_NEW, True)):
            try:
                plain[form] = _onnx_runtime(net, x, threads, dynamo, pathlib.Path(folder, f"{dynamo}.onnx"))
            except Exception as error:  # whatever an exporter raises
                _tell(f"{form}: {type(error).__name__}: {str(error)[:200]}")
    for form, hint in [(PLAIN_OV, "f32"), *([(PLAIN_OV_BF16, "bf16")] if bfloat16 else [])]:
        try:
            plain[form] = _openvino(net, x, threads, hint)
        except Exception as error:
            _tell(f"{form}: {type(error).__name__}: {str(error)[:200]}")
    return plain


def _onnx_runtime(net: Any, x: Any, threads: int, dynamo: bool, path: pathlib.Path) -> Any:
    import onnxruntime
    import torch

    from zoo.runtimes.quiet import quiet

    with quiet():
        torch.onnx.export(net, (x,), str(path), dynamo=dynamo)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})[0]


def _openvino(net: Any, x: Any, threads: int, hint: str) -> Any:
    import openvino

    from zoo.runtimes.quiet import quiet

    with quiet():
        model = openvino.convert_model(net, example_input=x)
        model.reshape(list(x.shape))
    config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", config)
    return lambda x: compiled(x.numpy())[0]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def best(row: Row, forms: Iterable[str]) -> float:
    """The speed of the fastest of some forms, NaN where none was measured."""
    return max((row["speed"][form][0] for form in forms if form in row["speed"]), default=math.nan)


def plain_speed(row: Row) -> float:
    """The speed of the best plain export in float32."""
    return best(row, (PLAIN_ORT, PLAIN_ORT_NEW, PLAIN_OV))


def plain_bfloat16_speed(row: Row) -> float:
    """The speed of the best plain export in float32 or with the hint of bfloat16."""
    return best(row, (PLAIN_ORT, PLAIN_ORT_NEW, PLAIN_OV, PLAIN_OV_BF16))


def auto_speed(row: Row, precision: str = "float32") -> float:
    """The speed of the form that `auto` chose in float32, or (`auto`) in any precision."""
    return best(row, [row["chosen"][precision]])


def found_share(row: Row, precision: str = "float32") -> float:
    """The speed of what was chosen, as a share of the fastest of our forms that it could choose from."""
    ours = [
        form for form in row["speed"] if form.startswith("zoo, ") and (precision == "auto" or form.endswith(" float32"))
    ]
    return auto_speed(row, precision) / best(row, ours)


COLUMNS = {
    "ONNX Runtime": lambda row: best(row, (PLAIN_ORT, PLAIN_ORT_NEW)),
    "OpenVINO": lambda row: best(row, (PLAIN_OV,)),
    "OpenVINO bf16": lambda row: best(row, (PLAIN_OV_BF16,)),
    "zoo, torch": lambda row: best(row, ("zoo, torch float32",)),
    "zoo, onnxruntime": lambda row: best(row, ("zoo, onnxruntime float32",)),
    "zoo, openvino": lambda row: best(row, ("zoo, openvino float32",)),
    "zoo, openvino bf16": lambda row: best(row, ("zoo, openvino bfloat16",)),
    "auto": auto_speed,
    "auto / best plain": lambda row: auto_speed(row) / plain_speed(row),
    "auto, bf16 allowed": lambda row: auto_speed(row, "auto"),
    "of best plain": lambda row: auto_speed(row, "auto") / plain_bfloat16_speed(row),
}
"""Multiples of the speed of timm's net as created; the second and the last are ratios to the best plain export of it."""


def line_of(row: Row) -> str:
    """A row as it is told while the run goes on."""
    head = f"{row['net']:30s} b{row['batch']:<3d}"
    if "failed" in row:
        return f"{head} failed: {row['failed']}"
    figures = ", ".join(f"{name} {figure(row):.2f}" for name, figure in COLUMNS.items())
    return f"{head} timm {row['ms'][EAGER]:.1f} ms; {figures} ({row['others']:.0%} taken by others)"


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: a line for each net and batch, then for each batch the geometric mean, the worst, and how often the best was found."""
    good = [row for row in rows if "failed" not in row]
    lines = ["| net | batch | timm | " + " | ".join(COLUMNS) + " | chosen |", "|" + "---|" * (len(COLUMNS) + 4)]
    for row in good:
        chosen = ", ".join(dict.fromkeys(form.removeprefix("zoo, ") for form in row["chosen"].values()))
        lines.append(
            f"| {row['net']} | {row['batch']} | {row['ms'][EAGER]:.1f} ms | {_cells(figure(row) for figure in COLUMNS.values())} | {chosen} |"
        )
    for batch in sorted({row["batch"] for row in good}):
        group = [row for row in good if row["batch"] == batch]
        for word, fold in (("geometric mean", geometric_mean), ("worst", min)):
            cells = _cells(fold(_known(figure(row) for row in group)) for figure in COLUMNS.values())
            lines.append(f"| **{word} of {len(group)}** | {batch} |  | {cells} |  |")
    return [*lines, "", *_sentences(good)]


def _sentences(rows: Sequence[Row]) -> Iterator[str]:
    for precision, words in (("float32", "in float32"), ("auto", "with bfloat16 allowed")):
        shares = [found_share(row, precision) for row in rows]
        near = sum(share >= 0.98 for share in shares)
        if shares:
            yield f"What `auto` chose {words} is within 2 % of the fastest of our forms in {near} of {len(shares)} rows; worst {min(shares):.2f}."
    busy = [row for row in rows if row["others"] > 0.08]
    yield f"Other programs took more than 8 % of the machine in {len(busy)} of {len(rows)} rows."


def _cells(figures: Iterable[float]) -> str:
    return " | ".join("" if math.isnan(figure) else f"{figure:.2f}" for figure in figures)


def _known(figures: Iterable[float]) -> list[float]:
    return [figure for figure in figures if not math.isnan(figure)] or [math.nan]


def geometric_mean(figures: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, figures)))


HEADING = "## Deployed, against plain exports of timm's nets"


def section(rows: Sequence[Row], machine: str) -> str:
    """The part of RESULTS.md that is about deployed models."""
    told = [
        HEADING,
        "",
        f"Made by `python -m tests.benchmarks deploy --markdown tests/benchmarks/RESULTS.md` ({machine}). Multiples of the speed of timm's net as",
        "created; the first three columns are what one line of each exporter makes of it. All of a row were timed in turns in one process.",
        "",
    ]
    return "\n".join([*told, *table(rows)]) + "\n"


def with_section(before: str, part: str) -> str:
    """A page of results with this part in the place of the old one, or at its end."""
    start = before.find(HEADING)
    if start < 0:
        return before.rstrip("\n") + "\n\n" + part
    following = before.find("\n## ", start)
    return before[:start] + part + (before[following:] if following >= 0 else "")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description="One row, as JSON.")
    parser.add_argument("name")
    for word, kind in (("batch", int), ("threads", int), ("minutes", float), ("rounds", int), ("runtimes", str)):
        parser.add_argument(word, type=kind)
    asked = parser.parse_args(arguments)
    row = measured(asked.name, asked.batch, asked.threads, asked.minutes, asked.rounds, asked.runtimes.split(","))
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
