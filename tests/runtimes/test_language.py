"""Language models: `.logits` and `.state`, in pieces of any length, as the model itself."""

from __future__ import annotations

import pytest
import torch

from tests.runtimes.conftest import Deploy, error_of, net_of, truth
from zoo.errors import InputError

NAMES = ("llama_nano", "mamba_nano", "gla_nano", "rwkv7_nano", "jamba_nano")


def _ids(length: int = 9) -> torch.Tensor:
    return torch.randint(0, 200, (2, length), generator=torch.Generator().manual_seed(3))


PAIRS = [
    *((name, "torch") for name in NAMES),
    ("llama_nano", "onnxruntime"),
    ("llama_nano", "openvino"),
    *(
        pytest.param(name, runtime, marks=pytest.mark.slow)
        for name in NAMES[1:]
        for runtime in ("onnxruntime", "openvino")
    ),
]
"""Recurrences take ten seconds to be written as graphs, and more to be compiled."""


@pytest.mark.parametrize(("name", "runtime"), PAIRS)
def test_logits_and_state_go_on_as_those_of_the_model(deploy: Deploy, name: str, runtime: str) -> None:
    net, ids = net_of(name), _ids()
    model = deploy(net, runtime)
    whole = truth(net, ids).logits
    assert error_of(model(ids).logits, whole) < 1e-4
    begun = model(ids[:, :4], state={})
    ended = model(ids[:, 4:], state=begun.state)
    assert error_of(torch.cat([begun.logits, ended.logits], 1), whole) < 1e-4
    again = model(ids[:, 4:], state=begun.state)  # a state that was used is left as it was
    assert error_of(again.logits, ended.logits.double()) < 1e-6


def test_a_deployed_model_writes_what_the_model_writes(deploy: Deploy) -> None:
    net, ids = net_of("gla_nano"), _ids()
    assert torch.equal(deploy(net).generate(ids, 6), net.generate(ids, 6))  # type: ignore[operator]


def test_without_a_state_none_is_given(deploy: Deploy) -> None:
    assert deploy(net_of("gla_nano"))(_ids()).state is None


@pytest.mark.slow
def test_a_language_model_is_compiled(deploy: Deploy) -> None:
    net, ids = net_of("llama_nano"), _ids()
    assert error_of(deploy(net, "compile", example=(2, 9))(ids).logits, truth(net, ids).logits) < 1e-4


def test_tokens_beyond_the_vocabulary_and_masks_are_refused(deploy: Deploy) -> None:
    model = deploy(net_of("gla_nano"))
    with pytest.raises(InputError, match=r"expected numbers in \[0, 256\); found some in \[300, 300\]"):
        model(torch.full((1, 3), 300))
    with pytest.raises(InputError, match="mask\n    expected none; found a mask"):
        model(_ids(), mask=torch.ones(2, 9, dtype=torch.bool))


def test_a_state_of_another_model_is_refused(deploy: Deploy) -> None:
    first = deploy(net_of("gla_nano"))(_ids(), state={}).state
    model = deploy(net_of("mamba_nano"))
    with pytest.raises(InputError, match="expected the state of a prediction before; found one without `state."):
        model(_ids(), state=first)
