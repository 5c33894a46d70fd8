"""Rendered photographs: things on a ground, lit from somewhere, in every size, mode and format that people's folders hold.

`python -m tests.photographs FOLDER` writes 400 in three classes, five of them damaged, below FOLDER/CLASS.
"""

from __future__ import annotations

import io
import math
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("ball", "cañón de tráfico", "wooden box")
"""One has letters beyond ASCII, two have spaces."""
FORMS = (
    "RGB.jpg", "RGB.jpg", "RGB.jpg", "RGB.jpg", "turned.jpg", "CMYK.jpg", "L.jpg", "RGB.png", "RGBA.png", "P.png", "I;16.png",
    "RGB.webp", "RGB.tif", "RGB.bmp", "P.gif",
)  # fmt: skip
"""Mode and ending; `turned` is stored sideways, with an EXIF orientation."""


def render(kind: int, draw: np.random.RandomState) -> Image.Image:
    """A ball, a cone with a stripe or a box: of any colour, anywhere, on a ground with a gradient, clutter and noise."""
    width, height = (int(draw.randint(72, 321)) for _ in range(2))
    width, height = max(width, height // 2), max(height, width // 2)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = (columns * draw.uniform(-1, 1) + rows * draw.uniform(-1, 1)) / max(width, height)
    ground = draw.uniform(60, 190, 3) + slope[..., None] * draw.uniform(20, 70, 3)
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randint(2, 7)):
        ends = [(float(draw.uniform(0, width)), float(draw.uniform(0, height))) for _ in range(2)]
        pen.line(ends, fill=_colour(draw), width=int(draw.randint(1, 4)))
    side = min(width, height) * draw.uniform(0.28, 0.42)
    middle = (width * draw.uniform(0.4, 0.6), height * draw.uniform(0.4, 0.6))
    (_ball, _cone, _box)[kind](image, middle, side, draw)
    image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0, 1.0)))
    noisy = np.asarray(image, np.float32) + draw.normal(0, draw.uniform(1, 7), (height, width, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _colour(draw: np.random.RandomState) -> tuple[int, int, int]:
    return tuple(int(value) for value in draw.randint(20, 236, 3))  # type: ignore[return-value]


def _ball(image: Image.Image, middle: tuple[float, float], side: float, draw: np.random.RandomState) -> None:
    """A sphere, shaded by the cosine between its normal and the light."""
    rows, columns = np.mgrid[0 : image.height, 0 : image.width].astype(np.float32)
    x, y = (columns - middle[0]) / side, (rows - middle[1]) / side
    inside = x**2 + y**2 < 1
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    turn = draw.uniform(0, 2 * math.pi)
    light = np.clip(0.55 * (x * math.cos(turn) + y * math.sin(turn)) + 0.8 * z, 0.08, 1)
    shaded = np.array(_colour(draw)) * light[..., None] + 60 * (light[..., None] > 0.97)
    pixels = np.where(inside[..., None], shaded, np.asarray(image))
    image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def _cone(image: Image.Image, middle: tuple[float, float], side: float, draw: np.random.RandomState) -> None:
    pen, (x, y), colour = ImageDraw.Draw(image), middle, _colour(draw)
    lean = draw.uniform(-0.15, 0.15) * side
    apex, left, right = (x + lean, y - side), (x - 0.62 * side, y + side), (x + 0.62 * side, y + side)
    pen.polygon([apex, left, right], fill=colour)
    pen.polygon([apex, ((left[0] + right[0]) / 2, left[1]), right], fill=tuple(int(0.72 * value) for value in colour))
    at = draw.uniform(0.45, 0.6)
    band = [
        _between(apex, left, at),
        _between(apex, left, at + 0.15),
        _between(apex, right, at + 0.15),
        _between(apex, right, at),
    ]
    pen.polygon(band, fill=(235, 235, 230))


def _box(image: Image.Image, middle: tuple[float, float], side: float, draw: np.random.RandomState) -> None:
    """Three faces of a cuboid, each of its own light, with grain along two."""
    pen, (x, y), colour = ImageDraw.Draw(image), middle, np.array(_colour(draw))
    depth, w, h = draw.uniform(0.3, 0.5) * side, 0.85 * side, draw.uniform(0.65, 0.85) * side
    front = [(x - w, y - h + depth), (x + w - depth, y - h + depth), (x + w - depth, y + h), (x - w, y + h)]
    top = [front[0], (front[0][0] + depth, front[0][1] - depth), (x + w, y - h), front[1]]
    flank = [front[1], (x + w, y - h), (x + w, y + h - depth), front[2]]
    for face, light in ((front, 1.0), (top, 1.2), (flank, 0.65)):
        pen.polygon(face, fill=tuple(int(min(255, value * light)) for value in colour))
    for i in range(1, 4):
        row = front[0][1] + i * (front[3][1] - front[0][1]) / 4
        pen.line([(front[0][0], row), (front[1][0], row)], fill=tuple(int(0.6 * value) for value in colour), width=1)


def _between(a: tuple[float, float], b: tuple[float, float], share: float) -> tuple[float, float]:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def save(image: Image.Image, path: pathlib.Path, mode: str) -> None:
    """In a mode of PIL; `RGBA` with a border that is clear, `I;16` in 16 bits, `turned` on its side with an EXIF orientation."""
    if mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    elif mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257).save(path)
    elif mode == "RGBA":
        alpha = Image.new("L", image.size, 0)
        ImageDraw.Draw(alpha).rectangle((3, 3, image.width - 4, image.height - 4), fill=255)
        image.putalpha(alpha)
        image.save(path)
    else:
        image.convert(mode).save(path)


def write(folder: pathlib.Path, count: int = 400, seed: int = 0) -> None:
    """`count` photographs below `folder`/CLASS, the last five of them damaged."""
    draw = np.random.RandomState(seed)
    for i in range(count):
        home = folder / CLASSES[i % len(CLASSES)]
        home.mkdir(parents=True, exist_ok=True)
        if i >= count - 5:
            _write_damaged(home / f"IMG {i:04}", i - (count - 5), draw)
            continue
        mode, _, ending = FORMS[i // len(CLASSES) % len(FORMS)].rpartition(".")
        save(render(i % len(CLASSES), draw), home / f"IMG {i:04}.{ending}", mode)


def _write_damaged(path: pathlib.Path, way: int, draw: np.random.RandomState) -> None:
    """Cut off, empty, a page, noise, and a PNG whose pixels end too early."""
    whole = {form: io.BytesIO() for form in ("JPEG", "PNG")}
    for form, file in whole.items():
        render(0, draw).save(file, form)
    jpeg, png = (file.getvalue() for file in whole.values())
    content = (jpeg[: len(jpeg) // 2], b"", b"<html>404 Not Found</html>", draw.bytes(4096), png[: len(png) // 2])[way]
    path.with_suffix(".png" if way == 4 else ".jpg").write_bytes(content)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
