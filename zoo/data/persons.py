"""Persons that code draws, who face whoever looks at them: figures of strokes with a head, and where their joints are."""

from __future__ import annotations

import math

import numpy as np

from zoo.data.scenes import Scene, contrasting, texture
from zoo.data.segments import stroke

JOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow", "right elbow",
    "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
)  # fmt: skip
"""The 17 of COCO, in its order."""
MIRRORED = (0, *(place for pair in range(1, len(JOINTS), 2) for place in (pair + 1, pair)))
"""Which joint each is in a mirror."""
BONES = (
    (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4),
)  # fmt: skip
"""Pairs of joints between which a line is drawn."""
FACE = 5
"""So many joints are the face's."""
TRUNK, SHOULDER, HIP, NECK, HEAD, ARM, LEG = 0.3, 0.1, 0.065, 0.1, 0.075, 0.16, 0.22
"""As shares of the height: from hips to shoulders, from the middle to a shoulder and to a hip, from shoulders to the middle of the head, its
radius, and half an arm and half a leg."""
THICK = 0.055
"""Of a limb, as a share of the height."""


def persons(number: int, size: int = 64) -> tuple[Scene, np.ndarray]:
    """One person or two beside each other, and their joints (N, 17, 2): x, y in pixels. Boxes are those of the joints, all of class 0."""
    random = np.random.RandomState((number + 3) % 2**32)
    colours = random.uniform(0, 255, (2, 3))
    canvas, mask = texture(random, size, colours), np.zeros((size, size), np.uint8)
    count = random.randint(1, 3)
    joints = [_placed(random, size, place, count) for place in range(count)]
    for own in joints:
        height = np.ptp(own[:, 1])
        body, face = contrasting(random, colours), colours.mean(0)
        for cover, colour in _strokes(size, own, height, body, face):
            canvas = canvas * (1 - cover) + colour * cover
            mask[cover[..., 0] > 0.5] = 1
    picture = np.clip(canvas + random.normal(0, 4, canvas.shape), 0, 255).round().astype(np.uint8)
    places = np.array(joints, np.float32)
    boxes = np.concatenate((places.min(1), places.max(1)), 1)
    return Scene(picture, boxes, np.zeros(count, np.int64), mask), places


def _strokes(
    size: int, joints: np.ndarray, height: float, body: np.ndarray, face: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(cover, colour) of what a person is drawn of: limbs and head in the colour of the body, eyes and nose in that of the ground."""
    width = max(1.5, THICK * height)
    limbs = [stroke(size, joints[list(bone)], width) for bone in BONES if min(bone) >= FACE]
    middle = joints[3:5].mean(0, keepdims=True)
    head = stroke(size, middle, 2 * HEAD * height)
    dots = [stroke(size, joints[place : place + 1], max(1.0, 0.5 * width)) for place in range(3)]
    return [(cover, body) for cover in (*limbs, head)] + [(cover, face) for cover in dots]


def _placed(random: np.random.RandomState, size: int, place: int, count: int) -> np.ndarray:
    """(17, 2): a person in one of `count` strips of the picture, as large as fits or up to a third less."""
    joints = _posed(random)
    low, high = joints.min(0), joints.max(0)
    border = HEAD
    room = np.array((size / count, size))
    scale = (room / (high - low + 2 * border)).min() * random.uniform(0.67, 1)
    free = room - scale * (high - low + 2 * border)
    corner = np.array((place * room[0], 0)) + free * random.uniform(0, 1, 2)
    return (joints - low + border) * scale + corner


def _posed(random: np.random.RandomState) -> np.ndarray:
    """(17, 2): the joints of a person of height 1 around the middle of the hips, y downwards; the left ones have the larger x."""
    lean = random.uniform(-0.2, 0.2)
    up, across = np.array((math.sin(lean), -math.cos(lean))), np.array((math.cos(lean), math.sin(lean)))
    chest = TRUNK * up
    head = chest + NECK * up + random.uniform(-0.015, 0.015, 2)
    joints = np.zeros((len(JOINTS), 2))
    joints[0] = head - 0.02 * up
    for side, sign in ((0, 1.0), (1, -1.0)):
        joints[1 + side] = head + sign * 0.35 * HEAD * across + 0.02 * up
        joints[3 + side] = head + sign * HEAD * across
        joints[5 + side] = chest + sign * SHOULDER * across
        joints[11 + side] = sign * HIP * across
        arm, leg = random.uniform(0.1, 2.4), random.uniform(0.0, 0.6)
        for first, half, turn, bend in (
            (5, ARM, arm, random.uniform(-0.6, 1.2)),
            (11, LEG, leg, random.uniform(-0.4, 0.1)),
        ):
            for step, angle in ((2, turn), (4, turn + bend)):
                towards = np.array((sign * math.sin(angle), math.cos(angle)))
                joints[first + side + step] = joints[first + side + step - 2] + half * towards
    return joints
