"""What must hold between the values of a manifest: hashes, states and sources, paths, metrics, dates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from math import isfinite, prod
from typing import Any
from urllib.parse import urlsplit

from blocks.registry.words import LONGEST_PART, is_text
from zoo.errors import Problem
from zoo.weights.header import DTYPES
from zoo.weights.stats import wilson_interval

PATTERNS = {  # field -> what its text must match (empty text is checked by the state), and that in words
    "model": (r"[a-z0-9][a-z0-9_]*(/[A-Za-z0-9][\w.-]*)?", "a model name in lower case"),
    "tag": (r"[a-z0-9][a-z0-9_.-]*", "a tag in lower case"),
    "digest": (r"[0-9a-f]{64}", "64 hexadecimal digits"),
    "sha256": (r"([0-9a-f]{64})?", "64 hexadecimal digits"),
    "sha256_prefix": (r"([0-9a-f]{8,64})?", "8 to 64 hexadecimal digits"),
    "licence": (r".+", "the name of a licence"),
    "origin": (r".+", "a sentence on where the weights come from"),
}
TEXTS = ("revision", "licence", "origin", "labels", "key_rules", "recipe", "command", "created")
"""Fields that are shown as they stand."""
MAX_LABEL = 500
METRIC_NAME = r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+@\d+"
MAX_SIDE, MIN_CROP, MAX_VALUE = 4096, 0.25, 1e6
WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}


def problems_of(values: dict[str, Any]) -> list[Problem]:
    """Every rule that the converted values of a manifest break."""
    checks: tuple[Callable[[dict[str, Any]], Iterator[Problem]], ...] = (
        _texts,
        _labels,
        _source,
        _state,
        _preprocess,
        _metrics,
        _probe,
    )
    return [problem for check in checks for problem in check(values)]


def path_fault(path: str) -> str:
    """Why `path` may not be followed below a folder of ours, or "": it must stay inside on every operating system."""
    parts = path.split("/")
    if not path or any(part in ("", ".") for part in parts[1:]) or parts[0] == ".":
        return "an empty part in it"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "an absolute path"
    if ".." in parts:
        return "`..` in it"
    if "\\" in path or not path.isprintable() or any(part.endswith((".", " ")) for part in parts):
        return "a character in it that means something else on another system"
    if any(part.split(".")[0].lower() in WINDOWS_DEVICES for part in parts):
        return "the name of a Windows device in it"
    return ""


def _texts(values: dict[str, Any]) -> Iterator[Problem]:
    for name, (pattern, words) in PATTERNS.items():
        if not re.fullmatch(pattern, values.get(name, "")):
            yield Problem(name, words, f'"{values[name]}"')
    for name in TEXTS:
        value = values.get(name, "")
        for text in (value,) if isinstance(value, str) else value:
            if not is_text(text, LONGEST_PART):
                yield Problem(name, f"one line of at most {LONGEST_PART:,} letters that can be seen", f'"{text}"')
    torch_names = [torch_name for torch_name, _ in DTYPES.values()]
    if values.get("dtype", "float32") not in torch_names:
        yield Problem("dtype", f"one of {', '.join(torch_names)}", f'"{values["dtype"]}"')
    yield from _date("created", values.get("created", ""))


def _labels(values: dict[str, Any]) -> Iterator[Problem]:
    labels = values.get("labels", "")
    for label in [labels] if isinstance(labels, str) else labels:
        if not label.isprintable() or len(label) > MAX_LABEL:
            yield Problem("labels", f"printable names of at most {MAX_LABEL} letters", ascii(label)[:80])
            return


def _source(values: dict[str, Any]) -> Iterator[Problem]:
    source = values["source"]
    kind, _, rest = source.partition(":")
    if kind != "embedded" and not is_text(source, LONGEST_PART):
        yield Problem("source", f"one line of at most {LONGEST_PART:,} letters that can be seen", f'"{source}"')
    elif kind == "embedded":
        if fault := path_fault(rest):
            yield Problem("source", "a relative path to a file beside the manifest", f'"{source}", with {fault}')
        elif not rest.endswith(".safetensors"):
            yield Problem("source", "a .safetensors file", f'"{source}"')
    elif kind == "hub":
        repo = re.match(r"[\w.-]+/[\w.-]+/(.+)", rest)
        if not repo or path_fault(rest):
            yield Problem("source", "hub:org/repo/file", f'"{source}"')
    elif kind == "https":
        if not _has_host(source):
            yield Problem("source", "https:// and a host", f'"{source}"')
    elif kind != "file" or not rest or "\0" in rest:
        yield Problem("source", "`embedded:FILE`, `hub:org/repo/file`, `https://...` or `file:PATH`", f'"{source}"')


def _has_host(address: str) -> bool:
    """Whether an address names a host, and no user nor password, for these would stand in every lock and card."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and "@" not in parts.netloc and (parts.port is None or parts.port > 0)
    except ValueError:  # `https://[::1`, `https://host:port`
        return False


