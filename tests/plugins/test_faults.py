"""Packages that break in every way we could think of, all installed at once: each is named with its cure, and the rest works."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.plugins.conftest import Run
from tests.plugins.packages import Package, block_of, install, models_of, spec

RECURSES = "def f(): f()\nf()\n"
INDEX = json.dumps(
    [
        {"name": "net_nano", "family": "net", "file": "net.toml", "task": "image-classification", "digest": "0" * 64,
         "params": 1, "macs": 1, "input_size": [32, 32]}
    ]
)  # fmt: skip
FAULTS: list[Package] = [
    block_of("imports-badly", "imports_badly", "raise ImportError('no such luck')\n"),
    block_of("lacks-a-dependency", "lacks_a_dependency", "import einx_of_old\n"),
    block_of("has-bad-syntax", "has_bad_syntax", "class Made(:\n"),
    block_of("exits", "exits", "import sys\nsys.exit(3)\n"),
    block_of("recurses", "recurses", RECURSES),
    block_of("wrong-type", "wrong_type", "Made = 7\n"),
    block_of("newer-api", "newer_api", **{"zoo.api": {"newer_api": "v9"}}),
    block_of("shadows-core", "shadows_core", namespace="core"),
    block_of("claims-first", "claims_first", namespace="shared"),
    block_of("claims-second", "claims_second", namespace="shared"),
    block_of("hangs", "hangs", "import time\nwhile True: time.sleep(1)\n"),
    models_of("loses-its-data", "loses_its_data", {}),
    models_of("loses-its-index", "loses_its_index", {"models/net.toml": spec()}),
    models_of("garbles-its-index", "garbles_its_index", {"models/index.json": "[{]", "models/net.toml": spec()}),
    models_of("malformed-spec", "malformed_spec", {"models/index.json": INDEX, "models/net.toml": "schema = [\n"}),
    models_of("unknown-block", "unknown_block", {"models/index.json": INDEX, "models/net.toml": spec("gelu_of_old")}),
    models_of(
        "garbles-its-blocks",
        "garbles_its_blocks",
        {"models/index.json": "[]", "blocks.json": "7", "made.py": "raise SystemExit"},
        {"garbles_its_blocks/made@1": "garbles_its_blocks.made:Made"},
    ),
    models_of("stale-index", "stale_index", {"models/index.json": INDEX, "models/net.toml": spec()}),
]
WELL: list[Package] = [
    block_of("prints-much", "prints_much", "print('hello')\n" * 3 + block_of("x", "prints_much").files["prints_much.py"].replace("{", "{{").replace("}", "}}")),
    block_of("sleeps", "sleeps", "import time\ntime.sleep(0.5)\n" + block_of("x", "sleeps").files["sleeps.py"].replace("{", "{{").replace("}", "}}")),
    models_of("borrows", "borrows", {"models/index.json": INDEX, "models/net.toml": spec("prints_much/made")}),
]  # fmt: skip
EXPECTED = {
    "imports-badly": ("broken", "block imports_badly/made@1: imports-badly 1.0: expected a module that imports; found ImportError: no such luck; "
                      "next: pip install -U imports-badly, or uninstall it"),
    "lacks-a-dependency": ("broken", "found ModuleNotFoundError: No module named 'einx_of_old'; next: pip install einx_of_old, or uninstall lacks-a-dependency"),
    "has-bad-syntax": ("broken", "found SyntaxError: "),
    "exits": ("broken", "found SystemExit: 3; next: pip install -U exits, or uninstall it"),
    "recurses": ("broken", "found RecursionError: maximum recursion depth exceeded"),
    "wrong-type": ("broken", "expected a class decorated with @block('wrong_type/made@1', …); found 7"),
    "newer-api": ("incompatible", "it is written for plugin api v9, and this blockzoo has v1; next: pip install -U blockzoo"),
    "shadows-core": ("clash", "it declares `core/made@1`, and `core/` cannot be claimed; core names stay as they are"),
    "claims-first": ("clash", "`shared/` is claimed by claims-first 1.0 and claims-second 1.0; next: uninstall one, or keep one with ZOO_PLUGINS=claims-first"),
    "claims-second": ("clash", "or keep one with ZOO_PLUGINS=claims-second"),
    "hangs": ("broken", "block hangs/made@1: no answer within 12 s; next: uninstall hangs, or leave it out of ZOO_PLUGINS"),
    "loses-its-data": ("broken", "/models; next: pip install --force-reinstall loses-its-data, or uninstall it"),
    "loses-its-index": ("broken", "No such file or directory"),
    "garbles-its-index": ("broken", "index.json cannot be read (JSON is malformed"),
    "garbles-its-blocks": ("broken", "blocks.json cannot be read (Expected `array`, got `int`); next: zoo index garbles_its_blocks"),
    "malformed-spec": ("broken", "model malformed_spec/net_nano: expected TOML; found an error: "),
    "unknown-block": ("broken", "expected a registered block; found `gelu_of_old`"),
    "stale-index": ("broken", "the index says 000000000000; next: zoo index stale_index"),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return install(FAULTS + WELL, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def reports(site: pathlib.Path, run_in: Run) -> dict[str, dict]:
    """The reports by name. Only the plugin that never answers is asked with a short limit: how long the others take is the matter of this machine."""
    others = [package.name for package in FAULTS + WELL if package.name != "hangs"]
    reports = {}
    for names, limit in ((others, "200"), (["hangs"], "12")):
        done = run_in(site, "-m", "zoo", "plugins", "--json", "--timeout", limit, ZOO_PLUGINS=",".join(names))
        assert done.returncode == 1, done.stderr
        reports |= {report["name"]: report for report in json.loads(done.stdout) if report["name"] in names}
    return reports


@pytest.mark.parametrize("name", [package.name for package in FAULTS])
def test_the_doctor_names_a_broken_plugin_with_its_cause_and_the_cure(reports: dict[str, dict], name: str) -> None:
    state, cause = EXPECTED[name]
    assert (reports[name]["state"], reports[name]["version"]) == (state, "1.0")
    assert cause in reports[name]["cause"]


@pytest.mark.parametrize("name", ["prints-much", "sleeps"])
def test_a_plugin_that_prints_or_sleeps_is_well(reports: dict[str, dict], name: str) -> None:
    assert (reports[name]["state"], reports[name]["cause"]) == ("loaded", "")


def test_the_zoo_works_beside_all_faulty_plugins(site: pathlib.Path, run_in: Run) -> None:
    code = """
