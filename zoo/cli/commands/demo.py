"""`zoo demo`: an embedded model for each kind of block on real held-out images, offline; then one mixer is swapped, to show that blocks
interchange. `--all` runs every embedded model.

`zoo demo --task TASK`: the embedded models for a task on a scene that none was trained on, drawn into a picture."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocks.registry.words import short_name
from zoo.cli.commands.predict import answer_words
from zoo.cli.options import command, whole
from zoo.display.console import count, dump, table
from zoo.errors import InputError, Problem, listed

MAIN_BLOCK = {
    "dilated_reparam_conv": "large kernel", "linear_attention": "linear attention", "bidirectional_mamba": "bidirectional Mamba",
    "moe": "mixture of experts", "spatial_gating_mlp": "gated MLP", "hsm_ssd": "hidden state mixer",
    "mambavision_mixer": "Mamba and attention", "gated_aggregation": "gated aggregation", "gated_conv": "gated convolution",
    "inception_dwconv": "inception convolution", "universal_inverted_residual": "inverted bottleneck",
    "separable_conv": "separable convolution", "gated_mlp": "star operation",
}  # fmt: skip
"""The kind of block that a model stands for, by the most particular block in use."""
LANGUAGE = "language-modeling"
PROMPT, NEW_TOKENS = "Return a list of ", 80
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SWAP = ("unireplknet_nano", "pooling")


def add(commands: Any) -> None:
    parser = command(commands, "demo", demo)
    text = (
        "show one task on a generated picture: object-detection, semantic-segmentation, salient-object-detection, ..."
    )
    parser.add_argument("--task", default="", help=text)
    parser.add_argument("--all", action="store_true", help="every embedded model, not one for each kind of block")
    parser.add_argument("--out", default="", metavar="FILE.png", help="of the picture (default zoo-demo-TASK.png)")
    parser.add_argument("--seed", type=whole(0, 2**30), default=0, help="which picture (default 0)")


def demo(arguments: Namespace) -> int:
    from zoo.catalog.listing import list_models

    if arguments.task:
        return _task(arguments)
    names = list_models(pretrained=True, task="image-classification")
    rows = [_row(name) for name in (names if arguments.all else _one_of_each_kind(names))]
    swap, texts = _swapped(), [_continued(name) for name in list_models(pretrained=True, task=LANGUAGE)]
    if arguments.json:
        dump({"models": rows, "swap": swap, "texts": texts})
        return 0
    print("Held-out handwritten digits, never trained on; smoke weights: they prove the path, they rank nothing.\n")
    table(
        ["model", "block", "parameters", "MACs", "accuracy", "95 % interval", "ms, 1 thread"],
        [
            [
                r["model"],
                r["block"],
                f"{r['params']:,}",
                count(r["macs"]),
                f"{r['accuracy']:.1%}",
                "{:.1%} to {:.1%}".format(*r["ci95"]),
                f"{r['ms']:.1f}",
            ]
            for r in rows
        ],
    )
    print(f"\n{swap['model']} with every token mixer replaced by `{swap['mixer']}`, not trained again:")
    print(
        f"  {swap['sites']} sites, {swap['params_before']:,} -> {swap['params_after']:,} parameters, {count(swap['macs_before'])} -> {count(swap['macs_after'])} MACs"
    )
    for row in texts:
        print(f"\n{row['model']}, a language model of {row['params']:,} parameters, goes on:")
        print(f"  {row['prompt']}|{row['text']}")
    print(
        f"\nnext: zoo demo --all; zoo create {swap['model']} --swap token_mixer=linear_attention; zoo predict {rows[0]['model']} IMAGE"
        if rows
        else ""
    )
    return 0


def _task(arguments: Namespace) -> int:
    """Writes what goes in, what is known and what each model answers, side by side."""
    from zoo.predicting.tasks import demonstrated

    out = Path(arguments.out or f"zoo-demo-{arguments.task}.png")
    if out.suffix.lower() not in PICTURES:
        raise InputError("demo", Problem("--out", f"a picture: {listed(list(PICTURES))}", f"`{arguments.out}`"))
    shown = demonstrated(arguments.task, arguments.seed)
    try:
        shown.picture.save(out)
    except OSError as error:
        raise InputError("demo", Problem("--out", "a place to write to", error.strerror or str(error))) from None
    if arguments.json:
        dump({"task": arguments.task, "picture": str(out), "answers": shown.answers})
        return 0
    table(["model", "answer"], [[name, answer_words(answer)] for name, answer in shown.answers.items()])
    print(
        f"\n{out}: from left to right {', '.join(shown.parts)}. Smoke weights: they prove the path, they rank nothing."
    )
    print(f"next: zoo predict {next(iter(shown.answers))} PICTURE --out answers")
    return 0


def _one_of_each_kind(names: Sequence[str]) -> list[str]:
    """The first model for each kind of block, in the order of their names."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(_kind(name), name)
    return sorted(name for kind, name in first.items() if kind)


def _kind(name: str) -> str:
    """The kind of block that a model stands for; "" for what is none of them."""
    from zoo import catalog

    used = {short_name(block) for block in catalog.entry(name).blocks}
    return next((kind for block, kind in MAIN_BLOCK.items() if block in used), "")


def _row(name: str) -> dict[str, Any]:
    from zoo import catalog, factory
    from zoo.training.digits import evaluate
    from zoo.weights.stats import wilson_interval

    entry = catalog.entry(name)
    model = factory.create(name, pretrained=True)
    correct, n = evaluate(model)
    return {
        "model": name, "block": _kind(name), "params": entry.params, "macs": entry.macs,
        "accuracy": correct / n, "correct": correct, "n": n, "ci95": wilson_interval(correct, n), "ms": _milliseconds(model),
    }  # fmt: skip


def _milliseconds(model: Any) -> float:
    """The median of a few single-image passes on one thread: a first impression, no measurement.

    One thread, because a second one gains nothing on a net of this size and waits for whatever else is running.
    """
    import torch

    from zoo.data import digits
    from zoo.measure.clock import on_threads

    x = digits.to_input(digits.held_out()[0][:1])
    times = []
    with on_threads(1), torch.inference_mode():
        for _ in range(12):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    return sorted(times[2:])[5] * 1e3


def _continued(name: str) -> dict[str, Any]:
    """What a model of bytes makes of the prompt, drawing each byte, up to the end of the line."""
    import torch

    from zoo import catalog, factory
    from zoo.data import pydoc as text

    model: Any = factory.create(name, pretrained=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        new = model.generate(text.encode(PROMPT), NEW_TOKENS, temperature=0.6, stop=ord("\n"))
    return {"model": name, "params": catalog.entry(name).params, "prompt": PROMPT, "text": text.decode(new[0]).rstrip()}


def _swapped() -> dict[str, Any]:
    import torch

    from zoo import factory
    from zoo.build.inputs import meta_input
    from zoo.build.params import count_params
    from zoo.catalog import sources
    from zoo.measure.macs import count_macs
    from zoo.measure.swaps import swap_report

    name, mixer = SWAP
    spec = sources.spec(name)
    before, after = factory.create(name), factory.create(name, swap={"token_mixer": mixer})
    with torch.inference_mode():
        after(torch.zeros_like(meta_input(spec), device="cpu"))
    return {
        "model": name, "mixer": mixer, "sites": len(swap_report(spec, {"token_mixer": mixer})),
        "params_before": count_params(before), "params_after": count_params(after),
        "macs_before": count_macs(before).total, "macs_after": count_macs(after).total,
    }  # fmt: skip
