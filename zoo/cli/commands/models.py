"""`zoo create` and `zoo export`: models built and written."""

from __future__ import annotations

import ast
from argparse import Namespace
from typing import Any

from zoo.cli.options import add_changes, add_form, command, settings
from zoo.display.console import count, dump, table

TARGETS = ("python", "onnx", "openvino", "torch-export", "aot", "torchscript", "executorch")
"""Those of `zoo.exporting.export`, which a grammar does not import."""


def add(commands: Any) -> None:
    build = command(commands, "create", create)
    build.add_argument("name")
    build.add_argument(
        "--pretrained", action="store_true", help="with its best weights at hand, instead of initial ones"
    )
    add_form(build, "train")
    build.add_argument("--out", default="", help="save the model: a .safetensors file, or a folder")
    add_changes(build)

    parser = command(commands, "export", export)
    parser.add_argument("name")
    parser.add_argument("path", help="the file to write")
    targets = "one readable file that needs torch alone (python, the usual), or a graph that a runtime reads"
    parser.add_argument("--to", default="python", choices=TARGETS, help=targets)
    form = "as trained, or folded for inference (default: train for python, else deploy)"
    parser.add_argument("--form", default=None, choices=["train", "deploy"], help=form)
    parser.add_argument(
        "--pretrained", action="store_true", help="of a graph: with its best weights at hand, instead of initial ones"
    )
    free = "sizes that stay free in a graph (default: as many as can be)"
    parser.add_argument("--dynamic", default=None, choices=["none", "batch", "size", "batch,size"], help=free)
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    behind = "of a graph of a net for a task: with the steps behind it, down to boxes that are picked or the class of each pixel"
    parser.add_argument("--answers", action="store_true", help=behind)
    add_changes(parser)


def create(arguments: Namespace) -> int:
    from zoo import factory
    from zoo.build.params import count_params
    from zoo.measure.macs import count_macs

    swap = settings(arguments.swap, "--swap")
    model = factory.create(
        arguments.name,
        settings(arguments.settings, "--set") or None,
        swap=swap or None,
        at=arguments.at,
        pretrained=arguments.pretrained,
        form=arguments.form,
    )
    params, macs = count_params(model), count_macs(model).total
    report = _swap_report(arguments, swap) if swap else []
    if arguments.out:
        from zoo.publish.save import save

        save(model, arguments.out)
    if arguments.json:
        dump(
            {
                "name": model.spec.name,
                "digest": model.digest,
                "form": arguments.form,
                "params": params,
                "macs": macs,
                "swaps": report,
            }
        )
        return 0
    if report:
        table(
            ["place", "before", "after", "parameters", "MACs"],
            [[r["path"], r["before"], r["after"], _change(r, "params"), _change(r, "macs")] for r in report],
        )
    print(
        f"{model.spec.name}: {params:,} parameters, {count(macs)}MACs, {arguments.form} form, digest {model.digest[:12]}"
    )
    return 0


def _change(row: dict[str, Any], what: str) -> str:
    before, after = row[f"{what}_before"], row[f"{what}_after"]
    return f"{before:,} -> {after:,}"


def _swap_report(arguments: Namespace, swap: dict[str, Any]) -> list[dict[str, Any]]:
    from zoo.catalog import sources
    from zoo.measure.swaps import swap_report

    changes = settings(arguments.settings, "--set")
    if sources.BACKBONE in swap:  # the blocks of two backbones are not each other's
        changes[f"{sources.BACKBONE}.model"] = swap.pop(sources.BACKBONE)
    spec = sources.spec(arguments.name, changes)
    return swap_report(spec, swap, arguments.at) if swap else []


def export(arguments: Namespace) -> int:
    """Writes the file and says how long a source file is, or how far the outputs of a graph are from the model's."""
    from zoo import factory

    is_graph = arguments.to != "python"
    model = factory.create(
        arguments.name,
        settings(arguments.settings, "--set"),
        swap=settings(arguments.swap, "--swap") or None,
        at=arguments.at,
        pretrained=is_graph and arguments.pretrained,
        device=None if is_graph else "meta",
        form="train" if is_graph else arguments.form or "train",
    )
    return _export_graph(arguments, model) if is_graph else _export_source(arguments, model)


def _export_source(arguments: Namespace, model: Any) -> int:
    from zoo.exporting.export import export as write

    path = write(model, arguments.path, force=arguments.force)
    text = path.read_text(encoding="utf-8")
    lines, name = len(text.splitlines()), ast.parse(text).body[-1].name  # type: ignore[attr-defined]
    if arguments.json:
        dump({"path": str(path), "lines": lines, "digest": model.spec.digest})
    else:
        print(f"{path}: {lines} lines; needs torch alone; `{name}()` makes the net")
    return 0


def _export_graph(arguments: Namespace, model: Any) -> int:
    from zoo.exporting.export import export_graph

    dynamic = None if arguments.dynamic is None else arguments.dynamic.replace("none", "").split(",")
    dynamic = None if dynamic is None else [word for word in dynamic if word]
    options = {"dynamic": dynamic, "answers": arguments.answers}
    made = export_graph(model, arguments.path, arguments.to, arguments.form, arguments.force, **options)
    size = made.path.stat().st_size
    if arguments.json:
        facts = {
            "path": str(made.path),
            "to": arguments.to,
            "bytes": size,
            "error": made.error,
            "free": list(made.free),
        }
        dump(facts | {"digest": model.spec.digest, "pretrained": arguments.pretrained})
        return 0
    free = f"free: {', '.join(made.free)}" if made.free else "one size of input"
    weights = "" if arguments.pretrained else "; initial values, no weights (`--pretrained`)"
    print(f"{made.path}: {size:,} bytes; {free}; outputs within {made.error:.0e} of the model's{weights}")
    return 0