import json, sys
import torch, zoo, blocks
out = {"listed": len(zoo.list_models()), "blocks": blocks.list_blocks("*made*")}
out["core"] = list(zoo.create("gmlp_nano", pretrained=True)(torch.zeros(1, 1, 32, 32)).shape)
net = zoo.create("borrows/net_nano")
out["borrowed"] = [net.spec.name, net.spec.blocks()]
out["acts"] = len(blocks.list_blocks(kind="norm"))
print(json.dumps(out))
"""
    done = run_in(site, "-c", code)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["core"] == [1, 10]
    assert out["borrowed"][0] == "borrows/net_nano"
    assert "prints_much/made@1" in out["borrowed"][1]
    assert {"exits/made", "prints_much/made", "sleeps/made"} <= set(out["blocks"])
    assert not {"shared/made", "newer_api/made", "made"} & set(out["blocks"])
    assert "hello" in done.stderr  # and not in what the program printed


MESSAGES = {
    "exits/made": "exits 1.0\n    expected a module that imports; found SystemExit: 3; next: pip install -U exits, or uninstall it",
    "shared/made": "`shared/` is claims-first 1.0's, which is shut out: `shared/` is claimed by claims-first 1.0 and claims-second 1.0",
    "newer_api/made": "`newer_api/` is newer-api 1.0's, which is not compatible: it is written for plugin api v9",
}


def test_using_what_is_broken_says_the_same_in_the_program(site: pathlib.Path, run_in: Run) -> None:
    code = f"""
import json, blocks, zoo
found = {{}}
for name in {list(MESSAGES)}:
    try:
        blocks.get(name)
    except blocks.BlockError as error:
        found[name] = str(error)
for name in ("malformed_spec/net_nano", "loses_its_index/net_nano", "nobody/net"):
    try:
        zoo.spec(name)
    except zoo.SpecError as error:
        found[name] = str(error)
print(json.dumps(found))
"""
    done = run_in(site, "-c", code)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, told in MESSAGES.items():
        assert told in found[name]
    assert found["malformed_spec/net_nano"].startswith("net.toml: 1 error")
    assert "loses-its-index 1.0 is broken: " in found["loses_its_index/net_nano"]
    assert "`nobody/` models come from a plugin package that is not installed" in found["nobody/net"]


def test_zoo_plugins_off_hides_them_all(site: pathlib.Path, run_in: Run) -> None:
    done = run_in(site, "-m", "zoo", "plugins", "--json", ZOO_PLUGINS="off")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    done = run_in(site, "-m", "zoo", "plugins", "--json", "--no-check", ZOO_PLUGINS="sleeps")
    states = {report["name"]: report["state"] for report in json.loads(done.stdout)}
    assert states.pop("sleeps") == "available"
    assert set(states.values()) <= {"disabled", "incompatible", "clash"}
