"""From a manifest to a verified path; from a user's own file to its tensors."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile

import msgspec
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

import zoo
from zoo.artifacts import lockfile as locks
from zoo.errors import WeightsError
from zoo.weights import source
from zoo.weights.manifest import Manifest
from zoo.weights.source import open_checkpoint, path_of

DATA = safetensors.torch.save({"w": torch.arange(3.0)})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def manifest(source: str, state: str) -> Manifest:
    return Manifest(
        model="net",
        tag="digits",
        digest="0" * 64,
        source=source,
        state=state,
        size_bytes=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        licence="Apache-2.0",
        licence_class="permissive",
        origin="a test",
    )


def test_an_embedded_file_stands_beside_its_manifest(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.safetensors").write_bytes(DATA)
    path = path_of(manifest("embedded:weights/net.safetensors", "embedded"), tmp_path)
    assert path == tmp_path / "weights" / "net.safetensors"


def test_a_link_out_of_the_package_is_refused(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "net.safetensors").write_bytes(DATA)
    os.symlink(tmp_path / "net.safetensors", tmp_path / "package" / "net.safetensors")
    with pytest.raises(WeightsError, match="the file lies outside the package; nothing was loaded"):
        path_of(manifest("embedded:net.safetensors", "embedded"), tmp_path / "package")


@pytest.mark.parametrize("relative", [True, False])
def test_a_file_source_may_be_relative_or_absolute(tmp_path, relative):
    (tmp_path / "net.safetensors").write_bytes(DATA)
    source = "file:net.safetensors" if relative else f"file:{tmp_path}/net.safetensors"
    assert path_of(manifest(source, "pinned"), tmp_path).read_bytes() == DATA


def test_changed_bytes_are_refused(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(DATA[:-1] + b"x")
    with pytest.raises(
        WeightsError, match="next      restore the file; if the change is meant, write its manifest anew"
    ):
        path_of(manifest("file:net.safetensors", "pinned"), tmp_path)


def test_a_source_on_the_network_says_what_to_do_now(tmp_path):
    with pytest.raises(WeightsError) as caught:
        path_of(manifest("hub:org/net/model.safetensors", "pinned"), tmp_path)
    assert str(caught.value) == (
        "net.digits: these weights are not on this machine; nothing was loaded\n"
        "  where     hub:org/net/model.safetensors\n"
        "  next      `zoo pin net.digits` fetches and proves them"
    )


def test_a_mapping_is_its_own_checkpoint():
    assert list(open_checkpoint({"w": torch.ones(1)})) == ["w"]


def test_a_safetensors_file_opens(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(DATA)
    assert torch.equal(open_checkpoint(tmp_path / "a.safetensors")["w"], torch.arange(3.0))


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.pth.tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_save_opens(tmp_path, name, zipped):
    data = {"state_dict": {"w": torch.arange(3.0)}, "epoch": 3}
    torch.save(data, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert torch.equal(open_checkpoint(tmp_path / name)["state_dict"]["w"], torch.arange(3.0))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_runs_code_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(tmp_path / "a.pth", "net")
    message = str(caught.value)
    assert message.startswith("net: the pickle was refused; nothing was loaded\n")
    assert "posix.system" in message and "weights_only" not in message
    assert not (tmp_path / "exploded").exists()


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(DATA)
    real = source.read_tensors.__globals__["read_header"]
    monkeypatch.setitem(
        source.read_tensors.__globals__,
        "read_header",
        lambda file, subject: (path.write_bytes(DATA), real(file, subject))[1],
    )
    time.sleep(0.02)
    with pytest.raises(WeightsError, match="net: the file was written to while it was read; nothing was loaded"):
        open_checkpoint(path, "net")


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A project whose lock names the file `named.safetensors` and no other."""
    (tmp_path / "named.safetensors").write_bytes(DATA)
    (tmp_path / "other.safetensors").write_bytes(safetensors.torch.save({"w": torch.ones(3)}))
    entry = locks.Locked(
        name="net.digits", digest="0" * 64, source="embedded:x", licence="MIT", files=(locks.File.of(tmp_path / "named.safetensors"),)
    )  # fmt: skip
    locks.write_lock([entry], tmp_path / "zoo.lock")
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    monkeypatch.setenv("ZOO_LOCKED", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "spelling", ["{}/other.safetensors", "~/other.safetensors", "other.safetensors", "link.safetensors"]
)
def test_a_lock_holds_for_every_spelling_of_a_path(locked, spelling):
    (locked / "link.safetensors").symlink_to(locked / "other.safetensors")
    with pytest.raises(WeightsError, match="because ZOO_LOCKED is set"):
        open_checkpoint(spelling.format(locked))
    assert "w" in open_checkpoint(spelling.format(locked).replace("other", "named").replace("link", "named"))


