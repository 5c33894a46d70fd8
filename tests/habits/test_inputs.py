"""What is no input of a model is refused in terms of the input, whatever block meets it first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.build.inputs import drawn_inputs
from zoo.errors import InputError

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IMAGES = {
    "bytes": (X.to(torch.uint8), r"expected pictures \(B, 3, H, W\) in float32, as the model is; found uint8 \(2, 3, 32, 32\)"),
    "wide": (X.double(), r"in float32, as the model is; found float64 \(2, 3, 32, 32\); next: x.to\(the dtype of the model\)"),
    "array": (X.numpy(), "expected a tensor of pictures .* found `ndarray`; next: `torch.as_tensor"),
    "list": (X.tolist(), "expected a tensor of pictures .* found `list`"),
    "channels": (X[:, :2], r"found float32 \(2, 2, 32, 32\); next: create it with `in_chans=2`"),
    "channels last": (X.permute(0, 2, 3, 1), r"expected pictures \(B, 3, H, W\); found float32 \(2, 32, 32, 3\)"),
    "rows": (X[0, 0], r"expected pictures \(B, 3, H, W\); found float32 \(32, 32\)"),
    "elsewhere": (X.to("meta"), "expected an input on `cpu`, where the model is; found `meta`; next: x.to\\('cpu'\\)"),
}  # fmt: skip
TOKENS = {
    "float": (torch.zeros(2, 5), r"expected whole numbers \(B, L\); found float32 \(2, 5\); next: x.long\(\)"),
    "bytes": (torch.zeros(2, 5, dtype=torch.uint8), r"found uint8 \(2, 5\); next: x.long\(\)"),
    "array": (np.zeros((2, 5), np.int64), "expected a tensor of whole numbers .* found `ndarray`"),
    "list": ([[1, 2]], "found `list`"),
}


@pytest.fixture(scope="module", params=["starnet_nano", "linear_vit_nano", "fpn_nano"])
def net(request: pytest.FixtureRequest) -> Any:
    return zoo.create(request.param, in_chans=3)


@pytest.mark.parametrize("kind", IMAGES)
def test_what_is_no_picture_is_refused(net: Any, kind: str) -> None:
    x, words = IMAGES[kind]
    with pytest.raises(InputError, match=words):
        net(x)


@pytest.mark.parametrize("kind", TOKENS)
def test_what_is_no_row_of_tokens_is_refused(kind: str) -> None:
    x, words = TOKENS[kind]
    with pytest.raises(InputError, match=words):
        zoo.create("gla_nano")(x)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("time_moe_nano", r"\(B, L, 1\)"),
        ("fast_fullsubnet_nano", r"\(B, \d+, H, W\)"),
        ("vim2_nano", r"\(B, \d+, H, W\)"),
        ("movinet_nano", r"\(B, 3, frames, H, W\)"),
    ],
)
def test_an_input_without_samples_is_refused_with_the_axes(name: str, wanted: str) -> None:
    model: Any = zoo.create(name)
    for x in (drawn_inputs(model.spec)[0][0, 0], torch.zeros(2)):
        with pytest.raises(InputError, match=f"expected (numbers|pictures) {wanted}; found float32"):
            model(x)


@pytest.mark.parametrize("name", ["sic_nano", "nprf_vit_nano"])
def test_a_picture_smaller_than_a_kernel_is_refused(name: str) -> None:
    model: Any = zoo.create(name)
    channels, size = model.spec.input.channels, model.spec.input.size
    with pytest.raises(InputError, match=f"expected larger pictures, such as its own of {size} x {size}; found 1 x 1"):
        model(torch.zeros(1, channels, 1, 1))


def test_what_fails_for_another_reason_stays_as_it_is(net: Any) -> None:
    class Broken(Exception):
        pass

    def fail(*_: Any) -> None:
        raise Broken

    handle = net.stages[0].register_forward_hook(fail)
    with pytest.raises(Broken):
        net(X)
    handle.remove()
    handle = net.stages[0].register_forward_hook(lambda *_: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        net(X)
    handle.remove()


@pytest.mark.parametrize("indices", [0, 99, 2.5, "x", [], [0.5], ["x"], [99], True, [True]], ids=str)
def test_levels_that_are_none_are_refused(net: Any, indices: Any) -> None:
    with pytest.raises(InputError, match="expected the number of last levels, 1 to"):
        net.forward_intermediates(X, indices=indices)
    if not isinstance(indices, bool):
        with pytest.raises(InputError, match="expected the number of last levels, 1 to|feature levels"):
            zoo.create("starnet_nano", features_only=True, out_indices=indices)


def test_numbers_of_numpy_name_levels(net: Any) -> None:
    for foreign, own in ((np.int64(1), 1), ([np.int64(0)], [0]), (np.array([0, -1]), [0, -1])):
        found, expected = (net.forward_intermediates(X, indices=one, intermediates_only=True) for one in (foreign, own))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["squeezeformer_nano", "efficienttdnn_nano", "lmuformer_nano"])
def test_a_batch_of_no_samples_has_the_shape_of_any_other(name: str) -> None:
    model: Any = zoo.create(name)
    x = drawn_inputs(model.spec, 2)[0]
    assert tuple(model(x[:0]).shape) == (0, *model(x).shape[1:])


BESIDE: dict[str, tuple[Any, str]] = {
    "an array": (
        np.zeros(2, np.float32),
        r"log_snr\n    expected a tensor of numbers \(2\); found `ndarray`; next: `torch.as_tensor",
    ),
    "a number": (0.5, "log_snr\n    expected a tensor of numbers .* found `float`"),
    "another batch": (torch.zeros(3), r"log_snr\n    expected numbers \(2\); found float32 \(3,\)"),
    "more axes": (torch.zeros(2, 5, 5), r"log_snr\n    expected numbers \(2\); found float32 \(2, 5, 5\)"),
    "wide": (
        torch.zeros(2, dtype=torch.float64),
        r"log_snr\n    expected numbers \(2\) in float32, as the model is; found float64",
    ),
    "elsewhere": (
        torch.zeros(2, device="meta"),
        "log_snr\n    expected an input on `cpu`, where the model is; found `meta`",
    ),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_is_no_input_beside_the_first_is_refused_by_its_name(kind: str) -> None:
    model: Any = zoo.create("dimr_nano")
    x, _, y = drawn_inputs(model.spec, 2)
    given, words = BESIDE[kind]
    with pytest.raises(InputError, match=words):
        model(x, given, y)


@torch.no_grad()
def test_masks_of_ones_and_zeros_are_those_of_truths() -> None:
    model: Any = zoo.create("gla_nano")
    ids = torch.arange(12).view(2, 6)
    mask = torch.tensor([[False] * 2 + [True] * 4, [True] * 6])
    expected = model(ids, mask=mask).logits
    for given in (mask.long(), mask.float(), mask.numpy(), mask.tolist()):
        assert torch.equal(model(ids, mask=given).logits, expected)
        assert torch.equal(model.next_logits(ids, {}, given).logits, model.next_logits(ids, {}, mask).logits)
    for wrong in (mask[:1], mask[:, :5], mask[0], mask * 0.5, "mask", [[True], [True, False]]):
        with pytest.raises(
            InputError, match=r"expected truths, or ones and zeros, of the shape of the tokens, \(2, 6\)"
        ):
            model(ids, mask=wrong)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gla_nano", "llama_nano", "entropy_guided_nano"])
def test_a_state_of_other_sequences_is_refused(name: str) -> None:
    model: Any = zoo.create(name)
    ids = torch.arange(12).view(2, 6)
    state = model(ids, state={}).state
    with pytest.raises(InputError, match="expected the state of 1 sequences, as there are now; found one of 2"):
        model(ids[:1], state=state)
    with pytest.raises(InputError, match="expected what a prediction before it has as `state`.*found `list`"):
        model(ids, state=[1])


@pytest.mark.parametrize(
    ("name", "wanted"), [("tensornet_nano", r"numbers \(\d+, 3\)"), ("gamba_nano", r"numbers \(batch, 16, 64\)")]
)
def test_numbers_of_another_width_are_refused(name: str, wanted: str) -> None:
    model: Any = zoo.create(name)
    x, *others = drawn_inputs(model.spec, 2)
    for wrong in (x[..., :-1], x[0]):
        with pytest.raises(InputError, match=f"expected {wanted}; found float32"):
            model(wrong, *others)
    if others:
        with pytest.raises(InputError, match="expected .*numbers"):
            model(x, *[each[:-1] for each in others])


def test_places_before_the_first_are_refused() -> None:
    model: Any = zoo.create("tensornet_nano")
    *others, batch = drawn_inputs(model.spec)
    with pytest.raises(InputError, match="batch\n    expected whole numbers from 0 on; found -1 among them"):
        model(*others, torch.zeros_like(batch) - 1)
