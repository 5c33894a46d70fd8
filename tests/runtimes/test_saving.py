"""A deployed model in a folder: opened in another process, run without the zoo, refused where it must not be opened."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import zoo
from tests.runtimes.conftest import ALL, QUICK, Deploy, error_of, net_of, truth
from zoo.errors import InputError
from zoo.runtimes import loading
from zoo.runtimes.loading import load_deployed
from zoo.runtimes.open_vino import OpenVino

ROOT = Path(__file__).parents[2]
Saved = Callable[[str], Path]


@pytest.mark.parametrize("runtime", ALL)
def test_another_process_opens_a_saved_folder_and_computes_the_same(
    saved: Saved, runtime: str, pictures: Tensor, tmp_path: Path
) -> None:
    folder = saved(runtime)
    torch.save(pictures[:1], tmp_path / "x.pt")
    code = (
        "import sys, torch; from zoo.runtimes.loading import load_deployed;"
        "model = load_deployed(sys.argv[1]); torch.save(model(torch.load(sys.argv[2])), sys.argv[3]); print(model.runtime, model.labels[:2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "x.pt", tmp_path / "y.pt"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.split()[0] == runtime
    assert error_of(torch.load(tmp_path / "y.pt"), truth(net_of(), pictures[:1])) < 2e-5


WITHOUT = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without(hidden: tuple[str, ...], *arguments: Any) -> subprocess.CompletedProcess[str]:
    """`python run.py …` in a process where these packages are not installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", f"HIDDEN = {hidden!r}\n{WITHOUT}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")


@pytest.mark.parametrize("runtime", ALL)
def test_run_py_needs_the_runtime_and_numpy_alone(saved: Saved, runtime: str, pictures: Tensor, tmp_path: Path) -> None:
    folder = saved(runtime)
    np.save(tmp_path / "x.npy", pictures[:1].numpy())
    hidden = (
        "zoo",
        "blocks",
        "timm",
        "safetensors",
        "msgspec",
        *(("torch",) if runtime in ("onnxruntime", "openvino") else ()),
    )
    done = run_without(hidden, folder / "run.py", tmp_path / "x.npy", "--out", tmp_path / "y.npz")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (y,) = np.load(tmp_path / "y.npz").values()
    assert error_of(torch.from_numpy(y), truth(net_of(), pictures[:1])) < 2e-5


