"""DPT's decoder against its paper, written out: arXiv:2103.13413, section 3.2 and figure 1, in the order in which the authors compute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.testing.block_cases import perturbed

State = dict[str, Tensor]


def unit(x: Tensor, state: State, name: str) -> Tensor:
    """A residual unit of two convolutions that see x before its activation."""
    y = x
    for place in ("1", "3"):
        y = F.conv2d(y.relu(), state[f"{name}.{place}.weight"], state[f"{name}.{place}.bias"], padding=1)
    return x + y


def enlarged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def point(x: Tensor, state: State, name: str) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])


@torch.no_grad()
def test_levels_are_fused_from_the_coarsest_on_and_enlarged_before_their_last_map() -> None:
    net = perturbed(zoo.create("dpt_nano").eval()).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    found = dict(zip(net.places, net.taps(x, None), strict=True))
    state = net.graph.state_dict()
    levels = []
    for i, name in enumerate(name for name in net.places if name.startswith("stages")):
        level = point(found[name], state, f"level{i}.0")
        levels.append(F.conv2d(level, state[f"level{i}.1.weight"], padding=1))
    y = unit(levels[2], state, "fused2.0")
    for i in (1, 0):
        y = point(enlarged(y, tuple(levels[i].shape[2:])), state, f"fused{i + 1}.1")
        y = unit(y + unit(levels[i], state, f"fused{i}.edges.1.0"), state, f"fused{i}.0")
    y = point(enlarged(y, tuple(2 * side for side in y.shape[2:])), state, "fused0.1")
    y = F.conv2d(y, state["classes.1.conv.weight"], padding=1)
    norm = {key: state[f"classes.1.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
    y = point(F.batch_norm(y, *norm.values()).relu(), state, "classes.2")
    torch.testing.assert_close(net(x), enlarged(y, (32, 32)))
