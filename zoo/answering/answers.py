"""What a net for a task answers (`zoo.answering.names.ANSWERS`), as tensors of one shape for all pictures: the net with the steps behind it
as one module.

Which outputs of the net are read is told by their names: `boxes` and `scores` of a detector, `out0` and `out1` of a net that finds joints, of
others `logits`, `output`, or the first.
A module is what can be exported, profiled and timed with the rest: from pixels to answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.answering import boxes, points
from zoo.answering.names import DEPTH, DETECTION, LINES, POSE, SALIENCE, SEGMENTATION, TASKS, VIDEO
from zoo.errors import InputError, Problem, listed

MAIN = ("logits", "output")
"""Names of the output that counts where there are several."""


class Answering(nn.Module):
    """Pictures (B, C, H, W), as `zoo.transform` makes them, or clips of them as the net takes these, and what else goes into the net -> the answers of the task, by
    name. `net` is in evaluation mode.

    Raises InputError for a net of another task, and for a detector that gives no lists of boxes and scores.
    """

    def __init__(self, net: Any, **picking: Any):
        super().__init__()
        self.net, self.spec = net, net.spec
        self.task = task_of(net)
        self.rows = any(getattr(module, "rows", False) is True for module in net.modules())
        self.centred = any(getattr(module, "corners", True) is False for module in net.modules())
        suppressed = any(getattr(module, "suppressed", False) is True for module in net.modules())
        self.picking = ({"overlap": 1.0} if suppressed else {}) | picking

    def forward(self, x: Tensor, *others: Any) -> dict[str, Tensor]:
        outputs = self.net(x, *others)
        if self.task == DETECTION:
            return self._picked(outputs)
        if self.task == POSE:
            return {"peaks": points.joints(*joint_maps(outputs), side=(x.shape[-2], x.shape[-1]))}
        y = main_output(outputs)
        if self.task == VIDEO:
            return {"chances": y.softmax(-1)}
        if self.task == LINES:
            return dict(zip(("lines", "scores"), points.lines(y, (x.shape[-2], x.shape[-1])), strict=True))
        if self.task == DEPTH:
            return {"depth": resized(y, x)[:, 0]}
        if self.task == SEGMENTATION:
            return {"classes": resized(y, x).argmax(1)}
        if self.task == SALIENCE:
            return {"salience": resized(y, x)[:, 0]}
        return {"picture": y.clamp(0, 1)}

    def _picked(self, outputs: Any) -> dict[str, Tensor]:
        if not isinstance(outputs, dict) or not {"boxes", "scores"} <= outputs.keys():
            found = listed(list(outputs)) if isinstance(outputs, dict) else "one tensor"
            raise InputError("answers", Problem("", "a detector with the outputs `boxes` and `scores`", found))
        places, scores = outputs["boxes"], outputs["scores"]
        places, scores = (places, scores.transpose(1, 2)) if self.rows else (places.transpose(1, 2), scores)
        picked = boxes.pick(boxes.corners(places) if self.centred else places, scores, **self.picking)
        return dict(zip(("boxes", "scores", "classes"), picked, strict=True))


def task_of(net: Any) -> str:
    """The task of a net, one of those that are read here. Raises InputError for another."""
    task: str = net.spec.family.task
    if task not in TASKS:
        raise InputError(net.spec.name, Problem("", f"a model for {listed(list(TASKS))}", f"one for {task}"))
    return task


def joint_maps(outputs: Any) -> tuple[Tensor, Tensor]:
    """`out0`, maps of J joints and their tags, and `out1`, finer maps. Raises InputError for a net that gives no such."""
    if (
        isinstance(outputs, dict)
        and {"out0", "out1"} <= outputs.keys()
        and outputs["out0"].shape[1] == 2 * outputs["out1"].shape[1]
    ):
        return outputs["out0"], outputs["out1"]
    shapes = (
        {name: tuple(y.shape) for name, y in outputs.items()} if isinstance(outputs, dict) else tuple(outputs.shape)
    )
    expected = "a net with the outputs `out0`, maps of joints and tags, and `out1`, maps of as many joints"
    raise InputError("answers", Problem("", expected, str(shapes)))


def main_output(outputs: Any) -> Tensor:
    """The one that counts of several outputs."""
    if isinstance(outputs, Tensor):
        return outputs
    name = next((name for name in MAIN if name in outputs), next(iter(outputs)))
    return outputs[name]  # type: ignore[no-any-return]


def scale_of(net: Any) -> int:
    """How many times as wide as its input the picture is that a net gives."""
    x = torch.zeros(1, net.spec.input.channels, 16, 16, device="meta")
    with torch.no_grad():
        return main_output(net.rebuild(net.spec)(x)).shape[-1] // 16


def resized(y: Tensor, like: Tensor) -> Tensor:
    """Maps (B, K, h, w) at the rows and columns of the picture."""
    if y.shape[-2:] == like.shape[-2:]:
        return y
    return F.interpolate(y, size=like.shape[-2:], mode="bilinear", align_corners=False)
