"""From pictures to a batch: resize, crop and normalise as the weights were trained, without torchvision.

The evaluation transform is timm's: the short side to floor(size / crop) by PIL, or for an input that is not square, the side
that is the first to be filled; a centre crop, [0, 1], (x - mean) / std.

Nets that tell where things are, or give a picture back, see the whole of it (`zoo.data.fitting`).

Before that a picture becomes what a person sees of it (`as_seen`): turned and mirrored as its EXIF orientation says, transparent
parts on white, and 16 bits, whole numbers and floats as the greys that they stand for.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoo.catalog.sources import find_source
from zoo.data import fitting
from zoo.data.bands import Bands, to_bands
from zoo.data.fitting import Fit
from zoo.errors import InputError, Problem
from zoo.weights.manifest import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST,
}  # fmt: skip
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""The way back from each EXIF orientation, as the camera was held."""
ORIENTATION = 0x0112
FORMS = {"tokens": "ids (B, L)", "series": "numbers (B, L, features)", "spectrogram": "numbers (B, features, L)"}
"""What models take that do not see pictures."""
GROUND = "white"
"""What shows through transparent parts, as on a page."""
FITS = {
    "object-detection": "letterbox", "semantic-segmentation": "stretch", "salient-object-detection": "stretch",
    "depth-estimation": "stretch", "line-detection": "stretch", "pose-estimation": "letterbox", "super-resolution": "whole", "image-restoration": "whole",
}  # fmt: skip
"""How pictures fit nets for tasks whose weights do not say."""
MOST_SCALED = 64
"""Pixels of a scaled picture for each that is kept, from which on only what is kept is computed."""
REACH = 3
"""Pixels to each side that PIL's widest filter reads, at its scale."""


def transform(model: Any, train: bool = False, generator: torch.Generator | None = None) -> Transform:
    """The transform of a model (loaded with `pretrained`, or of its spec's size), of a name, of what `zoo.save` wrote, or of a Preprocess.

    train: a random crop of 8 to 100 % of the area and a random flip, drawn from `generator`, instead of the centre crop.
    """
    return Transform(preprocess_of(model), train, generator)


def preprocess_of(model: Any) -> Preprocess:
    """How images are prepared for a model: as its weights say, else ImageNet's way at the spec's size."""
    if isinstance(model, Preprocess):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _of_named(model)
    if isinstance(carried := getattr(model, "preprocess", None), Preprocess):  # of a deployed model
        return carried
    manifest = getattr(model, "pretrained", None)
    return manifest.preprocess if manifest is not None and manifest.preprocess else _by_size(model.spec)


def _of_named(model: str | os.PathLike[str]) -> Preprocess:
    source = find_source(model)
    prepared = [manifest.preprocess for manifest in source.manifests[:1]]
    return next(filter(None, prepared), None) or _by_size(source.spec)


def _by_size(spec: Any) -> Preprocess:
    if not hasattr(spec.input, "channels"):
        raise InputError(
            "transform",
            Problem(
                spec.name,
                "a model of images",
                f"a model of {spec.input.kind}",
                next=f"give it {FORMS[spec.input.kind]}",
            ),
        )
    channels = spec.input.channels
    size = spec.input.size if isinstance(spec.input.size, int) else tuple(spec.input.size)
    fit: Any = FITS.get(spec.family.task, "crop")
    if fit == "whole":  # what comes back is a picture, too
        return Preprocess(size=size, mean=(0.0,) * channels, std=(1.0,) * channels, channels=channels, fit=fit)
    mean = IMAGENET_MEAN if channels == 3 else (0.5,) * channels
    std = IMAGENET_STD if channels == 3 else (0.5,) * channels
    return Preprocess(size=size, mean=mean, std=std, channels=channels, crop=0.875 if fit == "crop" else 1.0, fit=fit)


class Seen(NamedTuple):
    """A picture as a net sees it, (C, H, W), with the way back from there, and with what was told of the picture where that lies now:
    `boxes` (N, 4), cut at the borders, and `mask` (H, W), whose value beside the picture is that of the ground."""

    x: Tensor
    fit: Fit
    boxes: Tensor | None
    mask: Tensor | None