def _state(values: dict[str, Any]) -> Iterator[Problem]:
    state, seen = values["state"], values["state"] in ("embedded", "pinned")
    embedded = values["source"].startswith("embedded:")
    if embedded != (state == "embedded"):
        yield Problem("state", "`embedded` for an embedded source, and only for one", f"`{state}`")
    if seen and not values.get("sha256"):
        yield Problem("sha256", f"64 hexadecimal digits, because the state is `{state}`", "none")
    if seen and values.get("size_bytes") is None:
        yield Problem("size_bytes", f"the size of the file, because the state is `{state}`", "none")
    if state == "saved" and (values.get("sha256") or not values["source"].startswith("file:")):
        yield Problem("state", "`saved` for a `file:` source without a hash", f"`{state}`")
    if state == "listed" and values.get("sha256"):
        how = "put a hash that others published into `sha256_prefix`"
        yield Problem("sha256", "none, because the bytes of a `listed` file were never seen", "a hash", next=how)
    if (values.get("size_bytes") or 0) < 0:
        yield Problem("size_bytes", "a number >= 0", str(values["size_bytes"]))
    if values.get("sha256") and not values["sha256"].startswith(values.get("sha256_prefix", "")):
        yield Problem("sha256_prefix", "the beginning of `sha256`", f'"{values["sha256_prefix"]}"')
    revision = values.get("revision", "")
    if state == "pinned" and values["source"].startswith("hub:") and not re.fullmatch(r"[0-9a-f]{40}", revision):
        yield Problem("revision", "a commit of 40 hexadecimal digits, because the state is `pinned`", f'"{revision}"')


def _preprocess(values: dict[str, Any]) -> Iterator[Problem]:
    step = values.get("preprocess")
    if step is None:
        return
    sizes = [step.size] if isinstance(step.size, int) else list(step.size)
    if (len(sizes) != 2 and not isinstance(step.size, int)) or min(sizes, default=0) < 1:
        found = str(step.size if isinstance(step.size, int) else sizes)
        yield Problem("preprocess.size", "a number >= 1, or two of them", found)
    if step.channels < 1:
        yield Problem("preprocess.channels", "a number >= 1", str(step.channels))
    if len(step.planes) >= max(step.channels, 1) or not all(0 <= value <= 1 for value in step.planes):
        expected = "fewer numbers than channels, each from 0 to 1"
        yield Problem("preprocess.planes", expected, str(list(step.planes))[:80])
    for name in ("mean", "std"):
        if (count := len(getattr(step, name))) != step.channels:
            yield Problem(f"preprocess.{name}", f"{step.channels} numbers, one per channel", str(count))
    if any(spread <= 0 for spread in step.std):
        yield Problem("preprocess.std", "numbers > 0", str(list(step.std)))
    if not 0 < step.crop <= 1:
        yield Problem("preprocess.crop", "a share in (0, 1]", str(step.crop))
    if step.range[0] >= step.range[1]:
        yield Problem("preprocess.range", "low < high", str(list(step.range)))
    yield from _beyond_memory(step, sizes)


