"""What blocks change in themselves by how far training is: activations that become linear, norms that give way to others."""

from __future__ import annotations

from torch import nn


def anneal(model: nn.Module, share: float) -> None:
    """Tells each block that has a schedule which share of training is over: 0 before the first step, 1 at the last.

    To be called before every step, or epoch, of a training loop; the zoo's own loop does. A model that was just made, or loaded, stands
    where training ends. Raises ValueError for a share outside of 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of training that is over lies between 0 and 1, not at {share:g}")
    for module in model.modules():
        if callable(method := getattr(module, "anneal", None)):
            method(share)
