"""torch.func on models: one call gives the gradients of every sample, as vmap of grad does for any net of torch's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

import zoo
from zoo.build.inputs import drawn_inputs


@pytest.mark.parametrize(
    "name",
    [
        "starnet_nano",
        "vit_nano",
        "gla_nano",
        "gated_delta_net_nano",
        "mamba_nano",
        "vim_nano",
        "orchid_nano",
        "fpn_nano",
    ],
)
def test_gradients_of_each_sample_are_those_of_samples_alone(name: str) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create(name).double()
    x = drawn_inputs(model.spec, 3)[0]
    x = x[:, :20] if x.ndim == 2 else x.double()
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        answer = functional_call(model, values, (sample[None],))
        return torch.as_tensor(getattr(answer, "logits", answer)).square().mean()

    found = vmap(grad(loss), in_dims=(None, 0), randomness="same")(parameters, x)
    for place in (0, 2):
        model.zero_grad()
        loss(parameters, x[place]).backward()
        for key, parameter in parameters.items():
            if parameter.grad is not None:
                torch.testing.assert_close(
                    found[key][place], parameter.grad, rtol=1e-6, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
                )
