"""Pictures of any number of bands, as satellites and microscopes give them: what a transform does with an image, done to each band."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from blocks.registry.words import raised
from zoo.errors import InputError, Problem

SUFFIX = ".npy"
TIFF = (".tif", ".tiff")
"""Files that may hold the bands of a picture, or a picture."""
MOST_BYTES = 2**31
"""Of the values of a TIFF."""
MAGIC = b"\x93NUMPY"


class Bands:
    """(H, W) of each band, in floats from 0 to 1; it is cut, scaled and mirrored as an image of Pillow is."""

    mode = "bands"

    def __init__(self, bands: list[Image.Image]):
        self.bands = bands

    def __len__(self) -> int:
        return len(self.bands)

    @property
    def size(self) -> tuple[int, int]:
        return self.bands[0].size

    @property
    def width(self) -> int:
        return self.bands[0].width

    @property
    def height(self) -> int:
        return self.bands[0].height

    def resize(self, *arguments: Any) -> Bands:
        return Bands([band.resize(*arguments) for band in self.bands])

    def crop(self, box: tuple[int, int, int, int]) -> Bands:
        return Bands([band.crop(box) for band in self.bands])

    def transpose(self, method: Image.Transpose) -> Bands:
        return Bands([band.transpose(method) for band in self.bands])

    def values(self) -> np.ndarray:
        """(C, H, W) float32."""
        return np.stack([np.asarray(band, np.float32) for band in self.bands])

    def shown(self) -> Image.Image:
        """The mean of all bands, as greys."""
        return Image.fromarray((255 * self.values().mean(0)).clip(0, 255).round().astype(np.uint8))


def read_bands(data: bytes, name: str) -> Bands:
    """The bands of a file of numpy, (H, W) or (H, W, C). Raises InputError; nothing in the file is executed."""
    try:
        return to_bands(np.load(io.BytesIO(data), allow_pickle=False), name)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(name, Problem("", "an array that numpy reads", f"a damaged one: {error}")) from None


def read_tiff(data: bytes, name: str) -> Bands:
    """The bands of the first picture of a TIFF: the samples of its pixels, or its planes, or as many pages.

    Where a file does not say which axis of three counts the bands, it is the shorter one of the first and the last. Raises InputError."""
    try:
        import tifffile
    except ImportError:
        step = 'pip install "blockzoo[data]"'
        raise InputError(name, Problem("", "tifffile, which reads bands", "no such package", next=step)) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            if series.nbytes > MOST_BYTES:
                raise InputError(name, Problem("", f"at most {MOST_BYTES:,} bytes of values", f"{series.nbytes:,}"))
            values, axes = series.asarray(), series.axes
    except InputError:
        raise
    except Exception as error:  # whatever its decoders raise of a damaged file
        raise InputError(name, Problem("", "a TIFF that can be read", f"a damaged one: {raised(error)}")) from None
    if values.ndim == 3:
        first = values.shape[0] < values.shape[2] if not {"S", "C"} & set(axes) else axes[0] in "SC"
        values = np.moveaxis(values, 0, -1) if first else values
    return to_bands(values, name)


def to_bands(picture: Any, name: str = "transform") -> Bands:
    """An array (H, W) or (H, W, C), or a tensor (C, H, W): whole numbers from 0 to the most of their type, or floats from 0 to 1.

    Raises InputError for anything else."""
    if isinstance(picture, Tensor) and picture.ndim == 3:
        picture = picture.detach().cpu().permute(1, 2, 0).numpy()
    if not isinstance(picture, np.ndarray) or picture.ndim not in (2, 3) or 0 in picture.shape:
        form = f" of shape {picture.shape}" if isinstance(picture, np.ndarray) else ""
        raise InputError(
            name, Problem("", "an array (H, W, C) with a band for each channel", f"{type(picture).__name__}{form}")
        )
    if picture.dtype.kind not in "uif":
        raise InputError(name, Problem("", "whole numbers or floats", str(picture.dtype)))
    most = np.iinfo(picture.dtype).max if picture.dtype.kind in "ui" else 1
    values = picture.astype(np.float32) / np.float32(most)
    if not np.isfinite(values).all():
        raise InputError(name, Problem("", "finite numbers", "NaN or infinite ones"))
    return Bands([Image.fromarray(np.ascontiguousarray(band)) for band in np.atleast_3d(values).transpose(2, 0, 1)])
