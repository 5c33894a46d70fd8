"""Distributions whose metadata or data are damaged or hostile: each is named with its cure, and nothing else suffers."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.plugins.conftest import Run

ENTRY = {
    "name": "net_nano", "family": "net", "file": "net.toml", "task": "image-classification", "digest": "0" * 64,
    "params": 1, "macs": 1, "input_size": [32, 32],
}  # fmt: skip
BLOCK = b"[zoo.blocks]\n%s/made@1 = nothing:Made\n"
METADATA: dict[str, tuple[bytes, bytes, str]] = {
    "latin": (b"Name: latin\nVersion: 1.0\nSummary: \xff\n", BLOCK % b"latin", "UnicodeDecodeError"),
    "empty": (b"", BLOCK % b"empty", "Name ``, Version ``"),
    "escapes": (b"Name: a\x1b[31m\nVersion: 1.0\n", BLOCK % b"escapes", "Name `a\\x1b[31m`"),
    "points": (b"", (BLOCK % b"points") + b"\xff\n", "cannot be read"),
    "bare": (b"", b"[zoo.blocks]\njusttext\nbare/made@1 = nothing:Made\n", "it declares `justtext` in zoo.blocks"),
    "digits": (b"", b"[zoo.api]\nevil = v" + b"9" * 5000 + b"\n", "plugin api `v999"),
    "square": (b"", "[zoo.api]\nevil = v\u00b2\n".encode(), "plugin api `v\u00b2`"),
    "climbs": (b"", b"[zoo.models]\nclimbs = os/../../etc\n", "it declares `climbs = os/../../etc`"),
    "long": (b"", b"[zoo.models]\n" + b"a" * 300 + b" = os\n", "is not of the form `a namespace in lower case`"),
    "large": (b"", BLOCK % b"large" + b"#" * 5_000_000, "has more than 4,194,304 bytes"),
}
DATA: dict[str, tuple[str, bytes, str]] = {
    "shell": ("index.json", json.dumps([{**ENTRY, "name": "$(touch PWN)"}, ENTRY]).encode(), "its `name`"),
    "colour": ("index.json", json.dumps([{**ENTRY, "title": "\x1b[31m"}, ENTRY]).encode(), "its `title`"),
    "parent": ("index.json", json.dumps([{**ENTRY, "file": "../x.toml"}, ENTRY]).encode(), "its `file`"),
    "flat": (
        "index.json",
        json.dumps([{**ENTRY, "input_size": []}, {"name": 3}, ENTRY]).encode(),
        "Expected `str`, got `int`",
    ),
    "deep": ("index.json", b"[" * 100_000, "recursion"),
    "costs": ("data/profiles.json", b'{"net_nano": {"train": 7}}', "profiles.json cannot be read"),
    "loads": ("data/loads.json", b'{"net_nano": {"train": 7}}', "loads.json cannot be read"),
    "pieces": ("data/parts.json", b'{"net_nano": 7}', "parts.json cannot be read"),
    "prints": (
        "data/published.toml",
        b'[x]\nnet_nano = ["1 k", "2", "three"]\nsource = "s"\n',
        "published.toml cannot be read",
    ),
    "ghost": (
        "data/published.toml",
        b'[x]\nghost = ["1 k", "2", 3.0]\nsource = "s"\n',
        "published.toml cannot be read",
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("damage")
    for name, (metadata, points, _) in METADATA.items():
        _distribution(folder, name, points, metadata or (b"" if name == "empty" else None))
    for name, (path, data, _) in DATA.items():
        _distribution(folder, name, f"[zoo.models]\n{name} = {name}_pkg\n".encode())
        files = {"__init__.py": b"", "models/index.json": json.dumps([ENTRY]).encode(), f"models/{path}": data}
        for file, content in files.items():
            place = folder / f"{name}_pkg" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    _distribution(folder, "many", b"[zoo.blocks]\n" + b"".join(b"many/b%d = nothing:B\n" % i for i in range(10_000)))
    return folder


def _distribution(folder: pathlib.Path, name: str, points: bytes, metadata: bytes | None = None) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_bytes(f"Name: {name}\nVersion: 1.0\n".encode() if metadata is None else metadata)
    (info / "entry_points.txt").write_bytes(points)


def test_each_is_named_with_its_cure_and_the_rest_works(site: pathlib.Path, run_in: Run) -> None:
    code = """
import json, time, zoo, blocks
from zoo.measure.load import loads
from zoo.measure.parts import parts
from zoo.measure.published import published
start = time.process_time()
loads(), parts(), published()
reports = {one.name: [one.state, one.cause, len(one.blocks)] for one in zoo.plugins()}
print(json.dumps([reports, zoo.list_models("*/*"), "mlp" in blocks.list_blocks(), time.process_time() - start]))
"""
    done = run_in(site, "-c", code)
    assert done.returncode == 0, done.stderr
    reports, models, core, seconds = json.loads(done.stdout)
    assert core and seconds < 10
    for name, (_, _, told) in {**METADATA, **DATA}.items():
        state, cause, _ = reports[name]
        assert (name, state) == (name, "broken") and told in cause and cause.isprintable(), cause
        assert name == "long" or f"pip install --force-reinstall {name}" in cause
    assert reports["bare"][2] == 1 and reports["many"][2] == 10_000
    assert sorted(models) == sorted(f"{name}/net_nano" for name in DATA if name != "deep")


def test_entry_points_that_python_cannot_read_are_named_where_torch_asks_for_them(
    tmp_path: pathlib.Path, run_in: Run
) -> None:
    _distribution(tmp_path, "latin", b"[x]\na\xff = b\n")
    _distribution(tmp_path, "bare", b"[x]\njust a word\n")
    for command in (["-m", "zoo", "create", "starnet_nano"], ["-c", "import zoo; zoo.create('starnet_nano')"]):
        done = run_in(tmp_path, *command)
        assert done.returncode and "InputError: import: 2 errors" in done.stderr
        for name, error in (("latin", "UnicodeDecodeError: "), ("bare", "TypeError: ")):
            assert f"{tmp_path}/{name}-1.0.dist-info/entry_points.txt\n" in done.stderr
            assert f"expected entry points that Python can read; found {error}" in done.stderr
            assert f"next: pip install --force-reinstall {name}, or uninstall it" in done.stderr
    assert run_in(tmp_path, "-m", "zoo", "list").returncode == 0


def test_an_error_of_our_own_stays_what_it_is_beside_damaged_files(tmp_path: pathlib.Path, run_in: Run) -> None:
    _distribution(tmp_path, "latin", b"[x]\na\xff = b\n")
    done = run_in(tmp_path, "-m", "zoo", "info", "nosuch_net")
    assert done.returncode == 2 and "nosuch_net" in done.stderr and "latin" not in done.stderr