class Transform:
    """A callable: pictures (PIL image, path, array, tensor, or a list of these) -> float32 batch (B, C, H, W).

    In a Dataset, whose items a loader makes a batch of, `prepare.one(picture)` gives each picture as (C, H, W):

        ImageFolder(root, transform=zoo.transform(model).one)
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __init__(self, preprocess: Preprocess, train: bool = False, generator: torch.Generator | None = None):
        self.preprocess, self.train, self.generator = preprocess, train, generator

    def __call__(self, pictures: Any) -> Tensor:
        many = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        if not many:
            raise InputError("transform", Problem("", "at least one picture", "an empty list"))
        return torch.stack([self.one(picture) for picture in many])

    def __repr__(self) -> str:
        prepared, (rows, columns) = self.preprocess, self.preprocess.rows_and_columns
        how = f"crop {prepared.crop:g}" if prepared.fit == "crop" else prepared.fit
        how = {"crop": "random crop, random flip"}.get(prepared.fit, f"{how}, random flip") if self.train else how
        mean, std = (" ".join(f"{value:.3g}" for value in stats) for stats in (prepared.mean, prepared.std))
        kind = {1: "grey", 3: "RGB"}.get(prepared.colours, f"{prepared.colours} bands")
        return f"<Transform: {kind} {rows} x {columns}, {prepared.interpolation}, {how}, mean {mean}, std {std}>"

    def one(self, picture: Any) -> Tensor:
        """A single picture as (C, H, W), the item of a Dataset."""
        return self._normal(self._pixels(picture))

    def place(self, picture: Any, boxes: Any = None, mask: Any = None, ground: int = 0) -> Seen:
        """A single picture with boxes (N, 4) x1, y1, x2, y2 in its pixels and a mask (H, W) of its classes, all moved alike.

        Raises InputError for a picture that is neither grey nor in colours, and for a mask of another size."""
        if self.preprocess.colours not in (1, 3):
            found = f"one of {self.preprocess.colours} bands"
            raise InputError("transform", Problem("", "a net of pictures, grey or in colours", found))
        image = in_mode(as_seen(to_image(picture)), "L" if self.preprocess.colours == 1 else "RGB")
        fit = self._drawn(image.size) if self.train else self.fit(image.size)
        x = self._normal(self._with_planes(fit.image(image, RESAMPLING[self.preprocess.interpolation])))
        if mask is not None and np.shape(mask) != image.size[::-1]:
            found = f"one of shape {np.shape(mask)}"
            raise InputError("transform", Problem("mask", f"a mask ({image.height}, {image.width})", found))
        placed = None if mask is None else torch.from_numpy(fit.mask(np.asarray(mask, np.uint8), ground).copy()).long()
        moved = None if boxes is None else torch.from_numpy(fit.boxes(np.asarray(boxes, np.float64).reshape(-1, 4)))
        if moved is not None:
            moved = moved.clamp(min=0).minimum(torch.tensor(fit.side * 2, dtype=moved.dtype))
        return Seen(x, fit, moved, placed)

    def fit(self, size: tuple[int, int]) -> Fit:
        """How a picture of (width, height) becomes what the net sees, and the way back."""
        rows, columns = self.preprocess.rows_and_columns
        if self.preprocess.fit == "whole":
            return fitting.whole(size)
        if self.preprocess.fit == "crop":
            return fitting.crop(size, (columns, rows), self._scaled(*size))
        return getattr(fitting, self.preprocess.fit)(size, (columns, rows))  # type: ignore[no-any-return]

    def _drawn(self, size: tuple[int, int]) -> Fit:
        """`fit` for training: another part of the picture each time where nets see crops; mirrored every second time."""
        fit = self.fit(size)
        if self.preprocess.fit == "crop":
            left, top, right, bottom = self._random_box(*size)
            across, down = fit.side[0] / (right - left), fit.side[1] / (bottom - top)
            fit = fit._replace(scale=(across, down), shift=(-left * across, -top * down))
        return fit._replace(mirrored=self._uniform(0, 1) < 0.5)

    def _normal(self, pixels: np.ndarray) -> Tensor:
        low, high = self.preprocess.range
        x = torch.from_numpy(pixels)
        x = x if (low, high) == (0, 1) else x * (high - low) + low
        mean, std = (torch.tensor(stats).view(-1, 1, 1) for stats in (self.preprocess.mean, self.preprocess.std))
        return (x - mean).div_(std)

    def _pixels(self, picture: Any) -> np.ndarray:
        """(C, H, W) float32 from 0 to 1."""
        channels = self.preprocess.colours
        if not isinstance(picture, Bands) and channels in (1, 3):
            image = self.cropped(in_mode(as_seen(to_image(picture)), "L" if channels == 1 else "RGB"))
            return self._with_planes(image)
        bands: Any = picture if isinstance(picture, Bands) else to_bands(picture)
        if len(bands) != channels:
            found, step = f"one of {len(bands)}", f"a model for it: `in_chans={len(bands)}`"
            raise InputError("transform", Problem("", f"a picture of {channels} bands", found, next=step))
        return self.cropped(bands).values()  # type: ignore[attr-defined, no-any-return]

    def _with_planes(self, image: Image.Image) -> np.ndarray:
        """The values of a picture, and behind its colours the planes that hold one value."""
        values = _values(image)
        planes = [np.full((1, *values.shape[1:]), value, np.float32) for value in self.preprocess.planes]
        return np.concatenate([values, *planes]) if planes else values

    def cropped(self, image: Image.Image) -> Image.Image:
        """What the net sees of a picture, as many pixels as it takes."""
        if self.preprocess.fit != "crop":
            fit = self._drawn(image.size) if self.train else self.fit(image.size)
            return fit.image(image, RESAMPLING[self.preprocess.interpolation])
        if not self.train:
            return self._centre_crop(image)
        image = self.random_crop(image)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self._uniform(0, 1) < 0.5 else image

    def _centre_crop(self, image: Image.Image) -> Image.Image:
        rows, columns = self.preprocess.rows_and_columns
        width, height = self._scaled(*image.size)
        left, top = round((width - columns) / 2.0), round((height - rows) / 2.0)
        if width * height > MOST_SCALED * rows * columns:
            return self._part(image, (width, height), (left, top, left + columns, top + rows))
        if (width, height) != image.size:
            image = image.resize((width, height), RESAMPLING[self.preprocess.interpolation])
        return image.crop((left, top, left + columns, top + rows))  # beyond the border PIL crops black

    def _part(self, image: Image.Image, scaled: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
        """What `box` cuts out of the picture scaled to (width, height), without the rest: a picture of 1 x 60,000 pixels, scaled
        whole to 256 columns, would take 11 GiB. The filter reads the same pixels, so that only roundings differ."""
        whole = (max(box[0], 0), max(box[1], 0), min(box[2], scaled[0]), min(box[3], scaled[1]))
        source, window = [], []
        for low, high, length, size in zip(whole[:2], whole[2:], scaled, image.size, strict=True):
            scale = size / length
            reach = math.ceil(REACH * max(scale, 1.0))
            start, end = max(0, math.floor(low * scale) - reach), min(size, math.ceil(high * scale) + reach)
            source.append((start, end))
            window.append((low * scale - start, high * scale - start))
        (x0, x1), (y0, y1) = window
        near = image.crop((source[0][0], source[1][0], source[0][1], source[1][1]))
        side = (whole[2] - whole[0], whole[3] - whole[1])
        part = near.resize(
            side, RESAMPLING[self.preprocess.interpolation], (x0, y0, min(x1, near.width), min(y1, near.height))
        )
        return part.crop((box[0] - whole[0], box[1] - whole[1], box[2] - whole[0], box[3] - whole[1]))

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop. The two roundings are timm's."""
        rows, columns = (math.floor(side / self.preprocess.crop) for side in self.preprocess.rows_and_columns)
        if rows != columns:
            ratio = min(height / rows, width / columns)
            return round(width / ratio), round(height / ratio)
        if width <= height:
            return rows, int(rows * height / width)
        return int(rows * width / height), rows

    def random_crop(self, image: Image.Image) -> Image.Image:
        """A share of the picture within `area`, of a width over height within `ratio`, wherever it lies; else the whole picture."""
        rows, columns = self.preprocess.rows_and_columns
        return image.resize((columns, rows), RESAMPLING[self.preprocess.interpolation], self._random_box(*image.size))

    def _random_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        box = (0, 0, width, height)
        for _ in range(10):
            area = width * height * self._uniform(*self.area)
            ratio = math.exp(self._uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = round(self._uniform(0, width - w)), round(self._uniform(0, height - h))
                box = (left, top, left + w, top + h)
                break
        return box

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))


