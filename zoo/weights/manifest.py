"""The manifest of one (model, tag): where the bytes are, what they must be, how good they are and what proves a load.

JSON on disk, one file per tag. Reading is strict and reports every problem at once. This file imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import msgspec

from zoo.errors import Problem, WeightsError, nearest
from zoo.system.folders import replacing
from zoo.system.strict_json import parse_json
from zoo.weights.licences import LicenceClass
from zoo.weights.manifest_rules import problems_of
from zoo.weights.stats import wilson_interval

SCHEMA: Literal["zoo.weights/1"] = "zoo.weights/1"
MAX_MANIFEST_BYTES = 2**20


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From an image to the input: the crop of `size` (H = W, or H and W) is `crop` of the side that is the first to be
    filled; scale to `range`; normalise. `fit`: instead of a crop the whole picture, as `zoo.data.fitting` says.

    `planes`: of the `channels` the last are no colours, but hold these values everywhere, from 0 to 1 before they are normalised."""

    size: int | tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    crop: float = 1.0
    range: tuple[float, float] = (0.0, 1.0)
    fit: Literal["crop", "letterbox", "stretch", "whole"] = "crop"
    planes: tuple[float, ...] = ()

    @property
    def colours(self) -> int:
        """Channels that the picture itself has."""
        return self.channels - len(self.planes)

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])

    def fitted(self, channels: int, size: int | Sequence[int]) -> Preprocess:
        """The same for inputs of another form; mean and deviation go round the channels, as adapted stems do."""
        mean, std = (tuple(stats[i % len(stats)] for i in range(channels)) for stats in (self.mean, self.std))
        whole = size if isinstance(size, int) else tuple(size)
        planes = self.planes if channels == self.channels else ()
        return msgspec.structs.replace(self, size=whole, channels=channels, mean=mean, std=std, planes=planes)


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure. With `n` and `correct` the value is correct / n, a fraction, and `ci95` its 95 % Wilson interval."""

    value: float
    n: int | None = None
    correct: int | None = None
    ci95: tuple[float, float] | None = None
    source: str = ""
    command: str = ""
    seed: int | None = None
    date: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """numpy RandomState(seed).standard_normal(shape) -> the first logits and the norm of the whole output."""

    seed: int
    shape: tuple[int, ...]
    logits: tuple[float, ...]
    norm: float
    atol: float = 1e-4
    rtol: float = 1e-4


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`state`: `embedded` (in the package), `pinned` (size and sha256 seen by us), `listed` (bytes never seen) or `saved` (the manifest
    stands in the very file that it describes, which cannot hold its own hash).

    `source`: `embedded:FILE` beside the manifest, `hub:org/repo/file`, `https://...` or `file:PATH`.
    A hash that others published for bytes we have not seen goes into `sha256_prefix`, as long as they print it."""

    schema: Literal["zoo.weights/1"] = SCHEMA
    model: str
    tag: str
    digest: str
    source: str
    state: Literal["embedded", "pinned", "listed", "saved"]
    revision: str = ""
    size_bytes: int | None = None
    sha256: str = ""
    sha256_prefix: str = ""
    dtype: str = "float32"
    licence: str
    licence_class: LicenceClass
    origin: str
    preprocess: Preprocess | None = None
    labels: str | tuple[str, ...] = ""
    metrics: dict[str, Metric] = {}
    key_rules: str = ""
    probe: Probe | None = None
    recipe: str = ""
    command: str = ""
    created: str = ""

    @property
    def name(self) -> str:
        return f"{self.model}.{self.tag}"

    def for_input(self, channels: int, size: int | Sequence[int]) -> Manifest:
        """What holds of these weights in a model that was made for inputs of another form."""
        prepared = self.preprocess and self.preprocess.fitted(channels, size)
        return msgspec.structs.replace(self, preprocess=prepared)


def counted_metric(correct: int, n: int, **facts: Any) -> Metric:
    """The metric of `correct` right answers among `n`, with its interval; `facts` are source, command, seed, date."""
    return Metric(value=correct / n, n=n, correct=correct, ci95=wilson_interval(correct, n), **facts)