@pytest.mark.parametrize("mode", ("L", "RGBA", "I;16"))
def test_run_py_sees_pictures_as_the_zoo_does(saved: Saved, mode: str, tmp_path: Path) -> None:
    folder = saved("onnxruntime")
    values = np.random.default_rng(0).integers(0, 256, (50, 71, 4), np.uint8)
    picture = Image.fromarray(values, "RGBA").convert("L") if mode != "RGBA" else Image.fromarray(values, "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    picture.save(tmp_path / "a.png")
    done = run_without(("zoo", "blocks", "torch"), folder / "run.py", tmp_path / "a.png", "--json")
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["classes"][0]
    model = load_deployed(folder)
    shares = model(zoo.transform(model)(tmp_path / "a.png")).softmax(-1)[0]
    assert best["label"] == model.labels[int(shares.argmax())]
    assert abs(best["share"] - float(shares.max())) < 1e-4


SERVING = """
import sys, numpy as np
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
from run import Model, Refusal
model, x = Model(threads=1), np.load(sys.argv[2])
alone = [model(row[None])["logits"] for row in x]
with ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(lambda i: model(x=x[i % len(x)][None])["logits"], range(200)))
assert all(np.allclose(answer, alone[i % len(x)], atol=1e-5) for i, answer in enumerate(answers))
assert not np.allclose(alone[0], alone[1], atol=1e-5)
for wrong in ((x[0],), (x, x)):
    try:
        model(*wrong)
    except Refusal as error:
        print(error)
"""


@pytest.mark.parametrize("runtime", ("onnxruntime", "openvino", "torch"))
def test_a_program_serves_the_folder_from_several_threads(
    saved: Saved, runtime: str, pictures: Tensor, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", pictures.numpy())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", SERVING, saved(runtime), tmp_path / "x.npy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    wrong, many = done.stdout.splitlines()
    assert wrong.startswith("expected an array of shape (from 1, ")
    assert many.startswith("expected 1 arrays, ")


def test_run_py_says_how_to_get_the_reader_of_pictures(saved: Saved, tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    done = run_without(("zoo", "PIL"), saved("onnxruntime") / "run.py", tmp_path / "a.png")
    assert done.returncode == 1
    assert (
        "a.png: expected Pillow, which reads pictures; found: No module named 'PIL'; next: pip install pillow"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_run_py_says_what_is_missing(saved: Saved, tmp_path: Path) -> None:
    done = run_without(("zoo", "onnxruntime"), saved("onnxruntime") / "run.py", tmp_path / "x.npy")
    assert (
        done.returncode == 1
        and done.stderr.startswith("expected onnxruntime ")
        and "next: pip install onnxruntime" in done.stderr
    )


@pytest.mark.parametrize("runtime", QUICK)
def test_the_folder_says_what_it_is(saved: Saved, runtime: str) -> None:
    folder = saved(runtime)
    record = json.loads((folder / "deployed.json").read_text())
    assert record["runtime"] == runtime and record["about"]["digest"] == net_of().digest
    assert "Licence: " in (folder / "LICENCE.txt").read_text() and record["about"]["preprocess"]["size"] == 32
    here = str(ROOT).encode()
    assert not [path.name for path in folder.iterdir() if here in path.read_bytes()]


def test_a_folder_with_files_is_not_written_over(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or an empty folder; found one with files in it"):
        deploy(net_of()).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]


def test_the_report_goes_with_the_folder(tmp_path: Path) -> None:
    fast = zoo.deploy(net_of(), runtime="openvino", threads=1)
    fast.save(tmp_path / "net")
    with load_deployed(tmp_path / "net") as model:
        assert str(model.report()) == str(fast.report()) and model.report().chosen.runtime == "openvino"
    (tmp_path / "net" / "report.json").write_text("{")
    with load_deployed(tmp_path / "net") as model:
        assert model.report() is None


def test_another_version_of_the_runtime_makes_it_again_of_the_portable_file(
    saved: Saved, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("openvino")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(OpenVino, "version", lambda self: "2099.1")
    with load_deployed(folder) as model:
        assert model.folder != folder and model.version == "2099.1"
        assert error_of(model(pictures), truth(net_of(), pictures)) < 2e-5
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def _edit(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "deployed.json").read_text())
    (folder / "deployed.json").write_text(json.dumps(record | changes))


def test_a_cpu_without_the_instructions_is_refused_before_anything_is_loaded(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("onnxruntime")
    _edit(folder, needs={"groups": [["amx_future", "avx1024"]], "machine": platform.machine()})
    monkeypatch.setattr(loading.registered, "runtime", lambda name: pytest.fail("the runtime was asked for"))
    with pytest.raises(
        InputError, match="found none with amx_future or avx1024; next: deploy the model on this machine"
    ):
        load_deployed(folder)
    done = run_without(("zoo",), folder / "run.py", "x.npy")
    assert done.returncode == 1 and "expected a CPU with amx_future or avx1024; found none" in done.stderr


def test_a_program_of_others_is_opened_only_on_trust(saved: Saved) -> None:
    folder = saved("onnxruntime")
    _edit(folder, is_code=True)
    with pytest.raises(InputError, match="found one that holds a program; next: if you trust its maker"):
        load_deployed(folder)
    load_deployed(folder, trust=True).close()


def _garbage(folder: Path) -> None:
    """deployed.json
    expected strict JSON"""
    (folder / "deployed.json").write_bytes(b"\x00\x1b[31m garbage")


def _no_record(folder: Path) -> None:
    """deployed.json
    expected a file; found No such file or directory"""
    (folder / "deployed.json").unlink()


def _other_bytes(folder: Path) -> None:
    """model.onnx
    expected sha256"""
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)


def _missing(folder: Path) -> None:
    """model.onnx
    expected a file of this folder; found No such file or directory"""
    (folder / "model.onnx").unlink()


def _link(folder: Path) -> None:
    """model.onnx
    expected a file of this folder; found a link"""
    shutil.move(folder / "model.onnx", folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def _record_link(folder: Path) -> None:
    """deployed.json
    expected a file; found a link"""
    shutil.move(folder / "deployed.json", folder.parent / "elsewhere.json")
    (folder / "deployed.json").symlink_to(folder.parent / "elsewhere.json")


def _pipe(folder: Path) -> None:
    """deployed.json
    expected a file; found something else than a plain file"""
    (folder / "deployed.json").unlink()
    os.mkfifo(folder / "deployed.json")


def _way_out(folder: Path) -> None:
    """files
    expected the plain name of a file in this folder; found `../model.onnx`"""
    _edit(folder, files={"../model.onnx": {"sha256": "0" * 64, "size_bytes": 1}})


def _no_runtime(folder: Path) -> None:
    """runtime
    expected `auto`, `torch`, `compile`, `aot`, `onnxruntime` or `openvino`; found `onnx_runtime`; nearest `onnxruntime`"""
    _edit(folder, runtime="onnx_runtime")


def _no_precision(folder: Path) -> None:
    """precision
    expected `float32`, `bfloat16`, `float16` or `int8`; found `float7`"""
    _edit(folder, precision="float7")


def _huge(folder: Path) -> None:
    """x
    expected at most 8 sizes of a tensor that fits into memory; found (1, 1, 1099511627776)"""
    record = json.loads((folder / "deployed.json").read_text())
    record["signature"]["inputs"][0] |= {"shape": [None, None, None], "example": [1, 1, 2**40]}
    (folder / "deployed.json").write_text(json.dumps(record))


def _stranger(folder: Path) -> None:
    """deployed.json
    expected the record of a deployed model; found Object contains unknown field `run`"""
    _edit(folder, run="rm -rf /")


@pytest.mark.parametrize(
    "spoil",
    [
        _garbage, _no_record, _other_bytes, _missing, _link, _record_link, _pipe, _way_out, _no_runtime, _no_precision, _huge, _stranger,
    ],
    ids=lambda spoil: spoil.__name__.strip("_"),
)  # fmt: skip
def test_a_spoiled_folder_is_refused_in_a_sentence(saved: Saved, spoil: Callable[[Path], None]) -> None:
    folder = saved("onnxruntime")
    spoil(folder)
    with pytest.raises(InputError) as refusal:
        load_deployed(folder)
    text = str(refusal.value)
    assert " ".join((spoil.__doc__ or "").split()) in " ".join(text.split()), text
    assert text.replace("\n", "").isprintable()


def test_no_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected a folder that `deployed.save\(FOLDER\)` wrote; found no such folder"
    ):
        load_deployed(tmp_path / "nothing")
