"""What the conformance checks cannot know: that the channels move where the paper says."""

import torch
from acme_blocks.shift_mixer import ShiftMixer


def test_each_share_moves_one_pixel_its_own_way() -> None:
    mixer = ShiftMixer(12, bias=False)
    torch.nn.init.eye_(mixer.proj.weight)
    x = torch.zeros(1, 12, 3, 3)
    x[:, :, 1, 1] = 1
    with torch.no_grad():
        found = [tuple(position[2:].tolist()) for position in mixer(x).nonzero()[:5]]
    assert found == [(1, 0), (1, 2), (0, 1), (2, 1), (1, 1)]