def read_manifest(path: str | Path) -> Manifest:
    """Raises WeightsError with every problem of the file: JSON, unknown and missing keys, types, hashes, paths."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        found = error.strerror or str(error)
        raise WeightsError(str(path), Problem("", "a manifest that can be read", found)) from None
    if len(text) > MAX_MANIFEST_BYTES:
        raise WeightsError(str(path), Problem("", f"at most {MAX_MANIFEST_BYTES:,} bytes", "more"))
    return parse_manifest(text, str(path))


def parse_manifest(text: str | bytes, subject: str) -> Manifest:
    """`text` is JSON; `subject` names it in the error. Raises WeightsError."""
    duplicates: list[str] = []
    try:
        data = parse_json(text, duplicates.extend)
    except ValueError as error:
        raise _not_json(subject, error) from None
    return _checked(data, subject, [Problem(name, "each key once", "the key twice") for name in duplicates])


def manifest_from(data: Any, subject: str) -> Manifest:
    """The manifest that `parse_manifest` would read, from plain data. Raises WeightsError; TypeError for values that JSON does not have."""
    return _checked(data, subject, [])


def _checked(data: Any, subject: str, problems: list[Problem]) -> Manifest:
    try:  # JSON can spell half of a surrogate pair, which is no text; TOML has NaN
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise _not_json(subject, error) from None
    values = _convert_struct(data, Manifest, "", problems)
    if not problems:
        problems += problems_of(values)
    if problems:
        raise WeightsError(subject, problems)
    return Manifest(**values)


def _not_json(subject: str, error: Exception) -> WeightsError:
    return WeightsError(subject, Problem("", "JSON", f"text that is not JSON ({error})"))


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write atomically. The manifest is checked first, so what is on disk can be read. Raises WeightsError."""
    text = manifest_json(manifest)
    parse_manifest(text, manifest.name)
    path = Path(path)
    try:
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        found = error.strerror or str(error)
        raise WeightsError(manifest.name, Problem(str(path), "a place to write to", found)) from None


def manifest_json(manifest: Manifest) -> str:
    """The text of the file: fields in their declared order, defaults left out, the schema first."""
    data = {"schema": manifest.schema} | msgspec.to_builtins(manifest)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


class _Field(NamedTuple):
    type: Any
    required: bool


def _fields(struct: type[msgspec.Struct]) -> dict[str, _Field]:
    hints = get_type_hints(struct)
    return {field.name: _Field(hints[field.name], field.required) for field in msgspec.structs.fields(struct)}


def _convert_struct(data: Any, struct: type[msgspec.Struct], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The converted values of `data`, field by field, so that one bad value does not hide the next."""
    if not isinstance(data, dict):
        problems.append(Problem(where, "an object", _kind(data)))
        return {}
    fields = _fields(struct)
    for name in data:
        if name not in fields:
            problems.append(Problem(_join(where, name), found="an unknown key", nearest=nearest(name, fields)))
    for name, field in fields.items():
        if name not in data and field.required:
            problems.append(Problem(_join(where, name), "a value", "none"))
    given = {name: field.type for name, field in fields.items() if name in data}
    return {name: _convert(data[name], kind, _join(where, name), problems) for name, kind in given.items()}


def _convert(value: Any, kind: Any, where: str, problems: list[Problem]) -> Any:
    if kind == dict[str, Metric] and isinstance(value, dict):
        return {name: _convert(entry, Metric, f"{where}.{name}", problems) for name, entry in value.items()}
    struct = next((part for part in (Preprocess, Metric, Probe) if kind in (part, part | None)), None)
    try:
        if struct is None or (value is None and kind != struct):
            return msgspec.convert(value, kind)
        before = len(problems)
        values = _convert_struct(value, struct, where, problems)
        return struct(**values) if len(problems) == before else None
    except msgspec.ValidationError as error:
        expected = str(error).split(", got ")[0].removeprefix("Expected ").split(" - at ")[0]
        problems.append(Problem(where, expected.replace("`", ""), _kind(value)))
        return None


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "a truth value",
    }
    text = json.dumps(value, ensure_ascii=False)
    return f"{text if len(text) <= 60 else text[:57] + '...'}, {names.get(type(value), 'no value')}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