def _values(image: Image.Image) -> np.ndarray:
    """(C, H, W) float32 from 0 to 1 of a picture that is grey or in colours."""
    values = np.asarray(image, np.float32) / 255.0
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1).copy()


def to_image(picture: Any) -> Image.Image:
    """A PIL image of a path, an array ((H, W) or (H, W, C), uint8 or 0..1) or a tensor (C, H, W)."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, (str, os.PathLike)):
        return open_image(picture)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()  # numpy has no bfloat16
        picture = picture.transpose(1, 2, 0) if picture.ndim == 3 else picture
    if not isinstance(picture, np.ndarray) or picture.ndim not in (2, 3) or 0 in picture.shape:
        shape = f" of shape {picture.shape}" if isinstance(picture, np.ndarray) else ""
        raise InputError(
            "transform",
            Problem(
                "",
                "a PIL image, a path, an array (H, W[, C]) or a tensor (C, H, W)",
                f"{type(picture).__name__}{shape}",
            ),
        )
    if picture.ndim == 3 and picture.shape[-1] not in (1, 3, 4):
        raise InputError(
            "transform", Problem("", "1, 3 or 4 channels", f"{picture.shape[-1]}, of an array {picture.shape}")
        )
    array = _bytes(picture)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)


def _bytes(array: np.ndarray) -> np.ndarray:
    """uint8 of whole numbers from 0 to 255, or of floats and truth values from 0 to 1.

    Refuses other values rather than wrap or clip them: the picture would be another one. Floats may overshoot by 1/255.
    """
    kind, found = array.dtype.kind, f"{array.dtype} values"
    if kind in "fbui":
        low, high = float(array.min()), float(array.max())
        if kind in "fb" and low >= -1 / 255 and high <= 1 + 1 / 255:
            return (np.clip(array.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
        if kind in "ui" and low >= 0 and high <= 255:
            return array.astype(np.uint8)
        found = f"{array.dtype} values from {low:g} to {high:g}"
    raise InputError("transform", Problem("", "whole numbers from 0 to 255, or floats from 0 to 1", found))


def as_seen(image: Image.Image) -> Image.Image:
    """The picture as a person sees it: turned as its EXIF says, transparent parts on white, greys as numbers, L*a*b* in sRGB.

    Floats (mode F) within [0, 1] are shares of white, others numbers up to 255, or else of 16 bits; whole numbers (I) up to 255
    are 8 bits, others 16; I;16 is 16 bits whatever it holds. Raises InputError for numbers beyond these.
    """
    if 0 in image.size:
        raise InputError("transform", Problem("", "a picture with pixels", f"{image.width} x {image.height}"))
    try:
        image.load()  # before its EXIF is read: of TIFF PIL turns the picture itself, when it is loaded
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError("transform", Problem("", "a picture that can be read", f"a damaged image: {error}")) from None
    turn = TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        image.info = {key: value for key, value in image.info.items() if key == "transparency"}  # or it turns again
    if image.mode == "F" or image.mode.startswith("I"):
        return _greys(image)
    if image.mode == "LAB":  # PIL knows the way to RGB alone
        return in_mode(image, "RGB")
    if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA", "RGBa", "La"):
        return image
    picture = in_mode(in_mode(image, "LA") if image.mode == "La" else image, "RGBA")  # PIL knows no way from La
    return Image.alpha_composite(Image.new("RGBA", picture.size, GROUND), picture).convert("RGB")


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture in another mode of PIL. Raises InputError where PIL knows no way."""
    try:
        return image.convert(mode)
    except (ValueError, ImportError):  # the second where PIL was built without colour management
        found = f"one in mode {image.mode}"
        raise InputError("transform", Problem("", f"a picture that can be shown as {mode}", found)) from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none, or nothing that can be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF raises whatever the parsers of PIL do, and the picture is none the worse for it
        return 1


