"""Runs the model of this folder: `python run.py PICTURE...`, or `python run.py INPUT.npy [--out OUTPUT.npz]`.

A model of several inputs reads them by their names of one `INPUT.npz`, which `numpy.savez("INPUT.npz", x=x, t=t)` writes.
A program that serves imports it: `from run import Model; model = Model()`, then `model(x)` gives {name: array} of an array, by any number of
threads at once, and `model(model.prepare("photo.jpg"))` of a picture.

Needs numpy and the runtime that `deployed.json` names, and Pillow for pictures. The net is in the files beside this one; pre-processing,
names of classes and what goes in are in `deployed.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BEST = 3
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}

Arrays = list[np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where an input could not be used; the others are answered all the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="pictures, or arrays that numpy.save or numpy.savez wrote"
    )
    parser.add_argument("--out", default="", metavar="FILE.npz", help="write the outputs of an array by their names")
    parser.add_argument("--threads", type=int, default=0, help="default: as the model was deployed with")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each input")
    options = parser.parse_args(arguments)
    try:
        model = Model(options.threads)
    except Refusal as error:
        return complain(str(error))
    failed = 0
    for name in options.inputs:
        try:
            answer(name, model, options)
        except (Refusal, OSError, ValueError) as error:
            failed = complain(f"{name}: {error}")
    return failed


class Refusal(Exception):
    """A sentence that says what was expected, what was found, and what to do."""


class Model:
    """The net of this folder. Raises Refusal where this machine cannot run it."""

    def __init__(self, threads: int = 0):
        """threads: of one call; 0 for as many as it was deployed with."""
        self.record: dict[str, Any] = json.loads((HERE / "deployed.json").read_text(encoding="utf-8"))
        runtime, version = self.record["runtime"], self.record["version"]
        check_machine(self.record["needs"])
        if runtime not in RUNTIMES:
            raise Refusal(f"the runtime `{runtime}` is a plugin's: zoo.load_deployed({str(HERE)!r}) opens this folder")
        try:
            self.run = RUNTIMES[runtime](self.record, threads or self.record["threads"])
        except ImportError as error:
            raise Refusal(f"expected {runtime} {version}; found: {error}; next: pip install {runtime}") from None

    def __call__(self, *arrays: np.ndarray[Any, Any], **named: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """{name: array} of arrays in the order of `deployed.json`, or by their names. Raises Refusal for those of other shapes."""
        names = [one["name"] for one in self.record["signature"]["inputs"]]
        if len(arrays) > len(names):
            raise Refusal(f"expected {len(names)} arrays, {', '.join(names)}; found {len(arrays)}")
        given = {name: np.asarray(array) for name, array in (*zip(names, arrays, strict=False), *named.items())}
        return dict(zip(output_names(self.record), self.run(inputs_of(given, self.record)), strict=True))

    def prepare(self, path: str) -> np.ndarray[Any, Any]:
        """A picture as the net takes it, (1, C, H, W). Raises Refusal for a model of something else, and without Pillow."""
        if self.record["about"]["preprocess"] is None:
            expected = "expected an array that numpy.save wrote, INPUT.npy"
            raise Refusal(f"{expected}; found another file: this model reads no pictures")
        try:
            return prepared(path, self.record["about"]["preprocess"])
        except ImportError as error:
            raise Refusal(f"expected Pillow, which reads pictures; found: {error}; next: pip install pillow") from None


def complain(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def check_machine(needs: dict[str, Any]) -> None:
    """Raises Refusal on a CPU without the instructions that the net was compiled for, which would kill this process."""
    if needs["machine"] and needs["machine"] != platform.machine():
        raise Refusal(
            f"expected a CPU of the kind {needs['machine']}; found {platform.machine()}; next: deploy the model here"
        )
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    lines = [line.partition(":")[2].split() for line in text.splitlines() if line.startswith(("flags", "Features"))]
    here = set(lines[0]) if lines else set()
    lacking = [" or ".join(group) for group in needs["groups"] if not here.intersection(group)]
    if lacking:
        raise Refusal(f"expected a CPU with {', '.join(lacking)}; found none; next: deploy the model on this machine")


def answer(name: str, model: Model, options: argparse.Namespace) -> None:
    """Runs one input and prints what comes out."""
    record = model.record
    declared = record["signature"]["inputs"]
    if name.endswith(".npz"):
        with np.load(name, allow_pickle=False) as file:
            named = model(**file)
    elif len(declared) > 1:
        names = [one["name"] for one in declared]
        example = ", ".join(f"{each}={each}" for each in names)
        raise Refusal(
            f"expected one INPUT.npz with all inputs, which numpy.savez('INPUT.npz', {example}) writes; found another file"
        )
    else:
        named = model(np.load(name, allow_pickle=False) if name.endswith(".npy") else model.prepare(name))
    first = next(iter(named.values()))
    if options.out:
        np.savez(options.out, **named)  # type: ignore[arg-type]  # its own names come first
    if record["signature"]["kind"] == "tensor" and first.ndim == 2 and record["about"]["labels"]:
        tell_classes(name, first, record["about"]["labels"], options.json)
    elif options.json:
        shapes = {key: list(value.shape) for key, value in named.items()}
        print(json.dumps({"input": name, "shapes": shapes}))
    else:
        print(f"{name}: " + ", ".join(f"{key} {tuple(value.shape)}" for key, value in named.items()))


def tell_classes(name: str, logits: np.ndarray[Any, Any], labels: list[str], as_json: bool) -> None:
    """The likeliest classes of each picture of the batch."""
    for row in logits.astype(np.float64):
        shares = np.exp(row - row.max())
        shares /= shares.sum()
        best = [(int(index), float(shares[index])) for index in np.argsort(-shares)[:BEST]]
        if as_json:
            print(
                json.dumps(
                    {"input": name, "classes": [{"label": labels[index], "share": share} for index, share in best]}
                )
            )
        else:
            print(f"{name}: " + ", ".join(f"{labels[index]} {share:.1%}" for index, share in best))


def inputs_of(given: dict[str, np.ndarray[Any, Any]], record: dict[str, Any]) -> Arrays:
    """The arrays in their order, checked, and the state of a sequence that has not begun. Raises Refusal with what is taken."""
    declared = record["signature"]["inputs"]
    missing = [one["name"] for one in declared if one["name"] not in given and one["dtype"] != "bool"]
    strange = sorted(set(given) - {one["name"] for one in declared})
    if missing or strange:
        wanted = ", ".join(one["name"] for one in declared)
        raise Refusal(
            f"expected arrays of the names {wanted}; found {'no ' + ', '.join(missing) if missing else ', '.join(strange)}"
        )
    arrays: Arrays = []
    sizes: dict[str, tuple[str, int]] = {}
    for one in declared:
        x = given.get(one["name"])
        if x is None:  # a mask that hides nothing
            x = np.ones(
                [
                    size if size is not None else sizes.get(one["axes"][axis], ("", one["example"][axis]))[1]
                    for axis, size in enumerate(one["shape"])
                ],
                bool,
            )
        arrays.append(checked(one, x, len(declared) > 1))
        for axis, (size, free) in enumerate(zip(x.shape, one["shape"], strict=True)):
            word = one["axes"][axis] if one["axes"] else ""
            if free is None and word:
                of, first = sizes.setdefault(word, (one["name"], size))
                if size != first:
                    raise Refusal(
                        f"{one['name']}: expected an array whose {word} is {first}, as that of {of}; found {x.shape}"
                    )
    leaves = record["signature"]["state"]
    return [*arrays, *(np.zeros((arrays[0].shape[0], *leaf["first"][1:]), leaf["dtype"]) for leaf in leaves)]


def checked(one: dict[str, Any], x: np.ndarray[Any, Any], named: bool) -> np.ndarray[Any, Any]:
    """An array as the net takes it. Raises Refusal with the shape that is taken."""
    shape, subject = one["shape"], f"{one['name']}: " if named else ""
    least = one["least"] or [1] * len(shape)
    sizes = zip(x.shape, shape, least, strict=False)
    fits = len(shape) == x.ndim and all(size >= low if free is None else size == free for size, free, low in sizes)
    if not fits:
        wanted = ", ".join(f"from {low}" if size is None else str(size) for size, low in zip(shape, least, strict=True))
        raise Refusal(f"{subject}expected an array of shape ({wanted}); found {x.shape}")
    if one["high"] and x.size and not (one["low"] <= x.min() and x.max() < one["high"]):
        found = f"some in [{x.min()}, {x.max()}]"
        raise Refusal(f"{subject}expected numbers in [{one['low']:g}, {one['high']:g}); found {found}")
    return np.ascontiguousarray(x, one["dtype"])


def input_names(record: dict[str, Any]) -> list[str]:
    signature = record["signature"]
    return [
        *(one["name"] for one in signature["inputs"]),
        *(f"state.{leaf['path']}.{leaf['index']}" for leaf in signature["state"]),
    ]


def output_names(record: dict[str, Any]) -> list[str]:
    signature = record["signature"]
    return [*signature["outputs"], *(f"state.{leaf['path']}.{leaf['index']}.after" for leaf in signature["state"])]


def prepared(path: str, preprocess: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A picture as the net was trained to see it, (1, C, H, W): the right way up, on white, scaled, cropped, normalised."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file) or file
        if image.mode == "F" or image.mode.startswith("I"):
            greys = np.asarray(image, np.float64)
            scale = (
                1 / 257
                if image.mode.startswith("I;16") or greys.max() > 255
                else 255
                if image.mode == "F" and greys.max() <= 1
                else 1
            )
            image = Image.fromarray((greys * scale).round().astype(np.uint8))
        elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if preprocess.get("channels", 3) == 1 else "RGB")
    size = preprocess["size"]
    rows, columns = (size, size) if isinstance(size, int) else size
    width, height = scaled(*image.size, rows, columns, preprocess.get("crop", 1.0))
    filters = {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
        "nearest": Image.Resampling.NEAREST,
    }
    if (width, height) != image.size:
        image = image.resize((width, height), filters[preprocess.get("interpolation", "bicubic")])
    left, top = round((width - columns) / 2.0), round((height - rows) / 2.0)
    values = np.asarray(image.crop((left, top, left + columns, top + rows)), np.float32) / np.float32(255.0)
    x = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    low, high = preprocess.get("range", (0.0, 1.0))
    mean, std = (np.asarray(preprocess[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    return np.ascontiguousarray(((x * np.float32(high - low) + np.float32(low) - mean) / std)[None], np.float32)


def scaled(width: int, height: int, rows: int, columns: int, crop: float) -> tuple[int, int]:
    """Width and height of a picture before it is cropped to rows and columns."""
    rows, columns = math.floor(rows / crop), math.floor(columns / crop)
    if rows != columns:
        ratio = min(height / rows, width / columns)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return rows, int(rows * height / width)
    return int(rows * width / height), rows


def in_onnxruntime(record: dict[str, Any], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = input_names(record)
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def in_openvino(record: dict[str, Any], threads: int) -> Run:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # nobody is told that this runs
    import openvino

    config = {
        "INFERENCE_PRECISION_HINT": HINTS[record["precision"]],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(HERE / "model.xml"), "CPU", config)
    own = threading.local()  # a request serves one thread at a time

    def run(arrays: Arrays) -> Arrays:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer(arrays, share_inputs=True)
        return [found[index] for index in range(len(found))]

    return run


def in_torch(record: dict[str, Any], threads: int) -> Run:
    """The exported program, in the precision of the model; what was compiled for a machine as it is."""
    import torch

    torch.set_num_threads(threads)
    dtype = getattr(torch, record["precision"])
    if record["runtime"] == "aot":
        package = torch._inductor.aoti_load_package(str(HERE / "package.pt2"))
        call: Any = lambda *tensors: package(*tensors)  # noqa: E731
    elif (HERE / "program.pt2").exists():
        call = torch.export.load(HERE / "program.pt2").module().to(dtype)
    else:
        raise Refusal(
            f"this net holds operators that torch alone lacks: zoo.load_deployed({str(HERE)!r}) opens this folder"
        )
    if record["runtime"] == "compile":
        call = torch.compile(call)
    count = len(record["signature"]["inputs"])

    def run(arrays: Arrays) -> Arrays:
        tensors = [torch.from_numpy(array) for array in arrays]
        inputs = [x.to(dtype) if x.is_floating_point() else x for x in tensors[:count]]
        with torch.inference_mode():
            outputs = call(*inputs, *tensors[count:])
        return [y.float().numpy() if y.is_floating_point() else y.numpy() for y in outputs]

    return run


RUNTIMES: dict[str, Callable[[dict[str, Any], int], Run]] = {
    "onnxruntime": in_onnxruntime,
    "openvino": in_openvino,
    "torch": in_torch,
    "compile": in_torch,
    "aot": in_torch,
}

if __name__ == "__main__":
    sys.exit(main())
