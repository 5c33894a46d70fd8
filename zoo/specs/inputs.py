"""What goes into a model: pictures, clips, token ids, or numbers of any shape; and, read by name in a graph, what goes in beside it.

    input = { kind = "image", channels = 32, size = 16 }
    inputs = [
      { name = "t", kind = "numbers", shape = ["batch"] },
      { name = "y", kind = "ids", count = 1001, shape = ["batch"] },
    ]

The sizes of a `shape` are those of an example: which of them are free is a matter of the blocks that read it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from blocks.registry.calls import complete_call
from blocks.registry.schema import INVALID, Issue, complete, fragment, shown
from blocks.registry.words import PART, is_name
from zoo.errors import nearest

Size = Annotated[int, Meta(ge=1, le=16384)]
Axis = Annotated[int, Meta(ge=1, le=10_000_000)] | Literal["batch"]
Shape = Annotated[list[Axis], Meta(min_length=1, max_length=8)]


class ImageInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images (B, channels, H, W); `size` is H = W, or [H, W]. `square` says that the net takes no other shape."""

    kind: Literal["image"] = "image"
    channels: Annotated[int, Meta(ge=1, le=4096)] = 3
    size: Size | Annotated[list[Size], Meta(min_length=2, max_length=2)] = 224
    square: bool = False


class VideoInput(ImageInput, frozen=True, forbid_unknown_fields=True):
    """Clips (B, channels, frames, H, W)."""

    kind: Literal["video"] = "video"  # type: ignore[assignment]
    frames: Annotated[int, Meta(ge=1, le=4096)] = 8


class FramesInput(VideoInput, frozen=True, forbid_unknown_fields=True):
    """Clips (B, frames, channels, H, W), whose frames the net meets as images, (B * frames, channels, H, W), those of a clip in a row."""

    kind: Literal["frames"] = "frames"  # type: ignore[assignment]


class TokenInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Token ids (B, L); `length` matters only to blocks that are built for one length."""

    vocab_size: Annotated[int, Meta(ge=1, le=10_000_000)]
    kind: Literal["tokens"] = "tokens"
    length: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None


class SeriesInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Series (B, L, features): numbers measured at each of L steps, frames of a spectrum among them. `length` as that of tokens."""

    kind: Literal["series"] = "series"
    features: Annotated[int, Meta(ge=1, le=65536)] = 1
    length: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None


class SpectrogramInput(SeriesInput, frozen=True, forbid_unknown_fields=True):
    """Series whose features come first, (B, features, L), as spectrograms of sound are kept."""

    kind: Literal["spectrogram"] = "spectrogram"  # type: ignore[assignment]


class NumbersInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers of a shape, "batch" where the samples lie: ["batch", 20, 24]. The last axis is their width."""

    shape: Shape
    kind: Literal["numbers"] = "numbers"

    @property
    def channels(self) -> int:
        return self.shape[-1] if isinstance(self.shape[-1], int) else 1

    @property
    def size(self) -> list[int]:
        """All axes but the batch's, as an image has rows and columns."""
        return [axis for axis in self.shape if isinstance(axis, int)]


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers beside the first input."""

    name: str
    shape: Shape
    kind: Literal["numbers"] = "numbers"


class Places(Numbers, frozen=True, forbid_unknown_fields=True):
    """Numbers that say where points are, from 0 to `span` along each axis: with an example of them, neighbours are found."""

    kind: Literal["places"] = "places"  # type: ignore[assignment]
    span: Annotated[float, Meta(gt=0)] = 1.0


class Ids(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whole numbers in [0, count): classes, kinds of atoms, tokens."""

    name: str
    shape: Shape
    count: Annotated[int, Meta(ge=1, le=10_000_000)]
    kind: Literal["ids"] = "ids"


class Mask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """True at what is real, False at padding. It may be left out, and then all is real."""

    name: str
    shape: Shape
    kind: Literal["mask"] = "mask"


AnyInput = ImageInput | TokenInput | SeriesInput | NumbersInput
Named = Numbers | Places | Ids | Mask
FIRST: dict[str, type[Any]] = {
    "image": ImageInput,
    "video": VideoInput,
    "frames": FramesInput,
    "tokens": TokenInput,
    "series": SeriesInput,
    "spectrogram": SpectrogramInput,
    "numbers": NumbersInput,
}
BESIDE: dict[str, type[Any]] = {"numbers": Numbers, "places": Places, "ids": Ids, "mask": Mask}
INPUT_SCHEMA = {kind: fragment(form) for kind, form in FIRST.items()}
NAMED_SCHEMA = {kind: fragment(form) for kind, form in BESIDE.items()}
MOST_INPUTS = 64
TAKEN = ("x", "input", "stem", "ctx")
"""Names that mean something else to a graph, or to the call of a model."""


def complete_input(value: Any, issues: list[Issue]) -> Any:
    """The first input with its defaults written in."""
    return _complete_kind(value, INPUT_SCHEMA, "image", ("input",), issues)


def complete_inputs(value: Any, issues: list[Issue]) -> Any:
    """The inputs beside the first, in the order in which a call gives them."""
    if not isinstance(value, list) or len(value) > MOST_INPUTS:
        found = f"a list of {len(value)}" if isinstance(value, list) else shown(value)
        issues.append(Issue(("inputs",), f"a list of at most {MOST_INPUTS} named inputs", found))
        return INVALID
    filled = [_complete_kind(row, NAMED_SCHEMA, "numbers", ("inputs", i), issues) for i, row in enumerate(value)]
    names: list[Any] = []
    for i, row in enumerate(filled):
        name = row.get("name") if isinstance(row, dict) else INVALID
        if name is not INVALID and name is not None and (not is_name(name, PART) or name in (*TAKEN, *names)):
            expected = "a name of letters, digits and _ that no other input has"
            issues.append(Issue(("inputs", i, "name"), expected, shown(name)))
        names.append(name)
    return filled


def names_of(rows: Any) -> tuple[str, ...]:
    """The names in `inputs` as they are written."""
    named = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return tuple(name for name in named if isinstance(name, str))


def input_of(values: dict[str, Any]) -> AnyInput:
    """The first input of a filled tree."""
    given = {key: value for key, value in values.items() if value != "none"}
    found: AnyInput = msgspec.convert(given, FIRST[given.get("kind", "image")])
    return found


def inputs_of(rows: list[dict[str, Any]]) -> tuple[Named, ...]:
    """The inputs beside the first of a filled tree."""
    return tuple(msgspec.convert(row, BESIDE[row["kind"]]) for row in rows)


def _complete_kind(
    value: Any, schemas: dict[str, dict[str, Any]], usual: str, path: tuple[str | int, ...], issues: list[Issue]
) -> Any:
    kind = value.get("kind", usual) if isinstance(value, dict) else usual
    if kind is INVALID:
        return value
    if kind not in tuple(schemas):
        options = [f'"{key}"' for key in schemas]
        issues.append(
            Issue(
                (*path, "kind"),
                "one of " + ", ".join(options),
                f'"{kind}"' if isinstance(kind, str) else shown(kind),
                nearest(str(kind), schemas),
            )
        )
        return value
    return complete(value, schemas[kind], path, issues, complete_call)
