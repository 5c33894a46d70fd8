"""What a model tells of one picture, in that picture's own pixels; as data, as JSON, and as a picture that a person can look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from zoo.answering.names import DEPTH, DETECTION, LINES, POSE, SALIENCE, SEGMENTATION, VIDEO
from zoo.answering.points import persons
from zoo.data.fitting import Fit
from zoo.data.persons import BONES, JOINTS

COLOURS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60),
    (250, 190, 212), (0, 128, 128), (170, 110, 40), (128, 0, 0), (170, 255, 195), (128, 128, 0), (0, 0, 128), (128, 128, 128),
)  # fmt: skip
"""Of classes, one after the other and again from the first: Trubetskoy's list of colours that differ."""
GRADIENT = ((255, 245, 180), (250, 150, 60), (190, 40, 90), (70, 10, 100), (10, 5, 40))
"""Of distances, from near to far."""
SHOWN_CLASSES = 5
VEIL = 0.55
"""How much of a class's colour lies over the picture."""


class Thing(msgspec.Struct, frozen=True):
    """A thing that was found: its class, how sure that is, and its box x1, y1, x2, y2 in pixels of the picture."""

    label: str
    index: int
    score: float
    box: tuple[float, float, float, float]


class Detections(msgspec.Struct, frozen=True):
    """The things in a picture, the surest first."""

    things: tuple[Thing, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = [(thing, [round(side, 2) for side in thing.box]) for thing in self.things]
        return {
            "things": [{"label": t.label, "index": t.index, "score": round(t.score, 4), "box": box} for t, box in rows]
        }

    def drawn(self, image: Image.Image) -> Image.Image:
        """The picture with a frame and a name for each thing."""
        seen = image.convert("RGB")
        pen, width = ImageDraw.Draw(seen), max(1, round(min(seen.size) / 200))
        for thing in reversed(self.things):
            colour = COLOURS[thing.index % len(COLOURS)]
            x1, y1, x2, y2 = (round(side) for side in thing.box)
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)
            text = f"{thing.label} {thing.score:.0%}"
            left, top, right, bottom = pen.textbbox((x1, y1), text)
            top = y1 - (bottom - top) - 2 if y1 > bottom - top + 2 else y1
            pen.rectangle((x1, top, x1 + right - left + 2, top + bottom - y1), fill=colour)
            pen.text((x1 + 1, top), text, fill="white")
        return seen


class ClassMap(msgspec.Struct, frozen=True):
    """The class of each pixel: `classes` (H, W), whole numbers, of the `labels`."""

    classes: np.ndarray
    labels: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """The share of the picture that each class has, the largest first."""
        indices, counts = np.unique(self.classes, return_counts=True)
        rows = sorted(zip(indices.tolist(), counts.tolist(), strict=True), key=lambda row: -row[1])
        return {
            "classes": [
                {"label": name_of(self.labels, i), "index": i, "share": round(n / self.classes.size, 4)}
                for i, n in rows
            ]
        }

    def drawn(self, image: Image.Image) -> Image.Image:
        """The picture under a veil of the classes' colours; class 0 has none where it is the ground."""
        table = np.array(COLOURS, np.float32)[np.arange(self.classes.max() + 1) % len(COLOURS) - 1]
        pixels = np.asarray(image.convert("RGB"), np.float32)
        veiled = pixels * (1 - VEIL) + table[self.classes] * VEIL
        has_ground = bool(self.labels) and self.labels[0] == "background"
        shown = np.where((self.classes > 0)[..., None], veiled, pixels) if has_ground else veiled
        return Image.fromarray(shown.round().astype(np.uint8))


