"""ONNX Runtime on the CPU: an ONNX file, optimised anew for the machine on which it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.runtimes.portable import ONNX, widest, write_graph, written_before
from zoo.runtimes.protocol import Session
from zoo.runtimes.quiet import reason_of, refusing
from zoo.runtimes.signature import Signature
from zoo.runtimes.sizes import BySize

FATAL_ALONE = 4
"""What fails is an exception; it need not stand on the screen, too."""
SPIN_US = "1000"
"""How long its threads wait for work at full speed: from one call of a loop to the next, as waking them costs a small net a tenth of its
time, and not the twenty milliseconds and more that they would take from whatever else runs."""


class OnnxRuntime:
    """float32: its kernels for a CPU know no other floats."""

    name = "onnxruntime"
    distribution = "onnxruntime"

    def missing(self) -> str:
        try:
            import onnxruntime  # noqa: F401
        except Exception as error:  # a broken installation raises anything
            return f'it does not import ({reason_of(error)}); next: pip install "blockzoo[onnxruntime]"'
        return ""

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def precisions(self) -> tuple[str, ...]:
        return ("float32",)

    def compile(self, net: nn.Module, signature: Signature, precision: str, threads: int, folder: Path) -> Session:
        known = written_before(self, net, signature, threads, folder)
        if known is not None:
            return self.open(folder, known, precision, threads)

        def write(candidate: Signature) -> None:
            write_graph(net, candidate, folder / ONNX, "image")

        return widest(net, signature, write, lambda candidate: self.open(folder, candidate, precision, threads))

    def open(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        with refusing(self.name, f"an ONNX file in {folder / ONNX} that it can run"):
            return OnnxSession(folder / ONNX, signature, threads)

    remake = open

    def complete(self, session: Session, folder: Path) -> None:
        """The ONNX file is all that `run.py` reads."""


class OnnxSession:
    """Sessions of ONNX Runtime may be called by several threads at once."""

    def __init__(self, path: Path, signature: Signature, threads: int):
        self.signature = signature
        self._names = signature.input_names
        self._by_size = BySize(signature, lambda of_example: _session(path, signature, threads, of_example))

    def __call__(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        run = self._by_size.of(arrays)
        feeds = {name: x.detach().contiguous().numpy() for name, x in zip(self._names, arrays, strict=True)}
        return tuple(torch.from_numpy(y) for y in run(None, feeds))

    def close(self) -> None:
        self._by_size.close()


def _session(path: Path, signature: Signature, threads: int, of_example: bool) -> Any:
    """`run` of a session; for the example its free sizes are set before the graph is optimised."""
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ALONE
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    if of_example:
        for one in signature.inputs:
            for axis, (free, size) in enumerate(zip(one.shape, one.example, strict=True)):
                if free is None:
                    options.add_free_dimension_override_by_name(one.axis(axis), size)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run