def _greys(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # NaN is in no order
        found = f"values from {low:.6g} to {high:.6g}"
        raise InputError("transform", Problem("", "grey values of at most 16 bits", found))
    if image.mode.startswith("I;16") or high > 255:
        values = values / 257
    elif image.mode == "F" and high <= 1:
        values = values * 255.0
    return Image.fromarray(values.round().astype(np.uint8))


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in a file, wholly decoded. Raises InputError with a sentence for anything that is no readable image."""
    path = pathlib.Path(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # a pipe would wait for ever
        raise InputError(str(path), Problem("", "an image file (PNG, JPEG, …)", "something else than a file"))
    return _decoded(path, str(path))


def read_image(data: bytes, name: str) -> Image.Image:
    """The image that `open_image` would give of a file with these bytes; `name` stands for it in the error."""
    return _decoded(io.BytesIO(data), name)


def _decoded(file: pathlib.Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()  # what is wrong with a file is told with its name, below
            seen = as_seen(image)
            return seen.copy() if seen is image else seen
    except FileNotFoundError:
        found = "no such file"
    except IsADirectoryError:
        found = "a folder"
    except PermissionError:
        found = "a file that may not be read"
    except UnidentifiedImageError:
        size = file.stat().st_size if isinstance(file, pathlib.Path) else len(file.getbuffer())
        found = "an empty file" if size == 0 else "a file that is no image"
    except Image.DecompressionBombError:
        found = "an image of too many pixels to be meant"
    except InputError as error:
        raise InputError(name, error.problems) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        found = f"a damaged image: {error}"
    raise InputError(name, Problem("", "an image file (PNG, JPEG, …)", found))
