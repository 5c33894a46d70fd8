"""What may import what: floors, no circles, and what listing may load."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = {"torch", "timm", "torchvision"}

FLOORS: tuple[tuple[str, ...], ...] = (
    ("_elsewhere", "_moved", "_shadow", "_timm", "errors"),
    ("display", "system"),
    ("specs",),
    ("artifacts", "catalog", "weights"),  # names, bytes, and where they lie: each asks the others
    ("_typed", "data"),
    ("answering", "build"),
    ("pretrained",),
    ("factory",),
    ("exporting", "measure", "runtimes"),
    ("evaluating", "predicting", "selection"),
    ("publish",),
    ("training",),
    ("testing",),
    ("authoring", "site"),
    ("cli",),
    ("__main__",),
)
"""The rooms of `zoo`, the lowest first: a file imports from its own floor and those below. `zoo` itself only names where things are."""
UPWARD = {
    (
        "zoo.artifacts.pinning",
        "build",
    ): "weights that were converted are held against the net of their spec before they are pinned",
    ("zoo.artifacts.convert", "factory"): "a process of its own, run by `zoo pin`",
    ("zoo.catalog.__main__", "authoring"): "`python -m zoo.catalog`, where people look for it",
}
FACTORY_ASKED = {
    "zoo.catalog.sources": "a description that is given leads to the source of its kind: what is asked of a source is asked no more",
    "zoo.artifacts.pinning": "the process that converts is told a tag only where it decides the classes: of a spec it may know no such tag yet",
    "zoo.build.builder": "blocks are built here; the floors below know no builder that they could name instead",
    "zoo.build.deploy": "blocks are folded here, likewise",
    "zoo.pretrained.fill": "the plans for the tensors of either kind are chosen here, once",
    "zoo.publish.save": "only a spec can be written down",
    "zoo.runtimes.torch_files": "a record holds a spec, or a name with its options",
    "zoo.measure.worker": "a net of blocks is measured with values drawn here, whose memory is known before they are",
}
"""Where it matters who builds a model, and why it is a branch: what else differs, a description or a source answers by a method."""
RECURSION = ("blocks.registry.slots", "blocks.construct")
"""A slot builds blocks, which hold slots."""


def files_of(package: str) -> dict[str, pathlib.Path]:
    """{module: file} of a package of ours."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports_of(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import that runs, those inside functions too; a plain `import a.b` is (a.b, "")."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def graph_of(package: str) -> dict[str, set[str]]:
    """{module: the modules of the package that it imports}."""
    files = files_of(package)
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        named = {f"{home}.{name}" if f"{home}.{name}" in files else home for home, name in imports_of(path)}
        graph[module] = (named & files.keys()) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other: Tarjan's strongly connected components of more than one."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in graph[module]:
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in graph:
        if module not in order:
            visit(module)
    return groups


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_two_files_of_zoo_import_each_other_in_a_circle() -> None:
    assert circles(graph_of("zoo")) == []


def test_the_only_circle_of_blocks_is_that_slots_build_blocks() -> None:
    graph = graph_of("blocks")
    source, target = RECURSION
    assert target in graph[source]
    graph[source].discard(target)
    assert circles(graph) == []


def test_every_room_stands_on_a_floor() -> None:
    rooms = {module.split(".")[1] for module in files_of("zoo") if "." in module}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_no_file_of_zoo_imports_from_a_floor_above() -> None:
    height = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    upward = {
        (module, other.split(".")[1])
        for module, others in graph_of("zoo").items()
        for other in others
        if "." in module and "." in other and height[module.split(".")[1]] < height[other.split(".")[1]]
    }
    assert upward == set(UPWARD)


def importers_of(packages: set[str], paths: Iterable[pathlib.Path]) -> list[str]:
    """The files that import one of the packages."""
    return [str(path) for path in paths if {module.partition(".")[0] for module, _ in imports_of(path)} & packages]


def test_blocks_never_import_the_zoo() -> None:
    assert importers_of({"zoo"}, (ROOT / "blocks").rglob("*.py")) == []


def test_the_catalogue_and_specs_never_import_torch() -> None:
    rooms = ("zoo/specs", "zoo/catalog", "zoo/display", "zoo/system", "blocks/registry")
    builds = ("__main__", "external")  # the code of a plugin builds with torch
    paths = [path for room in rooms for path in (ROOT / room).glob("*.py") if path.stem not in builds]
    assert importers_of(HEAVY, paths) == []


def test_listing_describing_and_resolving_load_no_torch() -> None:
    code = (
        "import sys, zoo, blocks; zoo.list_models('*'); blocks.list_blocks(kind='norm'); blocks.describe('mlp');"
        "zoo.spec('convformer_s18').digest; zoo.info('convformer_s18');"
        f"print({HEAVY!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_the_grammar_of_the_command_line_loads_no_more_than_the_printing_of_tables_needs() -> None:
    code = f"import sys, zoo.cli; zoo.cli.parser(); print(({HEAVY!r} | {{'numpy', 'zoo.catalog', 'importlib.metadata'}}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_only_these_files_ask_whether_the_code_of_a_plugin_builds_a_model() -> None:
    asking = {
        module: len(compared)
        for module, path in files_of("zoo").items()
        if (
            compared := [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(".factory")
            ]
        )
    }
    assert asking == dict.fromkeys(FACTORY_ASKED, 1)


def test_who_builds_a_model_is_asked_of_its_description_and_not_of_its_class() -> None:
    asked = {
        module
        for module, path in (files_of("zoo") | files_of("plugins")).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("isinstance", "issubclass", "type", "is_external", "external.is_external")
        and any(name in ast.unparse(node) for name in ("External", "Opaque", "is_external"))
    }
    assert asked == {
        "zoo.catalog.external",
        "zoo.catalog.sources",
    }  # the latter of a name, of which nothing is known yet
