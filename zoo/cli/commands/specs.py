"""`zoo spec`, `zoo check`, `zoo schema`: models as data."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from zoo.cli.options import add_changes, command, settings
from zoo.display.console import dump, table
from zoo.errors import InputError, Problem, listed, nearest

if TYPE_CHECKING:
    from zoo.specs.model import Spec
    from zoo.specs.tree import Path


def add(commands: Any) -> None:
    text = command(commands, "spec", show)
    text.add_argument("name")
    text.add_argument("--filled", action="store_true", help="with every default written in")
    text.add_argument("--graph", action="store_true", help="what flows where, as a chart in Mermaid's language")
    text.add_argument("--svg", default="", metavar="FILE", help="with --graph: write the chart as a drawing")
    text.add_argument("--why", metavar="PATH", default="", help="where the value at PATH of the filled spec came from")
    add_changes(text)

    file = command(commands, "check", check)
    file.add_argument("path", help="net.toml, net.json or my_block.py")

    json_schema = command(commands, "schema", schema)
    json_schema.add_argument("--plugins", action="store_true", help="with the blocks of installed plugins")


def show(arguments: Namespace) -> int:
    from zoo.catalog import sources
    from zoo.catalog.saved import saved_path

    spec = sources.spec(arguments.name, settings(arguments.settings, "--set"))
    swaps = settings(arguments.swap, "--swap")
    if swaps:
        request = sources.Request(settings(arguments.settings, "--set") or None, swaps, arguments.at)
        spec = sources.find_source(arguments.name).wanted(request)  # type: ignore[assignment]
    if arguments.why:
        return _why(spec, arguments.why, arguments.json)
    if arguments.graph:
        return _drawn(spec, arguments.svg)
    if arguments.filled or arguments.json or swaps or arguments.settings or saved_path(arguments.name):
        print(spec.to_json(indent=1))
        return 0
    print(_text(arguments.name), end="")
    return 0


def _drawn(spec: Spec, path: str) -> int:
    """The chart of a spec, as text or in a file."""
    from pathlib import Path

    from zoo.specs.drawing import mermaid, svg
    from zoo.system.folders import write_text

    if not path:
        print(mermaid(spec), end="")
        return 0
    if not path.endswith(".svg"):
        raise InputError("spec", Problem("--svg", "a file that ends in .svg", f"`{path}`"))
    write_text(Path(path), svg(spec))
    print(path)
    return 0


def _text(name: str) -> str:
    """The family file as its author wrote it."""
    import pathlib

    from zoo.catalog import names
    from zoo.catalog.published import spec_file

    if names.is_file(name):
        return pathlib.Path(names.split_variant(name)[0]).read_text()
    return spec_file(name).read_text()


def _why(spec: Spec, text: str, as_json: bool) -> int:
    value, origin = _find(
        spec, tuple(int(step) if step.isdigit() else step for step in text.removeprefix("spec.").split("."))
    )
    if as_json:
        dump({"path": text, "value": value, "source": origin[0], "where": origin[1]})
    else:
        print(
            f"{text} = {value}\n  from {origin[0]}: {origin[1]}"
            if origin[1]
            else f"{text} = {value}\n  from {origin[0]}"
        )
    return 0


def _find(spec: Spec, path: Path) -> tuple[Any, tuple[str, str]]:
    """The value at a path of the filled spec, or of the family's key rules below `keys`, and where it was written."""
    from zoo.specs.tree import child_origin

    node: Any = {"keys": spec.keys} if path[0] == "keys" and spec.keys else spec.tree
    origin = spec.tree.origin
    for i, step in enumerate(path):
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if step not in keys:
            where = ".".join(map(str, path[:i])) or "the filled spec"
            shown = listed([str(key) for key in keys], 20) or "nothing: it is a value"
            raise InputError(
                spec.name,
                Problem(
                    f"--why {'.'.join(map(str, path))}",
                    f"below {where} one of {shown}",
                    f"`{step}`",
                    nearest(str(step), map(str, keys)),
                ),
            )
        origin = child_origin(node, step) or origin
        node = node[step]
    return node, (origin.place, origin.path)


def check(arguments: Namespace) -> int:
    if arguments.path.endswith(".py"):
        return _check_blocks(arguments)
    from zoo.build.builder import check as check_on_meta
    from zoo.build.params import count_params
    from zoo.catalog import names, sources
    from zoo.catalog.saved import saved_path

    variants = [arguments.path]
    named = names.is_file(arguments.path) and not names.split_variant(arguments.path)[1]
    if named and not saved_path(arguments.path):
        import pathlib

        from zoo.specs.read import read_file
        from zoo.system.file_kinds import refuse_foreign

        refuse_foreign(pathlib.Path(arguments.path))
        names_in_file = read_file(arguments.path).variants
        variants = [f"{arguments.path}:{variant}" for variant in names_in_file] or variants
    rows: list[tuple[str, int, str]] = []
    for variant in variants:
        model = check_on_meta(sources.spec(variant))
        rows.append((model.spec.name, count_params(model), model.digest))
    if arguments.json:
        dump([{"name": name, "params": params, "digest": digest} for name, params, digest in rows])
    else:
        table(["model", "parameters", "digest"], [[name, f"{params:,}", digest[:12]] for name, params, digest in rows])
    return 0


def _check_blocks(arguments: Namespace) -> int:
    from zoo.testing.conformance import check_file

    results = check_file(arguments.path)
    if arguments.json:
        dump([{"block": r.block, "check": r.check, "outcome": r.outcome, "sentence": r.sentence} for r in results])
    else:
        table(["block", "check", "outcome", ""], [[r.block, r.check, r.outcome, r.sentence] for r in results])
    return 1 if any(result.outcome == "failed" for result in results) else 0


def schema(arguments: Namespace) -> int:
    from zoo.specs.json_schema import export

    dump(export(plugins=arguments.plugins))
    return 0
