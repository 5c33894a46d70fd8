"""The noise of exporters and compilers, kept off the screen: what goes wrong is an exception, and becomes a sentence."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from blocks.registry.words import printable, raised
from zoo.errors import InputError, Problem

TALKERS = (
    "torch",
    "torch.onnx",
    "torch.export",
    "torch._dynamo",
    "torch._inductor",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "nncf",
    "openvino",
)
LONGEST_REASON = 300


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no lines of loggers, no prints of Python code within."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def refusing(runtime: str, what: str) -> Iterator[None]:
    """Whatever a runtime raises within becomes an InputError: what it was to do, and the first line of what it says."""
    try:
        with quiet():
            yield
    except (InputError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise InputError("deploy", Problem(f"runtime `{runtime}`", what, reason_of(error))) from error


def reason_of(error: BaseException) -> str:
    """The lines of a foreign error that say something, as one, and no more than fits into a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return printable(raised(error), LONGEST_REASON)
