"""What nets for tasks are trained to: boxes on anchors and on pixels, classes of pixels, what stands out, pictures, distances; joints and lines
are in `point_losses`.

Papers: arXiv:1708.02002 (focal loss, which anchor stands for which box), arXiv:1902.09630 (overlap of boxes that need not meet),
arXiv:1904.01355 (pixels that stand for a box), arXiv:1904.07850 (pixels that are the middle of one), arXiv:1406.2283 (distances).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.heads.boxes import AnchorBoxes, BoxDecoder, centres
from blocks.heads.centre_boxes import CentreBoxes
from blocks.heads.default_boxes import DefaultBoxes
from zoo.answering import boxes
from zoo.answering.answers import main_output, resized
from zoo.answering.names import DEPTH, DETECTION, LINES, PICTURES, POSE, SALIENCE, SEGMENTATION, VIDEO
from zoo.errors import InputError, Problem, listed
from zoo.training.point_losses import on_joints, on_lines

ALPHA, GAMMA = 0.25, 1.5
"""Of the focal loss: the weight of what is there, and how little what is easy counts."""
NEAR, FAR = 0.5, 0.4
"""An anchor stands for a box from the first overlap on, for the ground below the second, for nothing between them."""
BOX_WEIGHT = 10.0
"""Of the boxes beside the classes, on anchors and on pixels."""
REACH = 1.5
"""How many strides the pixels that stand for a box are from its middle at most."""
SIDE = 4.0
"""The longest side of a box in strides of the finest level that it is learned on."""
FAR_WEIGHT = 0.15
"""Of the mean error of distances beside its variance, both of logarithms."""
SIZE_WEIGHT = 0.1
"""Of the sizes of boxes beside their middles."""
ALIKE = 0.7
"""What a box whose corners are as far off as a middle's neighbours count must share with its own."""


class Truth(NamedTuple):
    """Of a batch what is known: for a detector the boxes (N, 4) and classes (N,) of each picture; the class (1,) of each clip; a mask (B, H, W) of classes; pictures
    (B, C, H, W) from 0 to 1; of each picture joints (N, J, 2) or the ends of lines (N, 2, 2); distances (B, H, W). What the task does not ask for is left out."""

    boxes: Sequence[Tensor] = ()
    classes: Sequence[Tensor] = ()
    mask: Tensor | None = None
    pictures: Tensor | None = None
    points: Sequence[Tensor] = ()
    depth: Tensor | None = None


TaskLoss = Callable[[nn.Module, tuple[Tensor, Truth], Context], Tensor]


