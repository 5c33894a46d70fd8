"""Pictures through a net for a task: things with their boxes, classes of pixels, joints, lines, distances, restored pictures; as rows, and drawn.

A folder that is written has two files for each picture, `cat.png` and `cat.json`: what is drawn, and the same as data.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from zoo import factory
from zoo.answering.answers import Answering, scale_of
from zoo.answering.names import DEPTH, DETECTION, LINES, POSE, SALIENCE, SEGMENTATION, SUPER_RESOLUTION, TASKS, VIDEO
from zoo.answering.outputs import (
    Chances,
    ClassMap,
    DepthMap,
    Detections,
    Lines,
    Output,
    Person,
    Persons,
    Restored,
    SalienceMap,
    Thing,
    name_of,
    output_of,
)
from zoo.catalog.listing import list_pretrained
from zoo.catalog.sources import find_source
from zoo.data.bands import Bands
from zoo.data.clips import as_clip, beside_each_other, frames_of
from zoo.data.given import Given, given
from zoo.data.moves import CHANGES
from zoo.data.persons import JOINTS
from zoo.data.pictures import Picture
from zoo.data.scenes import HELD_OUT, SCENES, THINGS
from zoo.data.sources import pictures_of
from zoo.data.transforms import transform
from zoo.errors import InputError, Problem, listed, nearest
from zoo.predicting.predictor import Wish, known_labels, on_device, reason_of
from zoo.predicting.progress import Clock, Told, nobody
from zoo.system.folders import write_text, write_whole

DEMO_SIDE, GAP = 256, 8
"""Of each part of a demonstration at least, and between two of them, in pixels."""


class Answered(NamedTuple):
    """A picture by its name, with what is told of it and what that looks like; or `error`, why nothing is."""

    image: str
    output: Output | None = None
    drawn: Image.Image | None = None
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"image": self.image} | ({"error": self.error} if self.output is None else self.output.plain())


def is_for_task(name: str) -> bool:
    """Whether a model answers something else than classes, numbers or tokens. Raises what `find_source` raises."""
    return find_source(name).spec.family.task in TASKS


class TaskPredictor:
    """A model for a task that is ready. Raises what `zoo.create` raises, and InputError for options that are for classes alone."""

    def __init__(self, wish: Wish):
        for option, value in (("--features", wish.features), ("--deploy", wish.deploy)):
            if value:
                raise InputError(wish.name, Problem(option, "a model that answers classes", "one for a task"))
        model: Any = factory.create(wish.name, pretrained=True)
        self.wish, self.task, self.prepare = wish, model.spec.family.task, transform(model)
        self.labels = known_labels(model)
        picking = {"least": wish.score} if self.task == DETECTION else {}
        self.answering = Answering(on_device(wish.device, model), **picking)

    def output(self, image: Any) -> Output:
        """What is told of a picture, or of a clip as a list of frames. Raises InputError for one that the model does not take."""
        if self.task == VIDEO:
            return self._of_clip(image)
        seen = self.prepare.place(image)
        with torch.inference_mode():
            answers = self.answering(seen.x[None].to(self.wish.device))
        first = {key: tensor[0].cpu() for key, tensor in answers.items()}
        output = output_of(self.task, first, seen.fit, self.labels, self.wish.score)
        return _coloured(output, image) if isinstance(output, Restored) else output

    def _of_clip(self, frames: Sequence[Any]) -> Output:
        x = as_clip(self.prepare, frames, self.form)
        with torch.inference_mode():
            chances = self.answering(x[None].to(self.wish.device))["chances"][0].cpu()
        return output_of(self.task, {"chances": chances}, self.prepare.fit((1, 1)), self.labels)

    @property
    def form(self) -> Any:
        """What the model takes, as its spec says."""
        return self.answering.spec.input

    def scene(self, number: int) -> Given:
        """A generated scene, as the model is given one."""
        scale = scale_of(self.answering.net) if self.task == SUPER_RESOLUTION else 1
        return given(number, scale * max(self.prepare.preprocess.rows_and_columns), self.task, scale)

    def known(self, shown: Given) -> Output:
        """What there is to tell of a scene."""
        scene = shown.scene
        if self.task == DETECTION:
            rows = zip(scene.classes.tolist(), scene.boxes.tolist(), strict=True)
            return Detections(tuple(Thing(name_of(THINGS, kind), kind, 1.0, tuple(box)) for kind, box in rows))
        if self.task == SEGMENTATION:
            return ClassMap(np.where(scene.mask < self.answering.net.num_classes, scene.mask, 0), tuple(self.labels))
        if self.task == VIDEO:
            return Chances(np.eye(len(CHANGES))[scene.classes[0]], CHANGES)
        if self.task == POSE:
            joints = [np.pad(own, ((0, 0), (0, 1)), constant_values=1.0) for own in shown.wanted]
            return Persons(tuple(Person(1.0, own) for own in joints), JOINTS)
        if self.task == LINES:
            return Lines(shown.wanted.reshape(-1, 4), np.ones(len(shown.wanted)))
        if self.task == DEPTH:
            return DepthMap(shown.wanted)
        return SalienceMap((scene.mask > 0).astype(np.float32)) if self.task == SALIENCE else Restored(shown.wanted)

    def _answered(self, picture: Picture) -> tuple[Image.Image, Output]:
        """A picture, or the frames of a clip beside each other, with what is told of it."""
        if self.task == VIDEO:
            frames = frames_of(picture, self.form.frames)
            return beside_each_other(frames), self.output(frames)
        image = picture.open()
        if isinstance(image, Bands):
            raise InputError(picture.name, Problem("", "a picture", "bands of numbers"))
        return image, self.output(image)

    def answers(self, pictures: Iterable[Picture]) -> Iterator[Answered]:
        """In their order. A picture that cannot be read has the reason, and costs no other."""
        for picture in pictures:
            try:
                image, output = self._answered(picture)
                yield Answered(picture.name, output, output.drawn(image))
            except Exception as error:  # whatever a decoder raises, as for classes
                yield Answered(picture.name, error=reason_of(error))


def answers_of(
    wish: Wish, sources: Sequence[str | os.PathLike[str]], column: str = "", progress: Told = nobody
) -> Iterator[Answered]:
    """What a model tells of the pictures of all sources."""
    pictures = pictures_of(sources, column)
    predictor, clock = TaskPredictor(wish), Clock(len(pictures), progress)
    for answered in predictor.answers(pictures):
        yield answered
        clock.count()


def drawn(answered: Iterable[Answered], folder: Path, force: bool = False) -> Iterator[Answered]:
    """Hands on what it wrote into the folder, under the name of the picture, with a number behind it where another one has that name.

    Raises InputError for files that are there already, unless `force`, and for a folder that the pictures themselves lie in."""
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), Problem("--out", "a folder to write to", "a file"))
    taken: set[str] = set()
    for each in answered:
        if _is_in(each.image, folder):
            step = "name another folder, or what is drawn would take the place of pictures"
            raise InputError(str(folder), Problem("--out", "a folder without the pictures", each.image, next=step))
        stem = Path(each.image).stem
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in taken)
        taken.add(name)
        files = [folder / f"{name}.png", folder / f"{name}.json"]
        if there := [] if force else [file.name for file in files if file.exists()]:
            problem = Problem("--out", "a folder without answers about it", there[-1], next="--force writes it anew")
            raise InputError(str(folder), problem)
        if each.drawn is not None:
            write_whole(files[0], _png(each.drawn))
        write_text(files[1], json.dumps(each.plain(), indent=1, ensure_ascii=False) + "\n")
        yield each


def _is_in(image: str, folder: Path) -> bool:
    """Whether a picture is a file of the folder, and not one below it, in an archive or in a table."""
    try:
        return Path(image).is_file() and os.path.samefile(Path(image).parent, folder)
    except (OSError, ValueError):  # no folder yet; a name that is no path
        return False


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Demonstration(NamedTuple):
    """`picture`: what goes in, what is known, and what each model answers, side by side, as `parts` names them; the answers as data."""

    picture: Image.Image
    parts: tuple[str, ...]
    answers: dict[str, Any]


def demonstrated(task: str, seed: int = 0) -> Demonstration:
    """The embedded models for a task on a scene that none was trained on. Raises InputError for a task without any."""
    names = [name for name in list_pretrained() if name.endswith(f".{SCENES}")]
    tasks = {name: find_source(name).spec.family.task for name in names}
    chosen = [name for name in names if tasks[name] == task]
    if not chosen:
        known = sorted(set(tasks.values()))
        raise InputError("demo", Problem("--task", f"one of {listed(known)}", f"`{task}`", nearest(task, known)))
    predictors = {name: TaskPredictor(Wish(name=name)) for name in chosen}
    first = predictors[chosen[0]]
    shown = first.scene(HELD_OUT + seed)
    frames = [Image.fromarray(each) for each in (shown.wanted if task == VIDEO else [shown.picture])]
    image = beside_each_other(frames)
    outputs = {name: predictor.output(frames if task == VIDEO else image) for name, predictor in predictors.items()}
    answers = [output.drawn(image) for output in outputs.values()]
    pictures = {"the picture": image, "what is known": first.known(shown).drawn(image)}
    pictures |= dict(zip(chosen, answers, strict=True))
    side = max(DEMO_SIDE, *(part.width for part in pictures.values()))
    row = Image.new("RGB", (len(pictures) * (side + GAP) - GAP, side), "white")
    for place, part in enumerate(pictures.values()):
        ratio = side / max(part.size)
        size = (round(part.width * ratio), round(part.height * ratio))
        row.paste(part.convert("RGB").resize(size, Image.Resampling.NEAREST), (place * (side + GAP), 0))
    return Demonstration(row, tuple(pictures), {name: output.plain() for name, output in outputs.items()})


def _coloured(output: Restored, image: Image.Image) -> Restored:
    """A picture of a net that gives greys, with the colours of the one that it was given, enlarged bicubically."""
    if output.pixels.ndim == 3 or image.mode in ("L", "1"):
        return output
    size = (output.pixels.shape[1], output.pixels.shape[0])
    _, blue, red = image.convert("YCbCr").resize(size, Image.Resampling.BICUBIC).split()
    merged = Image.merge("YCbCr", (Image.fromarray(output.pixels), blue, red))
    return Restored(np.asarray(merged.convert("RGB")))
