"""Frames of moving pictures, as far from each other as there are, and what is no such picture."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main
from zoo.data.clips import as_clip, frames_of
from zoo.data.pictures import Picture
from zoo.data.transforms import Transform
from zoo.errors import InputError
from zoo.specs.inputs import FramesInput, VideoInput
from zoo.weights.manifest import Preprocess


def moving(path: pathlib.Path, count: int = 8) -> Picture:
    """A WebP whose frame i is of the grey 20 i."""
    frames = [Image.new("RGB", (24, 16), (20 * i,) * 3) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    return Picture("clip", str(path))


@pytest.mark.parametrize(
    ("count", "wanted"), [(8, [0, 1, 2, 3, 4, 5, 6, 7]), (4, [0, 2, 4, 6]), (16, [i // 2 for i in range(16)])]
)
def test_frames_lie_as_far_from_each_other_as_there_are(tmp_path: pathlib.Path, count: int, wanted: list[int]) -> None:
    frames = frames_of(moving(tmp_path / "a.webp"), count)
    assert [round(float(np.asarray(frame).mean()) / 20) for frame in frames] == wanted


def test_what_does_not_move_is_refused(tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    with pytest.raises(InputError, match="found a picture that does not move"):
        frames_of(Picture("still", str(tmp_path / "still.png")), 4)
    (tmp_path / "text.gif").write_text("no picture")
    with pytest.raises(InputError, match="a file that is no image"):
        frames_of(Picture("text", str(tmp_path / "text.gif")), 4)


def test_frames_stand_where_the_input_of_the_net_has_them() -> None:
    prepare = Transform(Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3, fit="stretch"))
    frames = [np.full((8, 8, 3), 51 * i, np.uint8) for i in range(4)]
    clip = as_clip(prepare, frames, VideoInput(channels=3, size=8))
    assert clip.shape == (3, 4, 8, 8)
    torch.testing.assert_close(clip[0, :, 0, 0], torch.arange(4) / 5)
    assert as_clip(prepare, frames, FramesInput(channels=3, size=8)).shape == (4, 3, 8, 8)


def test_a_clip_is_told_and_drawn(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(name for name in zoo.list_models(pretrained=True, task="video-classification"))
    moving(tmp_path / "a.webp")
    assert main(["predict", name, str(tmp_path / "a.webp"), "--out", str(tmp_path / "out")]) == 0
    assert "a.webp" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "a.png").width >= 4 * 24
