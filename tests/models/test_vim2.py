"""ViM2 against the equations of its paper (arXiv:2403.19888v1, sections 3.1 to 3.3 and 4.1), written as loops: nobody published code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from tests.models.parity import error

State = dict[str, Tensor]


def scanned(u: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor) -> Tensor:
    """u (L, E) -> (L, E): h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = h_t C_t + D u_t."""
    ranks, states = dt_proj.shape[1], A_log.shape[1]
    h, y = torch.zeros_like(A_log), torch.empty_like(u)
    for t, u_t in enumerate(u):
        step, B, C = (x_proj @ u_t).split([ranks, states, states])
        delta = F.softplus(dt_proj @ step + dt_bias)
        h = torch.exp(-delta[:, None] * A_log.exp()) * h + (delta * u_t)[:, None] * B
        y[t] = h @ C + D * u_t
    return y


def token_mixer(x: Tensor, w: State, path: str) -> Tensor:
    """x (C, H, W): y = (W_o norm(sum of four routes of S6(silu(DW W_u x)))) * silu(W_g x)."""
    C, H, W = x.shape
    s = {
        key.removeprefix(f"{path}.scanned.0."): value
        for key, value in w.items()
        if key.startswith(f"{path}.scanned.0.")
    }
    u = torch.einsum("oc,chw->ohw", s["in_proj.weight"], x)
    u = F.silu(F.conv2d(u[None], s["conv.weight"], padding=1, groups=C)[0])
    rows = torch.arange(H * W)
    columns = rows.view(H, W).T.flatten()
    total = torch.zeros(H * W, C, dtype=x.dtype)
    for k, order in enumerate((rows, columns, rows.flip(0), columns.flip(0))):
        A_log, D = s["A_log"].view(4, C, -1)[k], s["D"].view(4, C)[k]
        y = scanned(u.flatten(1).T[order], s["x_proj"][k], s["dt_proj"][k], s["dt_bias"][k], A_log, D)
        total[order] += y
    total = F.layer_norm(total, (C,), s["norm.weight"], s["norm.bias"], 1e-5) @ s["out_proj.weight"].T
    gate = F.silu(torch.einsum("oc,chw->ohw", w[f"{path}.gate.0.weight"], x))
    return total.T.view(C, H, W) * gate


def channel_mixer(x: Tensor, w: State, path: str) -> Tensor:
    """x (C, H, W): S6 along the channels, there and back, of silu(DW W_u x), gated by silu(W_g x), and a map of the channels."""
    C, H, W = x.shape
    u = torch.einsum("oc,chw->ohw", w[f"{path}.scanned.0.weight"], x)
    u = F.silu(F.conv2d(u[None], w[f"{path}.scanned.1.conv.weight"], padding=1, groups=C)[0]).flatten(1)
    total = torch.zeros_like(u)
    for way, flip in (("ahead", False), ("back", True)):
        names = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D")
        y = scanned(u.flip(0) if flip else u, *(w[f"{path}.scanned.3.mixer.{way}.{name}"] for name in names))
        total += y.flip(0) if flip else y
    gate = F.silu(torch.einsum("oc,chw->ohw", w[f"{path}.gate.0.weight"], x))
    return torch.einsum("oc,chw->ohw", w[f"{path}.y.0.weight"], total.view(C, H, W) * gate)


def normed(x: Tensor, w: State, path: str) -> Tensor:
    return F.layer_norm(x.permute(1, 2, 0), x.shape[:1], w[f"{path}.weight"], w[f"{path}.bias"], 1e-5).permute(2, 0, 1)


def stage(x: Tensor, w: State, path: str, mixers: int) -> Tensor:
    """Every mixer reads a learned sum of all outputs before it, the input first among them; so does what follows."""
    outputs, alphas = [x], w[f"{path}.alpha"].tolist()
    for i in range(mixers + 1):
        x = sum(alphas.pop(0) * y for y in outputs)  # type: ignore[assignment]
        if i < mixers:
            mixer = channel_mixer if i % 2 else token_mixer
            outputs.append(mixer(normed(x, w, f"{path}.{i}.0"), w, f"{path}.{i}.1"))
    return x


def test_nano_gives_what_the_equations_give() -> None:
    torch.manual_seed(0)
    model: Any = zoo.create("vim2_nano").double().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("alpha", "weight", "bias")):
                tensor.add_(0.1 * torch.randn_like(tensor))
        w, picture = model.state_dict(), torch.randn(1, 1, 32, 32, dtype=torch.float64)
        x = normed(F.conv2d(picture, w["stem.0.conv.weight"], w["stem.0.conv.bias"], 4)[0], w, "stem.0.norm")
        x = stage(x, w, "stages.0.layers.0.0", 2)
        x = F.conv2d(x[None], w["stages.1.downsample.conv.weight"], w["stages.1.downsample.conv.bias"], 2)[0]
        x = stage(normed(x, w, "stages.1.downsample.norm"), w, "stages.1.layers.0.0", 4)
        expected = w["head.classifier.weight"] @ normed(x, w, "head.norm").mean((1, 2)) + w["head.classifier.bias"]
        assert error(model(picture)[0], expected) <= 1e-9
