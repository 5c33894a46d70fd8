"""OpenVINO on the CPU: its own portable form, compiled anew for the machine on which it is opened."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.exporting.openvino import without_telemetry
from zoo.runtimes.instructions import computed_here
from zoo.runtimes.portable import ONNX, widest, write_graph, written_before
from zoo.runtimes.protocol import Session
from zoo.runtimes.quiet import reason_of, refusing
from zoo.runtimes.signature import Signature
from zoo.runtimes.sizes import BySize

IR = "model.xml"
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""In which its kernels compute; what is quantised says so itself, and the rest stays float32."""

MOST_KNOWN = 4096
"""Shapes that are remembered as sound."""

_lock = threading.Lock()
_core: Any = None


def core() -> Any:
    """The one core of this process. Imported without its telemetry, which would tell others that it was."""
    global _core
    with _lock:
        if _core is None:
            _core = without_telemetry().Core()
        return _core


class OpenVino:
    name = "openvino"
    distribution = "openvino"

    def missing(self) -> str:
        try:
            without_telemetry()
        except Exception as error:  # a broken installation raises anything
            return f'it does not import ({reason_of(error)}); next: pip install "blockzoo[openvino]"'
        return ""

    def version(self) -> str:
        return str(without_telemetry().__version__)

    def precisions(self) -> tuple[str, ...]:
        return computed_here()

    def compile(self, net: nn.Module, signature: Signature, precision: str, threads: int, folder: Path) -> Session:
        known = written_before(self, net, signature, threads, folder)
        if known is not None:
            return self.open(folder, known, precision, threads)

        def write(candidate: Signature) -> None:
            write_graph(net, candidate, folder / ONNX, "tokens")
            with refusing(self.name, "a graph that it can read"):
                model = core().read_model(str(folder / ONNX))
                without_telemetry().save_model(model, str(folder / IR), compress_to_fp16=False)
            for path in folder.glob(f"{ONNX}*"):
                path.unlink()

        return widest(net, signature, write, lambda candidate: self.open(folder, candidate, precision, threads))

    def open(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        with refusing(self.name, f"a graph in {folder / IR} that it can run"):
            return OpenVinoSession(folder / IR, signature, precision, threads)

    remake = open

    def complete(self, session: Session, folder: Path) -> None:
        """The graph is all that `run.py` reads."""


class OpenVinoSession:
    """A request serves one call at a time: each thread that calls takes a free one, or makes one more."""

    def __init__(self, path: Path, signature: Signature, precision: str, threads: int):
        self.signature = signature
        config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        self._by_size = BySize(signature, lambda of_example: _Requests(path, signature, config, of_example))

    def __call__(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        return self._by_size.of(arrays).run([x.detach().numpy() for x in arrays])

    def close(self) -> None:
        self._by_size.close()


class _Requests:
    """A compiled graph and its free requests. One for any size asks of each new size whether it goes through the graph: kernels that meet
    a size that the graph contradicts do not raise, they end the process."""

    def __init__(self, path: Path, signature: Signature, config: dict[str, Any], of_example: bool):
        model = core().read_model(str(path))
        if of_example and signature.is_dynamic and not signature.state:
            model.reshape({one.name: list(one.example) for one in signature.inputs})
            self._asked: Any = None
        else:
            self._asked = core().read_model(str(path)) if signature.is_dynamic else None
        self._names = signature.input_names
        self._known: set[tuple[tuple[int, ...], ...]] = set()
        self._lock = threading.Lock()
        self._compiled = core().compile_model(model, "CPU", config)
        self._free: deque[_Request] = deque()

    def run(self, arrays: list[Any]) -> tuple[Tensor, ...]:
        if self._asked is not None:
            self._refuse_contradictions(tuple(array.shape for array in arrays))
        try:
            request = self._free.pop()
        except IndexError:
            request = _Request(self._compiled)
        try:
            return tuple(torch.from_numpy(y) for y in request.run(arrays))
        finally:
            self._free.append(request)

    def _refuse_contradictions(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Raises RuntimeError, as OpenVINO does, for sizes that the shapes within the graph exclude."""
        if shapes in self._known:
            return
        with self._lock:
            self._asked.reshape({name: list(shape) for name, shape in zip(self._names, shapes, strict=True)})
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known.add(shapes)


class _Request:
    """One request. Where sizes are fixed its tensors stay where they are, and numpy copies into them and out of them: tensors that are set
    anew at each call cost up to a tenth of a small net's time, and copies by torch wake its threads, which then spin beside the runtime's."""

    def __init__(self, compiled: Any):
        self._request = compiled.create_infer_request()
        fixed = all(one.partial_shape.is_static for one in compiled.inputs)
        self._inputs = [tensor.data for tensor in self._request.input_tensors] if fixed else []
        self._outputs = range(len(compiled.outputs))

    def run(self, arrays: list[Any]) -> list[np.ndarray]:
        """What comes out, which no later call changes."""
        if not self._inputs:
            self._request.infer([np.asarray(array, order="C") for array in arrays], share_inputs=True)
        else:
            for mine, array in zip(self._inputs, arrays, strict=True):
                np.copyto(mine, array)
            self._request.infer(share_outputs=True)
        return [self._request.get_output_tensor(index).data.copy() for index in self._outputs]