def task_loss(net: Any) -> TaskLoss:
    """The loss of a net for its task, as `loop.train` calls it. Raises InputError for a net whose task has none here."""
    task = net.spec.family.task
    if task == DETECTION:
        kinds = [type(module) for module in net.modules()]
        found = {AnchorBoxes: _on_anchors, DefaultBoxes: _on_anchors, BoxDecoder: _on_pixels, CentreBoxes: _on_centres}
        loss = next((found[kind] for kind in kinds if kind in found), None)
        if loss is None:
            expected = "a detector that ends in `anchor_boxes`, `default_boxes`, `box_decoder` or `centre_boxes`"
            raise InputError(net.spec.name, Problem("graph", expected, "none of them"))
        return loss
    losses: dict[str, TaskLoss] = {
        SEGMENTATION: _on_classes, SALIENCE: _on_salience, POSE: _on_points, LINES: _on_points, DEPTH: _on_distances, VIDEO: _on_clips,
        **dict.fromkeys(PICTURES, _on_pictures),
    }  # fmt: skip
    if task not in losses:
        raise InputError(net.spec.name, Problem("", f"a model for {listed([DETECTION, *losses])}", f"one for {task}"))
    return losses[task]


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of -alpha_t (1 - p_t)^gamma log p_t."""
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    surprise = (logits.sigmoid() - targets).abs()
    return ((ALPHA * targets + (1 - ALPHA) * (1 - targets)) * surprise**GAMMA * plain).sum()


def generalised_overlap(one: Tensor, other: Tensor) -> Tensor:
    """(N, 4), (N, 4) -> (N,): the shared area over that of either, less the share of the box around both that neither has; -1 to 1."""
    first, last = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    both = (last - first).clamp(min=0).prod(-1)
    either = sum((box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (one, other)) - both
    around = (torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])).prod(-1)
    return both / either.clamp(min=1e-6) - (around - either) / around.clamp(min=1e-6)


# detection


def _levels(outputs: dict[str, Tensor], name: str) -> list[Tensor]:
    """The outputs `name0`, `name1`, ….

    Raises InputError where there are none: of a detector that hands on no levels while it is trained."""
    found = [outputs[f"{name}{i}"] for i in range(len(outputs)) if f"{name}{i}" in outputs]
    if not found:
        raise InputError(
            "training", Problem("graph.outputs", f"`{name}0`, `{name}1`, …, in training", ", ".join(outputs))
        )
    return found


def _on_anchors(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """Focal loss of all anchors that stand for something, Huber's of how the near ones move; over the number of near ones."""
    x, truth = batch
    outputs = model(x, ctx)
    decoder = next(module for module in model.modules() if isinstance(module, (AnchorBoxes, DefaultBoxes)))
    levels = _levels(outputs, "box")
    per, num_classes = [level.shape[1] // 4 for level in levels], int(model.num_classes)  # type: ignore[arg-type]
    classes = zip(_levels(outputs, "class"), per, strict=True)
    logits = torch.cat(
        [_rows(level, n)[..., -num_classes:] for level, n in classes], 1
    )  # (B, P, C), without the ground's
    moves = torch.cat([_rows(level, n) for level, n in zip(levels, per, strict=True)], 1)
    shares = isinstance(decoder, DefaultBoxes)
    units = moves.new_tensor(decoder.variances).repeat_interleave(2) if shares else moves.new_ones(4)
    anchors = decoder.anchors([*levels, x] if shares else levels).T
    losses, near_ones = [], 0
    for of_picture, moved, these, kinds in zip(logits, moves, truth.boxes, truth.classes, strict=True):
        targets, ignored = torch.zeros_like(of_picture), torch.zeros(len(anchors), dtype=torch.bool)
        if len(these):
            overlaps = boxes.shared(boxes.corners(anchors), these)
            best, which = overlaps.max(1)
            own = overlaps.argmax(0)  # every box has an anchor
            which[own], best[own] = torch.arange(len(these)), 1.0
            near, ignored = best >= NEAR, (best >= FAR) & (best < NEAR)
            targets[near, kinds[which[near]]] = 1.0
            wanted = encoded(these[which[near]], anchors[near]) / units
            losses.append(BOX_WEIGHT * F.smooth_l1_loss(moved[near], wanted, beta=0.1, reduction="sum") / 4)
            near_ones += int(near.sum())
        losses.append(focal(of_picture[~ignored], targets[~ignored]))
    return torch.stack(losses).sum() / max(1, near_ones)


def encoded(these: Tensor, anchors: Tensor) -> Tensor:
    """What must be done to anchors (N, 4), centre x, y, width, height, to make them boxes (N, 4) x1, y1, x2, y2: (ty, tx, th, tw)."""
    middles, sides = (these[:, :2] + these[:, 2:]) / 2, (these[:, 2:] - these[:, :2]).clamp(min=1e-3)
    shift, stretch = (middles - anchors[:, :2]) / anchors[:, 2:], (sides / anchors[:, 2:]).log()
    return torch.cat((shift.flip(1), stretch.flip(1)), 1)


def _rows(level: Tensor, per: int) -> Tensor:
    """(B, per * K, H, W) -> (B, H W per, K), in the order of the anchors."""
    return level.unflatten(1, (per, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _on_pixels(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """Focal loss of all pixels, and 1 - the generalised overlap of the boxes of those that stand for one; over their number."""
    x, truth = batch
    decoder = next(module for module in model.modules() if isinstance(module, BoxDecoder))
    bins = decoder.bins.shape[1]
    raw = _levels(model(x, ctx), "raw")
    sides, logits = ([level.split((4 * bins, level.shape[1] - 4 * bins), 1)[i] for level in raw] for i in (0, 1))
    found = decoder(*sides).transpose(1, 2)
    found = found if decoder.corners else boxes.corners(found)
    scores = torch.cat([level.flatten(2) for level in logits], 2).transpose(1, 2)
    points, steps = centres(raw, decoder.strides, decoder.offset)
    points = (points * steps).T
    losses, standing = [], 0
    for of_picture, own, these, kinds in zip(scores, found, truth.boxes, truth.classes, strict=True):
        targets = torch.zeros_like(of_picture)
        if len(these):
            which, stands = assigned(points, steps, these)
            targets[stands, kinds[which[stands]]] = 1.0
            losses.append(BOX_WEIGHT * (1 - generalised_overlap(own[stands], these[which[stands]])).sum() / 4)
            standing += int(stands.sum())
        losses.append(focal(of_picture, targets))
    return torch.stack(losses).sum() / max(1, standing)


def assigned(points: Tensor, steps: Tensor, these: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) which of the boxes (N, 4) each pixel is nearest to, and (P,) whether it stands for it: on the level that fits the box's longest
    side, at most `REACH` strides from its middle."""
    middles, longest = (these[:, :2] + these[:, 2:]) / 2, (these[:, 2:] - these[:, :2]).amax(1)
    strides = steps.unique()
    level = (longest[:, None] > SIDE * strides[:-1]).sum(
        1
    )  # small ones on the finest, all that are larger on the coarsest
    distances = (points[:, None] - middles).abs().amax(2) / steps[:, None]
    distances = torch.where(steps[:, None] == strides[level], distances, torch.inf)
    nearest, which = distances.min(1)
    return which, nearest <= REACH


def _on_centres(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """Focal loss of the maps of middles, whose neighbours count less, and |d| of sizes and offsets at the middles; over the number of boxes.

    Of the outputs `hm` (B, C, H, W), `wh` and `reg` (B, 2, H, W), as arXiv:1904.07850 has them, equations 1 to 4."""
    x, truth = batch
    outputs = model(x, ctx)
    logits, stride = outputs["hm"], next(m for m in model.modules() if isinstance(m, CentreBoxes)).stride
    heat, errors = torch.zeros_like(logits), [logits.new_zeros(())]
    rows, columns = (torch.arange(n, dtype=logits.dtype) for n in logits.shape[2:])
    for i, (these, kinds) in enumerate(zip(truth.boxes, truth.classes, strict=True)):
        middles, sides = (these[:, :2] + these[:, 2:]) / 2 / stride, (these[:, 2:] - these[:, :2]) / stride
        cells = torch.minimum(middles.long(), torch.tensor(logits.shape[:1:-1]) - 1)
        for kind, (column, row), side in zip(kinds.tolist(), cells.tolist(), sides, strict=True):
            around = (rows[:, None] - row) ** 2 + (columns - column) ** 2
            heat[i, kind] = torch.maximum(heat[i, kind], (-around / (2 * spread(side) ** 2)).exp())
        at = (i, slice(None), cells[:, 1], cells[:, 0])
        errors += [
            SIZE_WEIGHT * (outputs["wh"][at].T - sides).abs().sum(),
            (outputs["reg"][at].T - middles + cells).abs().sum(),
        ]
    sure = F.logsigmoid(logits) * (1 - logits.sigmoid()) ** 2
    other = F.logsigmoid(-logits) * logits.sigmoid() ** 2 * (1 - heat) ** 4
    missed = -torch.where(heat == 1, sure, other).sum()
    return (missed + torch.stack(errors).sum()) / max(1, sum(len(these) for these in truth.boxes))


def spread(side: Tensor) -> Tensor:
    """A third of the radius r, and half a pixel: corners at most r off, both within a box (w, h), both outside, or one of each, leave a box
    that shares `ALIKE` with it (arXiv:1808.01244, section 3.2)."""
    both, area, t = side.sum(), side.prod(), ALIKE
    mixed = (both - (both**2 - 4 * area * (1 - t) / (1 + t)).sqrt()) / 2
    within = (both - (both**2 - 4 * (1 - t) * area).sqrt()) / 4
    outside = (-t * both + (t**2 * both**2 + 4 * t * (1 - t) * area).sqrt()) / (4 * t)
    return torch.stack((mixed, within, outside)).amin().clamp(min=0) / 3 + 1 / 6


# maps and pictures


def _on_classes(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """Cross-entropy of every pixel; of further outputs, which help while a net is trained, with four tenths of the weight."""
    x, truth = batch
    outputs = model(x, ctx)
    main = main_output(outputs)
    others = [y for y in outputs.values() if y is not main] if isinstance(outputs, dict) else []
    assert truth.mask is not None
    losses = [F.cross_entropy(resized(y, x), truth.mask, ignore_index=255) for y in (main, *others)]
    return losses[0] + 0.4 * sum(losses[1:], torch.zeros(()))


def _on_salience(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """Binary cross-entropy of every map that the net gives, summed."""
    x, truth = batch
    outputs = model(x, ctx)
    maps = outputs.values() if isinstance(outputs, dict) else [outputs]
    wanted = (truth.mask > 0).to(x.dtype)[:, None]  # type: ignore[operator]
    return torch.stack([F.binary_cross_entropy(resized(y, x).clamp(1e-6, 1 - 1e-6), wanted) for y in maps]).sum()


def _on_pictures(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """The mean of sqrt(d^2 + 1e-6): nearly |d|."""
    x, truth = batch
    assert truth.pictures is not None
    return ((main_output(model(x, ctx)) - truth.pictures) ** 2 + 1e-6).sqrt().mean()


def _on_distances(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """sqrt(Var[e] + w E[e]^2) with e = log d' - log d: how all distances are wrong together counts less than how they differ in it."""
    x, truth = batch
    assert truth.depth is not None
    errors = resized(main_output(model(x, ctx)), x)[:, 0].clamp(min=1e-3).log() - truth.depth.log()
    return (errors.var((1, 2)) + FAR_WEIGHT * errors.mean((1, 2)) ** 2 + 1e-6).sqrt().mean()


def _on_points(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """What `point_losses` say of joints or lines."""
    x, truth = batch
    loss = on_joints if model.spec.family.task == POSE else on_lines  # type: ignore[union-attr]
    return loss(model(x, ctx), list(truth.points), (x.shape[-2], x.shape[-1]))


def _on_clips(model: nn.Module, batch: tuple[Tensor, Truth], ctx: Context) -> Tensor:
    """Cross-entropy of the class of each clip."""
    x, truth = batch
    return F.cross_entropy(main_output(model(x, ctx)), torch.cat(list(truth.classes)))