class SalienceMap(msgspec.Struct, frozen=True):
    """How much each pixel belongs to what stands out: `salience` (H, W), float32 from 0 to 1."""

    salience: np.ndarray

    def plain(self) -> dict[str, Any]:
        """The share of the picture that stands out, and the box around it; none where nothing does."""
        rows, columns = np.nonzero(self.salience > 0.5)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) else None
        return {"share": round(len(rows) / self.salience.size, 4), "box": box}

    def drawn(self, image: Image.Image) -> Image.Image:
        """What stands out, on black."""
        pixels = np.asarray(image.convert("RGB"), np.float32)
        return Image.fromarray((pixels * self.salience[..., None].clip(0, 1)).round().astype(np.uint8))


class Person(msgspec.Struct, frozen=True):
    """A person: how sure it is, and its joints (J, 3), x and y in pixels of the picture and score; score 0 for one that nobody saw."""

    score: float
    joints: np.ndarray


class Persons(msgspec.Struct, frozen=True):
    """The persons in a picture, the surest first; `labels` name their joints."""

    persons: tuple[Person, ...]
    labels: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Each with the joints that were seen."""
        return {
            "persons": [{"score": round(person.score, 4), "joints": self._joints(person)} for person in self.persons]
        }

    def _joints(self, person: Person) -> list[dict[str, Any]]:
        rows = enumerate(person.joints.tolist())
        return [
            {"label": name_of(self.labels, i), "index": i, "x": round(x, 2), "y": round(y, 2), "score": round(score, 4)}
            for i, (x, y, score) in rows
            if score > 0
        ]

    def drawn(self, image: Image.Image) -> Image.Image:
        """The picture with the joints of each person, and with its bones where the joints are COCO's."""
        seen = image.convert("RGB")
        pen, width = ImageDraw.Draw(seen), max(1, round(min(seen.size) / 100))
        for number, person in enumerate(self.persons):
            colour = COLOURS[number % len(COLOURS)]
            places = [(x, y) if score > 0 else None for x, y, score in person.joints.tolist()]
            for one, other in BONES if len(places) == len(JOINTS) else ():
                if (start := places[one]) and (end := places[other]):
                    pen.line((*start, *end), fill=colour, width=width)
            for x, y in filter(None, places):
                pen.ellipse((x - width, y - width, x + width, y + width), fill="white", outline=colour)
        return seen


class Lines(msgspec.Struct, frozen=True):
    """Straight lines: `ends` (N, 4) x1, y1, x2, y2 in pixels of the picture, `scores` (N,), the surest first."""

    ends: np.ndarray
    scores: np.ndarray

    def plain(self) -> dict[str, Any]:
        rows = zip(self.ends.tolist(), self.scores.tolist(), strict=True)
        return {
            "lines": [{"score": round(score, 4), "ends": [round(side, 2) for side in ends]} for ends, score in rows]
        }

    def drawn(self, image: Image.Image) -> Image.Image:
        """The picture with the lines, each in a colour of its own."""
        seen = image.convert("RGB")
        pen, width = ImageDraw.Draw(seen), max(1, round(min(seen.size) / 150))
        for number, ends in enumerate(self.ends.tolist()):
            pen.line(tuple(ends), fill=COLOURS[number % len(COLOURS)], width=width)
        return seen


class DepthMap(msgspec.Struct, frozen=True):
    """How far away what each pixel shows is: `depth` (H, W), float32, in what the net was trained on, mostly metres."""

    depth: np.ndarray

    def plain(self) -> dict[str, Any]:
        """The nearest, the farthest, and the middle one of all."""
        low, middle, high = np.quantile(self.depth, (0, 0.5, 1)).tolist()
        return {"nearest": round(low, 4), "middle": round(middle, 4), "farthest": round(high, 4)}

    def drawn(self, image: Image.Image) -> Image.Image:
        """Near is light, far is dark; as many steps of 1 / d lie between any two shades."""
        inverse = 1 / self.depth.clip(min=1e-3)
        low, high = inverse.min(), inverse.max()
        share = (high - inverse) / max(float(high - low), 1e-6) * (len(GRADIENT) - 1)
        below = share.astype(int).clip(0, len(GRADIENT) - 2)
        table, part = np.array(GRADIENT, np.float32), (share - below)[..., None]
        return Image.fromarray((table[below] * (1 - part) + table[below + 1] * part).round().astype(np.uint8))


