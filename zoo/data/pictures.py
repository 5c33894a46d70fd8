"""Where the bytes of a picture are: in a file, in a part of one, or in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from zoo.data.bands import SUFFIX, TIFF, Bands, read_bands, read_tiff
from zoo.data.transforms import open_image, read_image
from zoo.errors import InputError, Problem


class Picture(msgspec.Struct, frozen=True):
    """A picture that is not yet read. `name` is shown to people and is the same on every machine; `size` bytes from `offset` on are
    its bytes where it is a part of the file `path`, such as of a tar; `data` are its bytes where it is in no file of its own."""

    name: str
    path: str = ""
    offset: int = 0
    size: int | None = None
    data: bytes | None = None

    def open(self, channels: int = 3) -> Image.Image | Bands:
        """The picture, decoded and as a person sees it (`zoo.data.transforms.as_seen`), or the bands of a file of numpy, and of a TIFF for a
        net of other than 1 or 3 `channels`.

        Raises InputError with what is wrong with it."""
        if self.name.lower().endswith(SUFFIX):
            return read_bands(self.read(), self.name)
        if channels not in (1, 3) and self.name.lower().endswith(TIFF):
            return read_tiff(self.read(), self.name)
        if self.data is None and self.size is None:
            return open_image(self.path)
        return read_image(self.read(), self.name)

    def shown(self) -> Image.Image:
        """The picture for a person's eye: of bands their mean. Raises InputError."""
        try:
            image = self.open()
        except InputError:
            if not self.name.lower().endswith(TIFF):
                raise
            image = self.open(channels=0)  # bands that make no colours
        return image.shown() if isinstance(image, Bands) else image

    def read(self) -> bytes:
        """Its bytes. Raises InputError where they cannot be read."""
        if self.data is not None:
            return self.data
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                return file.read(-1 if self.size is None else self.size)
        except OSError as error:
            raise InputError(self.name, Problem("", "bytes that can be read", error.strerror or str(error))) from None


class large_pictures(warnings.catch_warnings):
    """PIL warns of pictures from 89 to 179 million pixels, which are meant; larger ones it refuses."""

    def __enter__(self) -> Any:
        before = super().__enter__()
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return before