def test_a_lock_holds_for_each_file_of_an_index_and_for_pickles(locked):
    torch.save({"w": torch.ones(3)}, locked / "a.pth")
    index = locked / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "other.safetensors"}}))
    entry = next(iter(locks.entries().values()))
    with_index = msgspec.structs.replace(entry, files=(*entry.files, locks.File.of(index)))
    locks.write_lock([with_index], locked / "zoo.lock")
    for path in (index, locked / "a.pth"):
        with pytest.raises(WeightsError, match="because ZOO_LOCKED is set"):
            open_checkpoint(path)


def test_a_pickle_is_refused_by_a_torch_that_it_can_make_run_code(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu126")
    with pytest.raises(WeightsError, match=r"expected  torch >= 2\.10\n  found     torch 2\.9\.1\+cu126"):
        open_checkpoint(tmp_path / "a.pth")


def packed(path, **records):
    """The file with its records deflated, or others in place of them."""
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(f"{path}.pth", "w", 0 if records else zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, records.get(info.filename.rpartition("/")[2].replace(".", "_"), old.read(info)))
    return f"{path}.pth"


def program(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (program(b"c__builtin__\nbytearray\n", b"J\xff\xff\xff\x7f", b"\x85R"), "a call of `builtins.bytearray`"),
        (program(b"c__builtin__\nset\n", b"]q\x00(", b"))\x86", b"e\x85R"), "a key of type tuple"),
        (program(b"}q\x00(", b"))\x86K\x01", b"u"), "a key of type tuple"),
        (program(b"ctorch\nFloatTensor\n", b"J\xff\xff\xff\x7f", b"\x85R"), "a call of `torch.FloatTensor`"),
        (program(b"cposix\nsystem\n", b"U\x04true", b"\x85R"), "`posix.system`"),
        (program(b"K\x01r\xff\xff\xff\xff"), "a value of type int"),  # 2^32 places of a memo
        (program(b"N" * 10), "a value of type NoneType"),
        (b"", "bytes that are no checkpoint"),
    ],
)
def test_a_program_that_asks_for_more_than_it_holds_is_refused_unrun(tmp_path, content, found):
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pth")
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=f"found     {found}"):
        open_checkpoint(packed(tmp_path / "a.pth", data_pkl=content))
    assert time.perf_counter() - start < 5


def test_a_packed_archive_is_refused(tmp_path):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="bytes packed into"):
        open_checkpoint(packed(tmp_path / "a.pth"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(1).expand(10**12), "1,000,000,000,000 values in 4 bytes"),
        (torch.ones(3).to_sparse(), "a sparse tensor"),
        (torch.zeros(3, device="meta"), "a tensor without values, on meta"),
    ],
)
def test_claims_of_a_pickle_are_named_before_torch_reads_it(tmp_path, tensor, found, zipped):
    data = {"epoch": 3, "state_dict": {"w": tensor}}
    torch.save(data, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=f"  state_dict.w\n    expected a plain dense tensor; found {found}"):
        open_checkpoint(tmp_path / "a.pth")


def test_views_and_ties_are_what_they_were(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    data = {"part": whole[1:, 1:3], "turned": whole.T, "tie": whole, "none": whole[:0], "one": whole[0, 0]}
    torch.save(data, tmp_path / "a.pth")
    found = open_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in data.items())


