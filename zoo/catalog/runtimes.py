"""Which runtimes and precisions a deployed model may be asked for, by name: those of the zoo, and those that plugins declare as `zoo.runtimes`.

What they are, and whether they can be used on this machine, `zoo.runtimes.registered` says. Imports no torch, and no runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from blocks.registry import plugins
from blocks.registry.plugins import Plugin
from zoo.errors import InputError, Problem, listed, nearest

AUTO = "auto"
"""Every runtime that is installed, or every precision."""
Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8")
OWN = {
    "torch": "zoo.runtimes.eager:Eager",
    "compile": "zoo.runtimes.compiled:Compiled",
    "aot": "zoo.runtimes.aot:Aot",
    "onnxruntime": "zoo.runtimes.onnx_runtime:OnnxRuntime",
    "openvino": "zoo.runtimes.open_vino:OpenVino",
}


class Asked(NamedTuple):
    """What `runtime` and `precision` mean, once they are known to be words that exist."""

    runtimes: list[str]
    precision: str

    @property
    def is_named(self) -> bool:
        """Whether it is one runtime, by its name."""
        return len(self.runtimes) == 1 and AUTO not in self.runtimes


def names() -> list[str]:
    """All that may be asked for, the zoo's own first."""
    return [*OWN, *declared()]


def declared() -> dict[str, list[Plugin]]:
    """{name: the plugins that declare it}; more than one makes it nobody's."""
    claims: dict[str, list[Plugin]] = {}
    for plugin in plugins.plugins().values():
        for name in plugin.runtimes if plugin.usable else ():
            if name not in OWN:
                claims.setdefault(name, []).append(plugin)
    return claims


def asked(runtime: str | Sequence[str] | None, precision: str | None) -> Asked:
    """The runtimes, `auto` where none is named, and the precision that is meant: float32 for a runtime that is named, else `auto`.

    Raises InputError for a word that is neither."""
    words = [AUTO] if runtime is None else list(runtime) if isinstance(runtime, (list, tuple)) else [runtime]
    wish = Asked([word if isinstance(word, str) else repr(word) for word in words], precision or AUTO)
    if precision is None and wish.is_named:
        wish = wish._replace(precision="float32")
    check_words(*wish)
    return wish


def check_words(runtimes: Sequence[str], precision: str) -> None:
    """Raises InputError for a runtime or a precision that there is not, with the nearest."""
    known = [AUTO, *names()]
    problems = [
        Problem("runtime", listed(known, 20), f"`{name}`", nearest(name, known))
        for name in runtimes
        if name not in known
    ]
    if not runtimes:
        problems.append(Problem("runtime", listed(known, 20), "none"))
    if precision != AUTO and precision not in PRECISIONS:
        words = [AUTO, *PRECISIONS]
        problems.append(Problem("precision", listed(words), f"`{precision}`", nearest(precision, words)))
    if problems:
        raise InputError("deploy", problems)
