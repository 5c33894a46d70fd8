"""From pictures to a batch: resize, crop and normalise as the weights were trained, without torchvision.

The evaluation transform is timm's: the short side to floor(size / crop) by PIL, or for an input that is not square, the side
that is the first to be filled; a centre crop, [0, 1], (x - mean) / std.
"""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoo.errors import InputError, Problem
from zoo.weights.manifest import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST,
}  # fmt: skip
TRAIN_AREA = (0.08, 1.0)
TRAIN_RATIO = (3 / 4, 4 / 3)


def transform(model: Any, train: bool = False, generator: torch.Generator | None = None) -> Transform:
    """The transform of a model (loaded with `pretrained`, or of its spec's size), of a name, or of a Preprocess.

    train: a random crop of 8 to 100 % of the area and a random flip, drawn from `generator`, instead of the centre crop.
    """
    return Transform(preprocess_of(model), train, generator)


def preprocess_of(model: Any) -> Preprocess:
    """How images are prepared for a model: as its weights say, else ImageNet's way at the spec's size."""
    if isinstance(model, Preprocess):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _of_named(model)
    manifest = getattr(model, "pretrained", None)
    return manifest.preprocess if manifest is not None and manifest.preprocess else _by_size(model.spec)


def _of_named(model: str | os.PathLike[str]) -> Preprocess:
    from zoo import naming
    from zoo.saved import described
    from zoo.supply.manifests import manifests

    found = described(model)
    if found is not None:
        return found.manifest.preprocess or _by_size(found.spec)
    known = [] if naming.is_file(os.fspath(model)) else manifests(os.fspath(model))
    return known[0].preprocess if known and known[0].preprocess else _by_size(naming.spec(model))


def _by_size(spec: Any) -> Preprocess:
    if not hasattr(spec.input, "channels"):
        raise InputError(
            "transform", Problem(spec.name, "a model of images", "a model of tokens", next="give it ids (B, L)")
        )
    channels = spec.input.channels
    size = spec.input.size if isinstance(spec.input.size, int) else tuple(spec.input.size)
    mean = IMAGENET_MEAN if channels == 3 else (0.5,) * channels
    std = IMAGENET_STD if channels == 3 else (0.5,) * channels
    return Preprocess(size=size, mean=mean, std=std, channels=channels, crop=0.875)


class Transform:
    """A callable: pictures (PIL image, path, array, tensor, or a list of these) -> float32 batch (B, C, H, W)."""

    def __init__(self, preprocess: Preprocess, train: bool = False, generator: torch.Generator | None = None):
        if preprocess.channels not in (1, 3):
            raise InputError("transform", Problem("channels", "1 or 3", str(preprocess.channels)))
        self.preprocess, self.train, self.generator = preprocess, train, generator

    def __call__(self, pictures: Any) -> Tensor:
        many = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        if not many:
            raise InputError("transform", Problem("", "at least one picture", "an empty list"))
        return torch.stack([self._one(picture) for picture in many])

    def _one(self, picture: Any) -> Tensor:
        image = to_image(picture).convert("L" if self.preprocess.channels == 1 else "RGB")
        image = self._random_crop(image) if self.train else self._centre_crop(image)
        values = np.asarray(image, np.float32) / 255.0
        x = torch.from_numpy(values[None] if values.ndim == 2 else values.transpose(2, 0, 1).copy())
        low, high = self.preprocess.range
        x = x * (high - low) + low
        mean, std = (torch.tensor(stats).view(-1, 1, 1) for stats in (self.preprocess.mean, self.preprocess.std))
        return (x - mean) / std

    def _centre_crop(self, image: Image.Image) -> Image.Image:
        rows, columns = self.preprocess.rows_and_columns
        width, height = self._scaled(*image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), RESAMPLING[self.preprocess.interpolation])
        left, top = round((width - columns) / 2.0), round((height - rows) / 2.0)
        return image.crop((left, top, left + columns, top + rows))  # beyond the border PIL crops black

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop. The two roundings are timm's."""
        rows, columns = (math.floor(side / self.preprocess.crop) for side in self.preprocess.rows_and_columns)
        if rows != columns:
            ratio = min(height / rows, width / columns)
            return round(width / ratio), round(height / ratio)
        if width <= height:
            return rows, int(rows * height / width)
        return int(rows * width / height), rows

    def _random_crop(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (0, 0, width, height)
        for _ in range(10):
            area = width * height * self._uniform(*TRAIN_AREA)
            ratio = math.exp(self._uniform(math.log(TRAIN_RATIO[0]), math.log(TRAIN_RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = round(self._uniform(0, width - w)), round(self._uniform(0, height - h))
                box = (left, top, left + w, top + h)
                break
        rows, columns = self.preprocess.rows_and_columns
        image = image.resize((columns, rows), RESAMPLING[self.preprocess.interpolation], box)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self._uniform(0, 1) < 0.5 else image

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))


def to_image(picture: Any) -> Image.Image:
    """A PIL image of a path, an array ((H, W) or (H, W, C), uint8 or 0..1) or a tensor (C, H, W)."""
    if isinstance(picture, Image.Image):
        return _of_eight_bits(picture)
    if isinstance(picture, (str, os.PathLike)):
        return open_image(picture)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()  # numpy has no bfloat16
        picture = picture.transpose(1, 2, 0) if picture.ndim == 3 else picture
    if not isinstance(picture, np.ndarray) or picture.ndim not in (2, 3) or 0 in picture.shape:
        form = f" of shape {picture.shape}" if isinstance(picture, np.ndarray) else ""
        raise InputError(
            "transform",
            Problem(
                "", "a PIL image, a path, an array (H, W[, C]) or a tensor (C, H, W)", f"{type(picture).__name__}{form}"
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


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """The image itself, or the upper half of 16 bits of grey, which PIL would clip to white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        found = f"values from {values.min()} to {values.max()}"
        raise InputError("transform", Problem("", "grey values of at most 16 bits", found))
    return Image.fromarray((values / 257).round().astype(np.uint8))


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in a file, wholly decoded. Raises InputError with a sentence for anything that is no readable image."""
    path = pathlib.Path(path)
    found = ""
    try:
        with Image.open(path) as image:
            image.load()
            return _of_eight_bits(image.copy())
    except FileNotFoundError:
        found = "no such file"
    except IsADirectoryError:
        found = "a folder"
    except PermissionError:
        found = "a file that may not be read"
    except UnidentifiedImageError:
        found = "an empty file" if path.stat().st_size == 0 else "a file that is no image"
    except Image.DecompressionBombError:
        found = "an image of too many pixels to be meant"
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        found = f"a damaged image: {error}"
    raise InputError(str(path), Problem("", "an image file (PNG, JPEG, …)", found))
