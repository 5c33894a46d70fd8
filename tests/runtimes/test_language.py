"""Language models: `.logits` and `.state`, in pieces of any length, as the model itself."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

import zoo
from tests.runtimes.conftest import Deploy, error_of, net_of, truth
from zoo.data.pydoc import held_out_text
from zoo.errors import InputError
from zoo.runtimes.answers import Pair, _rises
from zoo.runtimes.candidates import plan_for
from zoo.runtimes.instructions import computed_here
from zoo.runtimes.loss import perplexity_rise
from zoo.runtimes.net import signature_of
from zoo.runtimes.torch_files import examples_of

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


@pytest.mark.parametrize("least", [1, 2])
def test_the_state_of_an_example_has_as_many_samples_as_its_prompts(least: int) -> None:
    signature = signature_of(net_of("llama_nano"), (3, 9))
    assert signature.state and {len(x) for x in examples_of(signature, least)} == {3}


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


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_weights_alone_are_in_a_lower_precision(deploy: Deploy, precision: str, tmp_path: Path) -> None:
    net, ids = net_of("gla_nano.pydoc", pretrained=True), torch.tensor([list(b"Return the ")])
    model = deploy(net, "torch", precision)
    whole = truth(net, ids).logits
    assert 1e-5 < error_of(model(ids).logits, whole) < 0.1
    begun = model(ids[:, :4], state={})
    ended = model(ids[:, 4:], state=begun.state)
    assert error_of(torch.cat([begun.logits, ended.logits], 1), model(ids).logits.double()) < 1e-5
    model.save(tmp_path / "served")
    again = zoo.load_deployed(tmp_path / "served")
    assert torch.equal(again.generate(ids, 20), model.generate(ids, 20))
    assert again.precision == precision
    again.close()


def test_a_deployed_model_continues_padded_prompts(deploy: Deploy) -> None:
    net, ids = net_of("gla_nano"), _ids()
    padded, mask = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1), torch.ones(2, 12, dtype=torch.bool)
    mask[:, :3] = False
    model = deploy(net, "torch", "int8")
    assert torch.equal(model.generate(padded, 6, mask=mask), model.generate(ids, 6))


def test_what_narrow_weights_lose_is_the_rise_of_perplexity_on_held_out_text() -> None:
    net = net_of("gla_nano.pydoc", pretrained=True)
    row = zoo.deploy(net, "torch", "int8", threads=1).report().chosen
    assert row.loss_of == "16 sequences of held-out text, as the rise of their perplexity"
    assert row.loss_high is not None and row.loss_high < 0.005
    text = torch.tensor(list(held_out_text()[:2000])).view(20, 100)
    row = zoo.deploy(net, "torch", "int8", threads=1, data=text).report().chosen
    assert row.loss_of.startswith("20 sequences of text of yours")
    with pytest.raises(
        InputError, match=re.escape("torch, int8\n    expected a form that passes its checks; found it may lose ")
    ):
        zoo.deploy(net, "torch", "int8", threads=1, data=text, max_loss=0)


def test_a_rise_of_perplexity_is_that_of_the_next_tokens_or_expected_of_the_net_itself() -> None:
    before = torch.tensor([0.5, 0.25, 0.25]).log().expand(2, 3, -1)
    after = torch.tensor([0.25, 0.25, 0.5]).log().expand(2, 3, -1)
    told = _rises(Pair((before,), (after,), torch.tensor([[0, 2], [0, 0]])))
    torch.testing.assert_close(told, torch.tensor([0.0, math.log(2)], dtype=torch.float64))
    own = _rises(Pair((before,), (after,), None))
    torch.testing.assert_close(own, torch.full((2,), 0.25 * math.log(2), dtype=torch.float64))
    loss = perplexity_rise(told, "text")
    assert loss.value == pytest.approx(2**0.5 - 1)
    assert loss.low < 0 < loss.value < loss.high


def test_text_that_is_none_is_refused() -> None:
    net = net_of("gla_nano")
    for data, found in (
        ("folder", "a str"),
        (torch.zeros(3, 9), "(3, 9) of torch.float32"),
        (_ids(), "(2, 9) of torch.int64"),
    ):
        with pytest.raises(
            InputError,
            match=re.escape(
                f"data\n    expected token ids (N, L), 500 or more in two sequences at least, of lengths that the model is deployed for; found {found}"
            ),
        ):
            zoo.deploy(net, "torch", "int8", threads=1, data=data)


def test_without_a_kernel_narrow_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_NATIVE", "off")
    plan = plan_for(["torch"], "auto", reads_tokens=True)
    assert [one.precision for one in plan.eligible] == [
        "float32",
        *(["float16"] if "float16" in computed_here() else []),
    ]
    reason = "without their kernel narrow weights are slower than float32 (ZOO_NATIVE=off)"
    assert {(row.precision, row.reason) for row in plan.left_out} == {("bfloat16", reason), ("int8", reason)}
    with pytest.raises(InputError, match=re.escape(f"found `int8`: {reason}")):
        zoo.deploy(net_of("gla_nano"), "torch", "int8")