class Chances(msgspec.Struct, frozen=True):
    """What a clip shows: the chance of each class (K,), of the `labels`."""

    chances: np.ndarray
    labels: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The five classes of the largest chances."""
        first = np.argsort(-self.chances, kind="stable")[:SHOWN_CLASSES].tolist()
        rows = [(i, float(self.chances[i])) for i in first]
        return {
            "clip": [{"label": name_of(self.labels, i), "index": i, "chance": round(chance, 4)} for i, chance in rows]
        }

    def drawn(self, image: Image.Image) -> Image.Image:
        """The frames, `image`, with the first class and its chance in a line below."""
        first = int(self.chances.argmax())
        text = f"{name_of(self.labels, first)} {self.chances[first]:.0%}"
        seen = image.convert("RGB")
        height = round(ImageDraw.Draw(seen).textbbox((0, 0), text)[3]) + 2
        shown = Image.new("RGB", (seen.width, seen.height + height), "white")
        shown.paste(seen)
        ImageDraw.Draw(shown).text((1, seen.height), text, fill="black")
        return shown


class Restored(msgspec.Struct, frozen=True):
    """A picture: `pixels` (H, W) or (H, W, 3) uint8."""

    pixels: np.ndarray

    def plain(self) -> dict[str, Any]:
        return {"width": self.pixels.shape[1], "height": self.pixels.shape[0]}

    def drawn(self, image: Image.Image) -> Image.Image:
        """The picture itself."""
        return Image.fromarray(self.pixels)


Output = Detections | ClassMap | SalienceMap | Persons | Lines | DepthMap | Chances | Restored


def output_of(task: str, answer: dict[str, Tensor], fit: Fit, labels: Sequence[str] = (), least: float = 0.0) -> Output:
    """Of the answers about one picture, without the axis of the batch, what they say in the picture's own pixels. `least`: from which score
    on a person or a line is told."""
    values = {key: tensor.numpy() for key, tensor in answer.items()}
    if task == DETECTION:
        counted = values["scores"] > 0
        boxes = fit.boxes_back(values["boxes"][counted])
        rows = zip(values["classes"][counted].tolist(), values["scores"][counted].tolist(), boxes.tolist(), strict=True)
        return Detections(tuple(Thing(name_of(labels, index), index, score, tuple(box)) for index, score, box in rows))
    if task == SEGMENTATION:
        return ClassMap(fit.map_back(values["classes"].astype(np.int32)), tuple(labels))
    if task == SALIENCE:
        return SalienceMap(fit.map_back(values["salience"].astype(np.float32)))
    if task == VIDEO:
        return Chances(values["chances"], tuple(labels))
    if task == POSE:
        return _persons(values["peaks"], fit, labels, least)
    if task == LINES:
        counted = values["scores"] >= max(least, 1e-6)
        ends = fit.points_back(values["lines"][counted].reshape(-1, 2, 2)).reshape(-1, 4)
        return Lines(ends, values["scores"][counted])
    if task == DEPTH:
        return DepthMap(fit.map_back(values["depth"].astype(np.float32)))
    pixels = (values["picture"] * 255).round().astype(np.uint8).transpose(1, 2, 0)
    factor = pixels.shape[1] // fit.side[0]
    width, height = (own * factor for own in fit.picture)
    pixels = pixels[:height, :width]
    return Restored(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _persons(peaks: np.ndarray, fit: Fit, labels: Sequence[str], least: float) -> Persons:
    made = []
    for joints in persons(peaks):
        score = float(joints[:, 2].mean())
        if score >= least:
            made.append(Person(score, np.concatenate((fit.points_back(joints[:, :2]), joints[:, 2:]), 1)))
    return Persons(tuple(made), tuple(labels))


def name_of(labels: Sequence[str], index: int) -> str:
    """Of a class; its number where nobody named it."""
    return labels[index] if index < len(labels) else str(index)
