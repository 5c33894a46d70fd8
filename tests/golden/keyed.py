"""Deterministic weights for parity checks: every tensor is a pure function of its (upstream) state-dict key and shape.

So golden data needs no weights: build the upstream-named state dict from the `keys` of a golden JSON with `keyed_state_dict`,
convert and load it with the project's own key rules, run `golden_input`, compare with `output` in the .safetensors.
`reference` of a golden JSON says whose code gave that output, with its commit or release where that was noted: a net of that code
with `keyed_state_dict` of its own names gives it again.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

# Integer tables and schedule counters that upstream computes itself; they carry no golden value.
COMPUTED = (
    "num_batches_tracked",
    "relative_position_index",
    "attn_mask",
    "warm",
    "iter",
    "total_step",
    "attention_bias_idxs",
    "pos_idx",
)


def keyed_tensor(
    key: str, shape: list[int], gain: float = 1.0, scale_range: tuple[float, float] = (0.3, 0.9)
) -> torch.Tensor | None:
    """The float32 tensor of `key`, or None for a computed buffer. `gain` and `scale_range` are the golden's `gain` and `ls`."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf in COMPUTED:
        return None
    rng = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    n = int(np.prod(shape)) if shape else 1
    if leaf == "running_var":
        values = rng.uniform(0.5, 1.5, n)
    elif leaf == "running_mean" or leaf == "bias" or leaf.endswith("_bias"):
        values = 0.1 * rng.standard_normal(n)
    elif leaf == "weight" and len(shape) <= 1:
        values = rng.uniform(0.7, 1.3, n)
    elif len(shape) >= 2 and max(shape) != n:  # matrices and kernels: fan-in scaling
        values = gain * rng.standard_normal(n) / math.sqrt(int(np.prod(shape[1:])))
    else:  # layer scales, gates, temperatures, (1, C, 1, 1) vectors
        values = rng.uniform(*scale_range, n)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def keyed_state_dict(golden: dict) -> dict[str, torch.Tensor]:
    """Upstream-named float tensors of a golden JSON (`keys`, `gain`, `ls`); computed buffers are left out."""
    out = {}
    for key, shape in golden["keys"].items():
        tensor = keyed_tensor(key, shape, golden["gain"], tuple(golden["ls"]))
        if tensor is not None:
            out[key] = tensor
    return out


def golden_input(size: int, batch: int = 1, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """(batch, channels, size, size) standard normal, float32, numpy RandomState(seed)."""
    shape = (batch, channels, size, size)
    return torch.from_numpy(
        np.random.RandomState(seed).standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)
    )


def golden_sample(golden: dict, stored: dict[str, torch.Tensor], batch: int = 1, seed: int = 0) -> torch.Tensor:
    """The input of a golden: `in.x` where it is stored, else what its `size` says, as many and of the seed that it names."""
    if "in.x" in stored:
        return stored["in.x"]
    batch, seed, size = golden.get("batch", batch), golden.get("seed", seed), golden["size"]
    if isinstance(size, int):
        return golden_input(size, batch=batch, seed=seed)
    shape = (batch, *size)
    return torch.from_numpy(
        np.random.RandomState(seed).standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)
    )
