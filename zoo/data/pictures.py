"""Where the bytes of a picture are: in a file, in a part of one, or in memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
from PIL import Image

from zoo.data.bands import SUFFIX, Bands, read_bands
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

    def open(self) -> Image.Image | Bands:
        """The picture, decoded and as a person sees it (`zoo.data.transforms.as_seen`), or the bands of a file of numpy.

        Raises InputError with what is wrong with it."""
        if self.name.lower().endswith(SUFFIX):
            return read_bands(self.read(), self.name)
        if self.data is None and self.size is None:
            return open_image(self.path)
        return read_image(self.read(), self.name)

    def shown(self) -> Image.Image:
        """The picture for a person's eye: of bands their mean. Raises InputError."""
        image = self.open()
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