def test_a_file_of_a_training_opens_with_all_that_stands_beside_the_weights(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward(), optimiser.step()
    data = {
        "state_dict": net.state_dict(),
        "optimizer": optimiser.state_dict(),
        "args": {"lr": 1e-3, "betas": (0.9, 0.95), "tags": {"a"}},
    }
    torch.save(data, tmp_path / "a.pth")
    found = open_checkpoint(tmp_path / "a.pth")
    assert found["args"] == data["args"] and torch.equal(found["state_dict"]["weight"], net.weight)


def test_an_envelope_that_holds_itself_is_opened_so_many_times_and_refused(tmp_path):
    loop = {"epoch": 3}
    loop["state_dict"] = loop
    torch.save(loop, tmp_path / "a.pth")
    for names in ("zoo", "official"):
        with pytest.raises(WeightsError, match="state_dict\n    expected a tensor; found a mapping of 2 entries"):
            zoo.create("starnet_nano", weights=tmp_path / "a.pth", source=names)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(tmp_path / "a.pth", "net")
    assert str(caught.value) == (
        "net: the file cannot be read; nothing was loaded\n"
        f"  where     {tmp_path}/a.pth\n  expected  a file\n  found     no such file"
    )


def test_a_file_of_another_kind_lists_the_kinds(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(
        WeightsError,
        match=r"expected  \.safetensors, \.safetensors\.index\.json, or \.pth, \.pyth, \.pt, \.bin, \.tar, \.ckpt, \.torchparams written by torch.save",
    ):
        open_checkpoint(tmp_path / "a.onnx")


def test_a_cut_file_gives_our_error_at_every_length(tmp_path):
    for zipped in (True, False):
        torch.save({"w": torch.arange(100.0)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        data = (tmp_path / "a.pth").read_bytes()
        for length in range(0, len(data) - 1, 97):
            (tmp_path / "cut.pth").write_bytes(data[:length])
            with pytest.raises(WeightsError, match="nothing was loaded"):
                open_checkpoint(tmp_path / "cut.pth", "net")


def test_a_checkpoint_that_is_no_mapping_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="expected  a mapping of names to tensors\n  found     a value of type list"):
        open_checkpoint(tmp_path / "a.pt")


def sharded(folder, weight_map=None, **files):
    """An index of `files`, {name: tensors}, in a folder; returns its path."""
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    right = {key: f"{name}.safetensors" for name, tensors in files.items() for key in tensors}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": right if weight_map is None else weight_map}))
    return path


def test_a_checkpoint_in_several_files_opens_by_its_index(tmp_path):
    path = sharded(tmp_path, a={"w": torch.ones(2)}, b={"v": torch.zeros(1), "u": torch.ones(1)})
    tensors = open_checkpoint(path)
    assert sorted(tensors) == ["u", "v", "w"] and torch.equal(tensors["w"], torch.ones(2))


def test_everything_that_files_and_index_disagree_on_is_named(tmp_path):
    where = {"w": "a.safetensors", "gone": "a.safetensors", "x": "c.safetensors"}
    path = sharded(tmp_path, where, a={"w": torch.ones(2), "more": torch.ones(1)})
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(path, "net")
    assert [(one.where, one.expected, one.found) for one in caught.value.problems] == [
        ("gone", "a tensor in a.safetensors", "none"),
        ("more", "a tensor that the index names", "one more in a.safetensors"),
        ("c.safetensors", "a file beside the index", "no such file"),
    ]


@pytest.mark.parametrize(
    "content, found",
    [
        ("{", "Expecting property name"),
        ('{"weight_map": {}}', "another content"),
        ('{"weight_map": {"w": 3}}', "another content"),
        ('{"weight_map": {"w": "../a.safetensors"}}', "`../a.safetensors`, with a folder in it"),
        ('{"weight_map": {"w": "/etc/a.safetensors"}}', "a folder in it"),
        ('{"weight_map": {"w": "a.bin"}}', "`a.bin`"),
        (json.dumps({"weight_map": {"w": "con.safetensors"}}), "the name of a Windows device"),
        (json.dumps({"weight_map": {f"w{n}": f"{n}.safetensors" for n in range(1001)}}), "more"),
    ],
)
def test_an_index_that_cannot_be_used_is_a_sentence(tmp_path, content, found):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(path, "net")
    assert str(caught.value).startswith("net: the index cannot be used; nothing was loaded\n") and found in str(
        caught.value
    )


def test_the_one_checkpoint_of_a_folder_is_taken(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="the folder holds no checkpoint"):
        open_checkpoint(tmp_path, "net")
    save_file({"w": torch.arange(3.0)}, tmp_path / "model.safetensors")
    assert torch.equal(open_checkpoint(tmp_path)["w"], torch.arange(3.0))
    save_file({"w": torch.arange(3.0)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="more than one checkpoint"):
        open_checkpoint(tmp_path, "net")
