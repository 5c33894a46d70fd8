"""int8: the ONNX or OpenVINO file of a compiled net quantised by a kept library, its most sensitive layers left in float32 where the loss
asks for it.

ONNX Runtime's own quantizer leaves out, attempt by attempt, the operators whose inputs lose most by being rounded; NNCF's accuracy control
does the same for OpenVINO. What comes of it passes the same checks as every other candidate.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.runtimes.portable import ONNX
from zoo.runtimes.quiet import refusing

LIBRARIES = {"onnxruntime": "onnx", "openvino": "nncf"}
"""What a runtime needs to quantise, beside itself: the package that is imported, and installed."""
LEFT_OUT = (0.0, 0.15, 0.4)
"""Shares of the tensors that stay in float32, the most sensitive first, in one attempt after the other."""
CALIBRATION = 128
"""Inputs from which the ranges of activations are taken."""
RANKING = 8
"""Inputs on which the errors of tensors are measured."""

Batches = Callable[[], Iterator[tuple[Tensor, ...]]]
"""Flat inputs, from the beginning at each call."""
Loss = Callable[[], float]
"""The upper end of what the file as it is now loses."""


def missing(runtime: str) -> str:
    """Why a runtime cannot quantise here, as a sentence with the command that mends it; "" where it can."""
    package = LIBRARIES.get(runtime)
    if package is None:
        return "no library quantises for it"
    if importlib.util.find_spec(package) is None:
        return f'int8 needs {package}; next: pip install "blockzoo[int8]"'
    return ""


def quantise(runtime: str, folder: Path, names: tuple[str, ...], batches: Batches, loss: Loss, max_loss: float) -> None:
    """Quantises the file that a runtime compiled into `folder`, in its place.

    Ends with the first attempt whose loss is allowed, or the last. Raises InputError."""
    with refusing(runtime, "a net that its library can quantise"):
        if runtime == "onnxruntime":
            _quantise_onnx(folder / ONNX, names, batches, loss, max_loss)
        else:
            _quantise_openvino(folder, names, batches, loss, max_loss)


class _Reader:
    """Calibration inputs as ONNX Runtime's quantizer asks for them."""

    def __init__(self, names: tuple[str, ...], batches: Batches, most: int):
        self.names, self.batches, self.most = names, batches, most
        self.rewind()

    def rewind(self) -> None:
        self.items = _arrays(self.batches, self.most)

    def get_next(self) -> dict[str, np.ndarray] | None:
        values = next(self.items, None)
        return None if values is None else dict(zip(self.names, values, strict=True))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.get_next, None)


def _arrays(batches: Batches, most: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of so many inputs at least."""
    count = 0
    for batch in batches():
        yield tuple(x.numpy() for x in batch)
        count += len(batch[0])
        if count >= most:
            return


def _quantise_onnx(path: Path, names: tuple[str, ...], batches: Batches, loss: Loss, max_loss: float) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, whole = path.with_suffix(".plain.onnx"), path.with_suffix(".float32.onnx")
    os.replace(path, plain)
    try:
        quant_pre_process(str(plain), str(whole), skip_symbolic_shape=True)
        sensitive: list[str] = []
        for share in LEFT_OUT:
            quantize_static(
                str(whole), str(path), _Reader(names, batches, CALIBRATION), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=sensitive[: round(share * len(sensitive))],
            )  # fmt: skip
            if loss() <= max_loss:
                return
            sensitive = sensitive or _by_sensitivity(whole, path, _Reader(names, batches, RANKING))
    finally:
        for file in (plain, whole):
            file.unlink(missing_ok=True)


def _by_sensitivity(whole: Path, quantised: Path, reader: _Reader) -> list[str]:
    """Names of the operators that compute with rounded inputs, those first whose input loses most: by the least ratio of signal to noise."""
    import onnx
    from onnxruntime.quantization.qdq_loss_debug import (
        collect_activations,
        compute_activation_error,
        create_activation_matching,
        modify_model_output_intermediate_tensors,
    )

    outputs = []
    for path in (whole, quantised):
        told = path.with_suffix(".told.onnx")
        try:
            modify_model_output_intermediate_tensors(str(path), str(told))
            reader.rewind()
            outputs.append(collect_activations(str(told), reader))
        finally:
            told.unlink(missing_ok=True)
    errors = compute_activation_error(create_activation_matching(outputs[1], outputs[0]))
    noise = {tensor: figures["qdq_err"] for tensor, figures in errors.items()}
    nodes = [node for node in onnx.load(str(whole)).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    known = [node for node in nodes if node.input[0] in noise]
    return [node.name for node in sorted(known, key=lambda node: noise[node.input[0]])]


def _quantise_openvino(folder: Path, names: tuple[str, ...], batches: Batches, loss: Loss, max_loss: float) -> None:
    import nncf

    from zoo.exporting.openvino import without_telemetry
    from zoo.runtimes.open_vino import IR, core

    path, openvino = folder / IR, without_telemetry()
    whole = core().read_model(str(path))
    data = nncf.Dataset([dict(zip(names, values, strict=True)) for values in _arrays(batches, CALIBRATION)])
    attempts = (
        lambda: nncf.quantize(whole.clone(), data, subset_size=CALIBRATION),
        lambda: _controlled(whole, data, max_loss),
    )
    for attempt in attempts:
        _write(openvino, attempt(), path)
        if loss() <= max_loss:
            return


def _write(openvino: Any, model: Any, path: Path) -> None:
    draft = path.with_name("quantised.xml")
    openvino.save_model(model, str(draft), compress_to_fp16=False)
    os.replace(draft.with_suffix(".bin"), path.with_suffix(".bin"))
    os.replace(draft, path)


def _controlled(whole: Any, data: Any, max_loss: float) -> Any:
    """The net as NNCF's accuracy control makes it: its measure is the share of answers that stay as they are in float32."""
    import nncf

    from zoo.runtimes.open_vino import core

    plain = core().compile_model(whole, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = [plain(feeds)[0].argmax(-1) for feeds in data.get_data()]

    def kept(model: Any, items: Any) -> tuple[float, None]:
        pairs = [(model(feeds)[0].argmax(-1) == answer).mean() for feeds, answer in zip(items, wanted, strict=False)]
        return float(np.mean(pairs)), None

    return nncf.quantize_with_accuracy_control(
        whole.clone(), data, data, kept, max_drop=max_loss, subset_size=CALIBRATION
    )
