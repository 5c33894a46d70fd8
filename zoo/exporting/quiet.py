"""The exporters' own words kept off the screen: what fails becomes one sentence of ours."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import re
import warnings
from collections.abc import Iterator

from blocks.registry.words import raised
from zoo.errors import InputError, Problem

LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch._dynamo",
    "torch._inductor",
    "torch.utils._pytree",
    "executorch",
    "onnxscript",
    "onnx_ir",
    "openvino",
    "nncf",
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OPERATOR = re.compile(r"\b((?!onnx::|prim::|std::|torch::|c10::)[a-z_][a-z_0-9]*::[a-z_][a-z_0-9]*)\b")

DRAFT = re.compile(r"\S*/\.export-[^/]*/")
"""The folder in which a file is made, which is not there any more when a sentence is read."""


class OperatorError(InputError):
    """A net has an operator that a format does not express."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that is printed, warned of or logged inside reaches the screen, the graph that torch prints where an export fails included."""
    from torch import _C

    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels, tell = [logger.level for logger in loggers], _C._jit_onnx_log
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        _C._jit_onnx_log = (
            _nothing  # its own switch is on during every export: torch asks a function where it means its answer
        )
        try:
            yield
        finally:
            _C._jit_onnx_log = tell
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _nothing(*args: object) -> None:
    """In the place of what prints."""


@contextlib.contextmanager
def refused(subject: str, to: str) -> Iterator[None]:
    """Whatever an exporter raises inside, as OperatorError, for an operator that it cannot express, or InputError with what it said; that a
    disk is full is no word of its."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in FULL:
            raise
        operators = OPERATOR.findall(str(error))
        if operators:
            raise OperatorError(subject, Problem("", f"operators that {to} expresses", f"`{operators[0]}`")) from error
        found = DRAFT.sub("", raised(error))
        raise InputError(subject, Problem("", f"a net that {to} can record", found)) from error
