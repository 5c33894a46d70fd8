"""Loading is strict: a checkpoint fits exactly and is finite, or it is refused by name and nothing changes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from zoo.errors import WeightsError
from zoo.weights.header import read_header
from zoo.weights.load import expected_header, load_state, read_tensors, save_weights, ties_of


class Net(nn.Module):
    """A parameter that is frozen, a persistent buffer and a buffer that is made, not loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.head.bias.requires_grad = False
        self.register_buffer("mean", torch.zeros(4))
        self.reset_buffers()

    def reset_buffers(self) -> None:
        self.register_buffer("index", torch.arange(4.0), persistent=False)

    def forward(self, x):
        return self.head(self.fc(x) + self.mean + self.index)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.lm_head = nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, x):
        return self.lm_head(self.embed(x))


def meta(kind: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return kind()


@pytest.fixture
def trained() -> Net:
    torch.manual_seed(0)
    return Net()


def refusal(tensors: dict[str, torch.Tensor], **options) -> str:
    model = meta(Net)
    with pytest.raises(WeightsError) as caught:
        load_state(model, tensors, "net.tag", **options)
    assert all(tensor.is_meta for tensor in model.state_dict().values()), "something was loaded"
    return str(caught.value)


def test_a_model_built_on_meta_and_loaded_equals_the_saved_one(trained, tmp_path):
    save_weights(trained, tmp_path / "net.safetensors")
    model = meta(Net)
    load_state(model, read_tensors(tmp_path / "net.safetensors"), "net.tag")
    x = torch.randn(2, 3)
    assert torch.equal(model(x), trained(x))
    assert torch.equal(model.index, trained.index)


def test_requires_grad_stays_as_the_model_had_it(trained):
    model = meta(Net)
    load_state(model, trained.state_dict(), "net.tag")
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert isinstance(model.fc.weight, nn.Parameter) and model.fc.weight.is_leaf


def test_a_missing_tensor_is_named(trained):
    tensors = trained.state_dict()
    del tensors["fc.bias"]
    assert refusal(tensors) == "net.tag: 1 error; nothing was loaded\n  fc.bias\n    expected float32 (4,); found none"


def test_an_extra_tensor_is_named(trained):
    tensors = trained.state_dict() | {"extra": torch.ones(1)}
    assert refusal(tensors) == (
        "net.tag: 1 error; nothing was loaded\n  extra\n    a tensor that the model does not have"
    )


def test_a_renamed_tensor_is_named_on_both_sides(trained):
    tensors = dict(trained.state_dict())
    tensors["fc.wieght"] = tensors.pop("fc.weight")
    assert refusal(tensors) == (
        "net.tag: 2 errors; nothing was loaded\n"
        "  fc.weight\n    expected float32 (4, 3); found none; nearest `fc.wieght`\n"
        "  fc.wieght\n    a tensor that the model does not have; nearest `fc.weight`"
    )


def test_a_wrongly_shaped_tensor_is_named(trained):
    tensors = trained.state_dict() | {"fc.weight": torch.ones(3, 4)}
    assert refusal(tensors) == (
        "net.tag: 1 error; nothing was loaded\n  fc.weight\n    expected float32 (4, 3); found float32 (3, 4)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_with_a_value_that_is_not_finite_is_named(trained, value):
    tensors = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    tensors["head.weight"][1, 2] = value
    assert refusal(tensors) == (
        "net.tag: 1 error; nothing was loaded\n"
        "  head.weight\n    expected finite values; found 1 NaN or infinite, the first at (1, 2)"
    )


def test_a_tensor_twice_in_the_file_is_named(trained, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(trained, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = data[8 : 8 + length].replace(b'"mean"', b'"fc.bias"').rstrip()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
    with pytest.raises(WeightsError) as caught:
        read_tensors(path, "net.tag")
    assert str(caught.value) == (
        "net.tag: not a sound safetensors file; nothing was loaded\n"
        f"  where     {path}: header\n  expected  each name once\n  found     `fc.bias` twice"
    )


def test_another_float_dtype_is_refused_unless_asked_for(trained):
    half = {name: tensor.half() for name, tensor in trained.state_dict().items()}
    assert "expected float32 (4, 3); found float16 (4, 3)" in refusal(half)
    model = meta(Net)
    load_state(model, half, "net.tag", dtype=torch.float32)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_a_dtype_converts_parameters_and_all_buffers(trained):
    model = meta(Net)
    load_state(model, trained.state_dict(), "net.tag", dtype=torch.bfloat16)
    assert {t.dtype for t in (*model.parameters(), *model.buffers())} == {torch.bfloat16}


def test_an_integer_tensor_is_never_converted(trained):
    tensors = trained.state_dict() | {"mean": torch.zeros(4, dtype=torch.int64)}
    assert "  mean\n    expected float32 (4,); found int64 (4,)" in refusal(tensors, dtype=torch.float32)


def test_a_value_that_the_dtype_cannot_hold_is_named(trained):
    tensors = trained.state_dict() | {"mean": torch.tensor([0.0, 1e6, 0.0, 0.0])}
    assert refusal(tensors, dtype=torch.float16).endswith(
        "  mean\n    expected finite values in float16; found 1 NaN or infinite, the first at (1,)"
    )


def test_a_tensor_on_meta_is_no_value(trained):
    tensors = trained.state_dict() | {"mean": torch.zeros(4, device="meta")}
    assert refusal(tensors).endswith("  mean\n    expected values; found none: the tensor is on meta")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda old: old.to_sparse(), "a sparse tensor (sparse_coo)"),
        (lambda old: torch.quantize_per_tensor(old, 0.1, 0, torch.qint8), "a quantised tensor (qint8)"),
        (lambda old: old.as_subclass(type("Odd", (torch.Tensor,), {})), "a tensor of class Odd"),
        (lambda old: torch.nested.nested_tensor([old, old[:2]], layout=torch.jagged), "a nested tensor"),
        (lambda old: 3, "a value of type int"),
        (lambda old: {}, "a mapping of 0 entries"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_not_plain_and_dense_is_named(trained, change, found):
    assert refusal(trained.state_dict() | {"fc.bias": change(torch.ones(4))}).endswith(f"found {found}")


def test_complex_values_are_another_dtype(trained):
    tensors = trained.state_dict() | {"mean": torch.zeros(4, dtype=torch.complex64)}
    assert refusal(tensors, dtype=torch.float32).endswith("mean\n    expected float32 (4,); found complex64 (4,)")


def test_values_of_a_tensor_that_does_not_fit_are_not_looked_at(trained):
    endless = trained.state_dict() | {"mean": torch.zeros(1).expand(10**12), "fc.bias": torch.full((4,), float("nan"))}
    assert refusal(endless) == (
        "net.tag: 2 errors; nothing was loaded\n  mean\n    expected float32 (4,); found float32 (1000000000000,)\n"
        "  fc.bias\n    expected finite values; found 4 NaN or infinite, the first at (0,)"
    )


def test_one_value_seen_many_times_becomes_as_many_values(trained):
    model = meta(Net)
    load_state(model, trained.state_dict() | {"fc.bias": torch.ones(1).expand(4)}, "net.tag")
    with torch.no_grad():
        model.fc.bias[0] += 1
    assert model.fc.bias.tolist() == [2.0, 1.0, 1.0, 1.0]


def test_tensors_stay_as_they_were_when_their_file_changes(trained, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(trained, path)
    tensors = read_tensors(path)
    path.write_bytes(b"\1" * 8)
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in tensors.items())


class Forgetful(Net):
    def reset_buffers(self) -> None:
        if not hasattr(self, "index"):
            self.register_buffer("index", torch.arange(4.0), persistent=False)


def test_a_buffer_that_nothing_makes_is_named_and_nothing_stays_loaded(trained):
    model = meta(Forgetful)
    with pytest.raises(WeightsError) as caught:
        load_state(model, trained.state_dict(), "net.tag")
    assert str(caught.value) == (
        "net.tag: 1 error; nothing was loaded\n"
        "  index\n    expected values made by `reset_buffers()` of its module; found none: the buffer is on meta"
    )
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_kept_names_keep_the_values_of_the_model(trained):
    torch.manual_seed(1)
    model = Net()
    own = model.head.weight.detach().clone()
    tensors = {name: tensor for name, tensor in trained.state_dict().items() if name != "head.weight"}
    load_state(model, tensors, "net.tag", keep=["head.weight"])
    assert torch.equal(model.head.weight, own)
    assert torch.equal(model.fc.weight, trained.fc.weight)


def test_a_kept_name_without_values_is_named(trained):
    assert "head.weight\n    expected values to keep; found none: the tensor is on meta" in refusal(
        trained.state_dict(), keep=["head.weight"]
    )


def test_a_tie_is_saved_once_and_loads_as_a_tie(tmp_path):
    model = Tied()
    save_weights(model, tmp_path / "tied.safetensors")
    assert list(read_header(tmp_path / "tied.safetensors").tensors) == ["embed.weight"]
    again = meta(Tied)
    load_state(again, read_tensors(tmp_path / "tied.safetensors"), "tied")
    assert again.lm_head.weight is again.embed.weight
    assert torch.equal(again.embed.weight, model.embed.weight)
    assert ties_of(again) == [["embed.weight", "lm_head.weight"]]


def test_tied_names_with_other_values_are_refused():
    with pytest.raises(WeightsError) as caught:
        load_state(meta(Tied), {"embed.weight": torch.ones(5, 3), "lm_head.weight": torch.zeros(5, 3)}, "tied")
    assert str(caught.value).endswith(
        "  lm_head.weight\n    expected the values of `embed.weight`, with which it is shared; found other values"
    )


def test_slices_of_one_tensor_and_strided_tensors_are_saved(tmp_path):
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.randn(4, 4).T)
    model.register_buffer("view", model.weight.detach()[1])
    save_weights(model, tmp_path / "m.safetensors")
    assert torch.equal(read_tensors(tmp_path / "m.safetensors")["view"], model.weight[1])


def test_saving_twice_gives_the_same_bytes(trained, tmp_path):
    for name in ("a", "b"):
        save_weights(trained, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_saved_file_may_be_read_by_whom_any_new_file_may(trained, tmp_path):
    (tmp_path / "any").touch()
    save_weights(trained, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


FULL_DISK = """
import resource, sys, torch
from zoo.errors import WeightsError
from zoo.weights.load import save_weights
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    save_weights(torch.nn.Linear(100, 100), sys.argv[1])
except WeightsError as error:
    print(str(error).splitlines()[0])
"""


def test_a_disk_that_is_full_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    run = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    assert run.stdout == "net.safetensors: the weights cannot be written\n", run.stderr
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_no_draft(trained, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        save_weights(trained, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_expected_header_is_that_of_the_state_dict():
    assert expected_header(meta(Net))["fc.weight"] == ((4, 3), torch.float32)
    assert "index" not in expected_header(meta(Net))


def test_any_edit_of_one_key_is_refused(trained):
    state = trained.state_dict()
    for name in state:
        edits = [{name + "x": state[name]}, {}, {name: state[name][..., :-1]}, {name: state[name].double()}]
        for edit in edits:
            rest = {other: tensor for other, tensor in state.items() if other != name}
            assert name in refusal(rest | edit)
