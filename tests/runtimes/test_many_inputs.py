"""Models of several inputs, and of other inputs than one picture, deployed: all inputs go in by place or by name, checked alone and together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.runtimes.conftest import QUICK, Deploy, error_of, net_of, truth
from tests.runtimes.test_saving import run_without
from zoo.build.inputs import drawn_inputs
from zoo.cli import main
from zoo.errors import InputError
from zoo.exporting.ports import flat
from zoo.runtimes.answers import Pair, _errors
from zoo.runtimes.drawing import drawn
from zoo.runtimes.evidence import evidence_for
from zoo.runtimes.loading import load_deployed
from zoo.runtimes.net import signature_of

NAMES = ("lightningdit_nano", "dgmlp_nano", "ezaudio_nano", "lego_nano", "mode_nano")
OTHERS = ("lmuformer_nano", "efficienttdnn_nano", "movinet_nano")
"""Of one input that is no picture: series, spectrograms, clips."""


def inputs_of(name: str, batch: int = 1) -> tuple[Tensor, ...]:
    net: Any = net_of(name)
    return tuple(x.contiguous() for x in drawn_inputs(net.spec, batch, seed=3))


@pytest.mark.parametrize("runtime", QUICK)
@pytest.mark.parametrize("name", (*NAMES, *OTHERS))
def test_outputs_are_those_of_the_train_form(deploy: Deploy, name: str, runtime: str) -> None:
    model = deploy(net_of(name), runtime)
    assert len(model.signature.inputs) == len(inputs_of(name))
    for batch in (1, 2):
        x = inputs_of(name, batch)
        found, wanted = flat(model(*x)), flat(truth(net_of(name), *x))
        assert max(error_of(y, z) for y, z in zip(found, wanted, strict=True)) < 1e-4


@pytest.mark.parametrize("runtime", QUICK)
def test_points_without_samples_are_deployed(deploy: Deploy, runtime: str) -> None:
    model, x = deploy(net_of("swin3d_block_dense"), runtime), inputs_of("swin3d_block_dense")
    found, wanted = model(*x), truth(net_of("swin3d_block_dense"), *x)
    assert list(found) == list(wanted) and max(error_of(found[name], wanted[name]) for name in wanted) < 1e-4


def test_inputs_go_in_by_name_and_a_mask_may_be_left_out(deploy: Deploy) -> None:
    model, (x, t, context, x_mask, _) = deploy(net_of("ezaudio_nano")), inputs_of("ezaudio_nano", 2)
    whole = model(x, t, context, x_mask)
    assert torch.equal(model(x, context=context, timesteps=t), whole)
    hidden = torch.arange(x_mask.shape[1]).expand_as(x_mask) < 5
    assert not torch.equal(model(x, t, context, x_mask=hidden), whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"t": None}, "inputs\n    expected deployed(x, t, y); found no `t`"),
        ({"tt": torch.zeros(2)}, "expected deployed(x, t, y); found `tt`; nearest `t`"),
        ({"t": torch.zeros(3)}, "t\n    expected a tensor whose batch is 2, as that of `x`; found (3,)"),
        ({"y": torch.zeros(2)}, "y\n    expected dtype int64; found float32; next: y.to(torch.int64)"),
        ({"y": torch.full((2,), 5000)}, "y\n    expected numbers in [0, 11); found some in [5000, 5000]"),
        ({"y": [1, 2]}, "y\n    expected a tensor (any,); found a list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_a_sentence(
    deploy: Deploy, change: dict[str, Any], sentence: str
) -> None:
    model, (x, t, y) = deploy(net_of("lightningdit_nano")), inputs_of("lightningdit_nano", 2)
    with pytest.raises(InputError) as refusal:
        model(x, **({"t": t, "y": y} | change))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("runtime", QUICK)
def test_a_saved_folder_is_opened_and_runs_without_the_zoo(deploy: Deploy, runtime: str, tmp_path: Path) -> None:
    model, (x, t, y) = deploy(net_of("lightningdit_nano"), runtime), inputs_of("lightningdit_nano", 2)
    folder, wanted = model.save(tmp_path / "served"), truth(net_of("lightningdit_nano"), x, t, y)
    with load_deployed(folder) as again:
        assert error_of(again(x, t, y=y), wanted) < 1e-4
    np.savez(tmp_path / "x.npz", y=y.numpy(), x=x.numpy(), t=t.numpy())
    hidden = ("zoo", "blocks", *(("torch",) if runtime != "torch" else ()))
    done = run_without(hidden, folder / "run.py", tmp_path / "x.npz", "--out", tmp_path / "out.npz")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (found,) = np.load(tmp_path / "out.npz").values()
    assert error_of(torch.from_numpy(found), wanted) < 1e-4


def test_run_py_says_what_is_missing_and_what_does_not_go_together(deploy: Deploy, tmp_path: Path) -> None:
    folder = deploy(net_of("lightningdit_nano"), "onnxruntime").save(tmp_path / "served")
    x, t, y = (one.numpy() for one in inputs_of("lightningdit_nano", 2))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "few.npz", x=x, y=y)
    np.savez(tmp_path / "apart.npz", x=x, t=t[:1], y=y)
    done = run_without(
        ("zoo", "torch"), folder / "run.py", *(tmp_path / name for name in ("x.npy", "few.npz", "apart.npz"))
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 3
    assert "expected one INPUT.npz with all inputs, which numpy.savez('INPUT.npz', x=x, t=t, y=y) writes" in lines[0]
    assert lines[1].endswith("expected arrays of the names x, t, y; found no t")
    assert lines[2].endswith("t: expected an array whose batch is 2, as that of x; found (1,)")


def test_a_model_of_several_inputs_is_made_for_an_example_of_each() -> None:
    model: Any = net_of("dgmlp_nano")
    fast = zoo.deploy(model, "torch", example=[(2, 10, 16), (2, 10, 32)], threads=1)
    assert fast.report().chosen.error < 1e-4
    assert [one.example for one in fast.signature.inputs] == [(2, 10, 16), (2, 10, 32)]
    x = (torch.randn(3, 7, 16), torch.randn(3, 7, 32))
    torch.testing.assert_close(fast(*x), model(*x), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"expected a tensor, or a shape: \(1, .*\), for each of `x` or `edges`"):
        zoo.deploy(model, "torch", example=(1, 10, 16))


def test_a_loss_is_measured_on_all_inputs_and_all_outputs() -> None:
    model: Any = net_of("lightningdit_nano")
    signature = signature_of(model)
    parts = [inputs for inputs, _ in evidence_for(model, signature).batches(4)][:2]
    assert [x.shape[0] for x in parts[0]] == [4, 4, 4]
    assert not any(torch.equal(one, other) for one, other in zip(*parts, strict=True))
    one, two = torch.ones(2, 3), torch.ones(2, 5)
    errors = _errors(Pair((one, two), (one, two * torch.tensor([[1.0], [1.5]])), None), 2)
    assert errors.tolist() == [0.0, 0.5]
    assert _errors(Pair((one.flatten(), two), (one.flatten(), 1.5 * two), None), 2).tolist() == [0.5]


def test_data_of_yours_are_all_inputs() -> None:
    model: Any = net_of("lightningdit_nano")
    signature = signature_of(model)
    data = drawn(signature, 0, batch=600)
    evidence = evidence_for(model, signature, data)
    assert evidence.size == 600 and all(map(torch.equal, evidence.part(3, 5), [x[3:5] for x in data]))
    with pytest.raises(InputError, match=r"data\n    expected tensors \(any, 32, 8, 8\) and \(any,\) and \(any,\)"):
        evidence_for(model, signature, data[0])


def test_the_command_deploys_a_model_of_several_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    command = ["deploy", "dgmlp_nano", "--runtime", "onnxruntime", "--length", "12", "--out", str(tmp_path / "served")]
    assert main(command) == 0
    assert "dgmlp_nano runs in onnxruntime, float32" in capsys.readouterr().out
    assert main(["deploy", "dgmlp_nano", "--runtime", "torch", "--size", "32"]) == 2
    assert "--size expected a size that its input (1, 24, 16) has; found a height" in " ".join(
        capsys.readouterr().err.split()
    )