def _beyond_memory(step: Any, sizes: list[int]) -> Iterator[Problem]:
    """A picture is resized to `size / crop` before it is cut, and float32 has to hold what becomes of its values."""
    if max(sizes, default=0) > MAX_SIDE:
        yield Problem("preprocess.size", f"at most {MAX_SIDE:,}", str(max(sizes)))
    if 0 < step.crop < MIN_CROP:
        yield Problem("preprocess.crop", f"a share of at least {MIN_CROP}", str(step.crop))
    for name in ("mean", "std", "range"):
        values = getattr(step, name)
        if not all(abs(value) <= MAX_VALUE for value in values) or (
            name == "std" and any(0 < v < 1 / MAX_VALUE for v in values)
        ):
            least = f", and at least {1 / MAX_VALUE:g}" if name == "std" else ""
            yield Problem(f"preprocess.{name}", f"numbers of at most {MAX_VALUE:g}{least}", str(list(values))[:80])


def _metrics(values: dict[str, Any]) -> Iterator[Problem]:
    for name, metric in values.get("metrics", {}).items():
        where = f"metrics.{name}"
        if not re.fullmatch(METRIC_NAME, name):
            yield Problem(where, "a name like `digits/top1@32`: data set, figure, input size", f'"{name}"')
        if not isfinite(metric.value):
            yield Problem(f"{where}.value", "a finite number", str(metric.value))
        if not (is_text(metric.source, LONGEST_PART) and is_text(metric.command, LONGEST_PART)):
            yield Problem(where, "a source and a command that can be seen", f'"{metric.source}", "{metric.command}"')
        if not (metric.source or metric.command):
            yield Problem(where, "a source or a command", "none")
        yield from _date(f"{where}.date", metric.date)
        yield from _counts(where, metric)


def _counts(where: str, metric: Any) -> Iterator[Problem]:
    if metric.correct is None:
        if metric.ci95 and not metric.ci95[0] <= metric.value <= metric.ci95[1]:
            yield Problem(f"{where}.ci95", f"an interval around {metric.value}", str(list(metric.ci95)))
        return
    if metric.n is None or metric.n < 1 or not 0 <= metric.correct <= metric.n:
        yield Problem(f"{where}.correct", "0 <= correct <= n", f"correct = {metric.correct}, n = {metric.n}")
        return
    if abs(metric.value - metric.correct / metric.n) > 1e-6:
        yield Problem(f"{where}.value", f"correct / n = {metric.correct / metric.n:.6f}", str(metric.value))
    low, high = wilson_interval(metric.correct, metric.n)
    if metric.ci95 and max(abs(metric.ci95[0] - low), abs(metric.ci95[1] - high)) > 1e-3:
        yield Problem(f"{where}.ci95", f"the Wilson interval [{low:.4f}, {high:.4f}]", str(list(metric.ci95)))


def _probe(values: dict[str, Any]) -> Iterator[Problem]:
    probe = values.get("probe")
    if probe is None:
        return
    if not 0 <= probe.seed < 2**32:
        yield Problem("probe.seed", "a number in [0, 2^32)", str(probe.seed))
    if not probe.shape or min(probe.shape) < 1 or prod(probe.shape) > 2**26:
        yield Problem("probe.shape", "sizes >= 1, at most 2^26 values", str(list(probe.shape)))
    if not probe.logits or not all(map(isfinite, (*probe.logits, probe.norm))):
        yield Problem("probe.logits", "at least one number", str(list(probe.logits)))
    for name in ("atol", "rtol"):
        if not 0 <= getattr(probe, name) <= 0.1:
            yield Problem(f"probe.{name}", "a tolerance in [0, 0.1]", str(getattr(probe, name)))


def _date(where: str, text: str) -> Iterator[Problem]:
    try:
        date.fromisoformat(text or "2000-01-01")
    except ValueError:
        yield Problem(where, "a date like 2026-01-31", f'"{text}"')
