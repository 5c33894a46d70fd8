"""A deployed model says what the train form says in float64, in every runtime, to any number of callers."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runtimes.conftest import ALL, QUICK, Deploy, error_of, net_of, truth
from zoo.errors import InputError
from zoo.runtimes import registered

ROUNDING = 2e-5


@pytest.mark.parametrize("runtime", ALL)
def test_outputs_are_those_of_the_train_form(deploy: Deploy, runtime: str, pictures: Tensor) -> None:
    net = net_of()
    model = deploy(net, runtime)
    for x in (pictures[:1], pictures) if model.signature.is_dynamic else (pictures[:1],):
        assert error_of(model(x), truth(net, x)) < ROUNDING


@pytest.mark.parametrize("runtime", QUICK)
def test_a_convolutional_net_takes_any_batch_and_any_size(deploy: Deploy, runtime: str) -> None:
    net = net_of()
    model = deploy(net, runtime)
    assert model.signature.inputs[0].shape == (None, 1, None, None)
    x = torch.randn(2, 1, 48, 40)
    assert error_of(model(x), truth(net, x)) < ROUNDING


@pytest.mark.parametrize("runtime", ("onnxruntime", "openvino"))
def test_a_graph_that_holds_sizes_of_its_example_is_written_again_for_fewer(
    deploy: Deploy, runtime: str, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = net_of("hourglass_nano")
    plain = type(net).forward

    def forward(self: Any, x: Tensor) -> Any:
        return plain(self, x) * float(x.shape[-1])  # a number that a trace takes for a constant

    monkeypatch.setattr(type(net), "forward", forward)
    model = deploy(net, runtime)
    assert model.signature.inputs[0].shape == (None, 1, 32, 32)
    assert error_of(model(pictures), truth(net, pictures)) < ROUNDING


@pytest.mark.parametrize("runtime", QUICK)
def test_a_net_of_one_size_takes_any_batch_and_refuses_other_sizes_with_those_that_work(
    deploy: Deploy, runtime: str
) -> None:
    net = net_of("gmlp_nano")
    model = deploy(net, runtime)
    x = torch.randn(4, 1, 32, 32)
    assert error_of(model(x), truth(net, x)) < ROUNDING
    with pytest.raises(InputError, match=r"expected a tensor of shape \(any, 1, 32, 32\); found \(1, 1, 64, 64\)"):
        model(torch.randn(1, 1, 64, 64))


@pytest.mark.parametrize("runtime", ALL)
def test_features_only_gives_the_list_of_maps(deploy: Deploy, runtime: str, pictures: Tensor) -> None:
    net = net_of(features_only=True)
    maps, wanted = deploy(net, runtime)(pictures[:1]), truth(net, pictures[:1])
    assert isinstance(maps, list) and len(maps) == len(wanted)
    assert all(error_of(y, z) < ROUNDING for y, z in zip(maps, wanted, strict=True))


@pytest.mark.parametrize("runtime", ALL)
def test_eight_threads_at_once_each_get_their_own_answers(deploy: Deploy, runtime: str) -> None:
    net = net_of()
    model = deploy(net, runtime)
    inputs = [torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    wanted = [truth(net, x) for x in inputs]
    barrier = threading.Barrier(8)

    def calls(number: int) -> list[float]:
        barrier.wait()
        return [error_of(model(inputs[number]), wanted[number]) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        assert max(error for errors in pool.map(calls, range(8)) for error in errors) < ROUNDING


def test_models_of_several_runtimes_run_side_by_side(deploy: Deploy, pictures: Tensor) -> None:
    nets = [net_of(), net_of("mobilenetv4_nano")]
    models = [(net, deploy(net, runtime)) for net in nets for runtime in QUICK]
    for _ in range(2):
        for net, model in models:
            assert error_of(model(pictures), truth(net, pictures)) < ROUNDING


@pytest.mark.parametrize("runtime", QUICK)
def test_outputs_are_the_callers_own(deploy: Deploy, runtime: str, pictures: Tensor) -> None:
    model = deploy(net_of(), runtime)
    first = model(pictures[:1])
    kept = first.clone()
    model(pictures[1:2])
    assert torch.equal(first, kept)
    first += 1  # a tensor like any other
    assert torch.equal(model(pictures[:1]), kept)


@pytest.mark.parametrize("runtime", ("torch", "openvino"))
def test_bfloat16_is_near_where_the_machine_computes_in_it(deploy: Deploy, runtime: str, pictures: Tensor) -> None:
    if "bfloat16" not in registered.find_runtime(runtime).precisions():
        pytest.skip("this CPU has no instructions for bfloat16")
    net = net_of()
    model = deploy(net, runtime, "bfloat16")
    y = model(pictures)
    assert y.dtype == torch.float32 and 1e-6 < error_of(y, truth(net, pictures)) < 0.05


@pytest.mark.parametrize("runtime", QUICK)
def test_the_callers_number_of_threads_stays(deploy: Deploy, runtime: str, pictures: Tensor) -> None:
    before = torch.get_num_threads()
    deploy(net_of(), runtime, threads=before + 1)(pictures)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (
            [1.0],
            "x\n    expected a tensor (any, 1, any, any); found a list; next: `zoo.transform(deployed)` makes them of pictures",
        ),
        (torch.zeros(1, 1, 32, 32).numpy(), "found a ndarray; next: torch.as_tensor(x)"),
        (torch.zeros(1, 1, 32, 32).double(), "expected dtype float32; found float64; next: x.to(torch.float32)"),
        (torch.zeros(1, 1, 32, 32, device="meta"), "expected a tensor on the CPU; found one on meta; next: x.cpu()"),
        (torch.zeros(1, 3, 32, 32), "expected a tensor of shape (any, 1, any, any); found (1, 3, 32, 32)"),
        (torch.zeros(0, 1, 32, 32), "expected a tensor of shape (any, 1, any, any); found (0, 1, 32, 32)"),
    ],
    ids=["list", "array", "dtype", "device", "shape", "empty"],
)
def test_an_input_that_does_not_fit_is_refused_in_a_sentence(deploy: Deploy, x: Any, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        deploy(net_of())(x)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("runtime", QUICK)
def test_a_size_at_which_nothing_is_left_to_compute_is_refused(deploy: Deploy, runtime: str) -> None:
    net = net_of("inceptionnext_nano")
    model = deploy(net, runtime)
    assert model.signature.inputs[0].words == "(any, 1, from 8, from 8)"
    x = torch.randn(1, 1, 8, 9)
    assert error_of(model(x), truth(net, x)) < ROUNDING
    with pytest.raises(
        InputError, match=r"expected a tensor of shape \(any, 1, from 8, from 8\); found \(1, 1, 7, 32\)"
    ):
        model(torch.zeros(1, 1, 7, 32))


def test_a_closed_model_says_so(deploy: Deploy, pictures: Tensor) -> None:
    model = deploy(net_of())
    with model:
        model(pictures)
    with pytest.raises(InputError, match="expected a deployed model that is open; found one that was closed"):
        model(pictures)


def test_gradients_stop_at_a_deployed_model(deploy: Deploy, pictures: Tensor) -> None:
    assert not deploy(net_of())(pictures.requires_grad_()).requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("runtime", QUICK)
def test_fifty_rounds_leave_neither_memory_nor_files_behind(deploy: Deploy, runtime: str, pictures: Tensor) -> None:
    net = net_of()

    def round_() -> None:
        model = deploy(net, runtime)
        model(pictures)
        model.close()

    def figures() -> tuple[float, int]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

    for _ in range(10):
        round_()
    memory, files = figures()
    for _ in range(50):
        round_()
    grown, more = figures()
    assert more <= files and grown - memory < 25, (memory, grown, files, more)
