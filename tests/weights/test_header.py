"""A safetensors header is read and judged by us before the safetensors library sees the file."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import WeightsError
from zoo.weights.header import MAX_HEADER_BYTES, TensorInfo, check_header, read_header

TENSORS = {"a.weight": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64), "empty": torch.zeros(0, 5)}
GOOD = safetensors.torch.save(TENSORS, metadata={"format": "pt"})


def packed(header: dict | str, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape=(1,), offsets=(0, 4), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refusal(data: bytes) -> str:
    with pytest.raises(WeightsError) as caught:
        read_header(data, "net")
    first, *rest = str(caught.value).splitlines()
    assert first == "net: not a sound safetensors file; nothing was loaded"
    return " | ".join(" ".join(line.split()) for line in rest)


def test_names_shapes_dtypes_and_metadata_are_read():
    header = read_header(GOOD)
    assert {name: (info.shape, info.dtype) for name, info in header.tensors.items()} == {
        "a.weight": ((2, 3), "float32"),
        "b": ((4,), "int64"),
        "empty": ((0, 5), "float32"),
    }
    assert header.metadata == {"format": "pt"}


def test_a_file_reads_as_its_bytes(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(GOOD)
    assert read_header(path) == read_header(GOOD)


TWICE = '{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'

BAD = {
    "seven bytes": (b"1234567", "expected a file of at least 8 bytes | found 7 bytes"),
    "a giant header": (
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little"),
        "where header | expected at most 16,777,216 bytes | found a length of 16,777,217 bytes",
    ),
    "a cut header": (
        GOOD[:40],
        f"where header | expected {len(GOOD) - 8 - 56:,} bytes of header | found a file that ends after 40 bytes",
    ),
    "a cut file": (GOOD[:-1], "where data | expected 56 bytes, as the header says | found 55 bytes"),
    "a longer file": (GOOD + b"x", "where data | expected 56 bytes, as the header says | found 57 bytes"),
    "a pickle": (b"\2\0\0\0\0\0\0\0\x80\x02", r"where header | expected JSON that starts with `{` | found '\x80\x02'"),
    "broken JSON": (packed("{"), "where header | expected JSON | found text that is not JSON"),
    "deep JSON": (packed('{"a":' * 9999), "where header | expected JSON | found text that is not JSON"),
    "a name twice": (packed(TWICE, b"1234"), "where header | expected each name once | found `a` twice"),
    "a line break in a name": (packed({"a\nb": entry()}), r"where header | expected printable names | found 'a\nb'"),
    "an entry that is a list": (packed({"a": []}), "where a | expected a JSON object | found list"),
    "an unknown key": (
        packed({"a": entry() | {"x": 1}}),
        "where a | expected `data_offsets`, `dtype` and `shape` | found `data_offsets`, `dtype`, `shape`, `x`",
    ),
    "a negative size": (
        packed({"a": entry(shape=[-1])}),
        "where a: shape | expected at most 32 sizes >= 0 | found [-1]",
    ),
    "a truth value as size": (
        packed({"a": entry(shape=[True])}),
        "where a: shape | expected at most 32 sizes >= 0 | found [True]",
    ),
    "another span": (
        packed({"a": entry(shape=[2])}),
        "where a: data_offsets | expected 8 bytes for float32 (2,) | found 4 bytes",
    ),
    "a span backwards": (
        packed({"a": entry(offsets=[4, 0])}),
        "where a: data_offsets | expected start <= end | found [4, 0]",
    ),
    "an overlap": (
        packed({"a": entry(), "b": entry()}, b"1234"),
        "where b: data_offsets | expected a start at byte 4, where the last tensor ends | found 0",
    ),
    "a gap": (
        packed({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)),
        "where b: data_offsets | expected a start at byte 4, where the last tensor ends | found 8",
    ),
    "metadata that is no text": (
        packed({"__metadata__": {"a": 1}}),
        "where __metadata__ | expected an object of strings | found another value in it",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_an_unsound_header_is_refused_with_its_reason(data, message):
    assert refusal(data) == message


def test_an_unknown_dtype_lists_the_known_ones():
    assert refusal(packed({"a": entry(dtype="F31")})).startswith("where a: dtype | expected one of BOOL, U8, ")


def test_safetensors_itself_would_accept_a_name_twice():
    assert list(safetensors.torch.load(packed(TWICE, b"1234"))) == ["a"]


def test_too_many_tensors_are_refused():
    names = {f"t{i}": entry(shape=[0], offsets=[0, 0]) for i in range(100_001)}
    assert refusal(packed(names)) == "where header | expected at most 100,000 tensors | found 100,001"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError) as caught:
        read_header(tmp_path / "gone.safetensors")
    assert str(caught.value) == (
        "gone.safetensors: the file cannot be read; nothing was loaded\n"
        f"  where     {tmp_path}/gone.safetensors\n  found     No such file or directory"
    )


def test_a_folder_is_named(tmp_path):
    with pytest.raises(WeightsError, match="expected  a file\n  found     a folder"):
        read_header(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_only_our_error(data):
    with contextlib.suppress(WeightsError):
        read_header(data)


def test_mutated_files_give_only_our_error_and_what_we_accept_loads():
    rng = random.Random(0)
    accepted = 0
    for _ in range(20_000):
        data = bytearray(GOOD)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            action = rng.random()
            if action < 0.6:
                data[place] = (
                    rng.choice(b'0123456789{}[]",:-.eaFI\x00\xff') if rng.random() < 0.7 else rng.randrange(256)
                )
            elif action < 0.8:
                del data[place]
            else:
                data.insert(place, rng.choice(b'0123456789{}[]",: '))
        try:
            header = read_header(bytes(data))
        except WeightsError:
            continue
        accepted += 1
        loaded = safetensors.torch.load(bytes(data))
        assert {name: tuple(t.shape) for name, t in loaded.items()} == {n: i.shape for n, i in header.tensors.items()}
    assert accepted > 100  # a changed value, name or padding is still a sound file


def test_every_difference_is_named_at_once_with_the_nearest_name():
    expected = {"head.weight": ((10, 4), torch.float32), "norm.bias": ((4,), "float32"), "b": ((4,), torch.float32)}
    found = read_header(
        safetensors.torch.save(
            {"head.wieght": torch.ones(10, 4), "norm.bias": torch.ones(5), "b": torch.ones(4).half()}
        )
    )
    with pytest.raises(WeightsError) as caught:
        check_header(found, expected, "net.tag")
    assert str(caught.value) == (
        "net.tag: 4 errors; nothing was loaded\n"
        "  head.weight\n"
        "    expected float32 (10, 4); found none; nearest `head.wieght`\n"
        "  head.wieght\n"
        "    a tensor that the model does not have; nearest `head.weight`\n"
        "  norm.bias\n"
        "    expected float32 (4,); found float32 (5,)\n"
        "  b\n"
        "    expected float32 (4,); found float16 (4,)"
    )


def test_the_text_shows_twelve_problems_and_counts_the_rest():
    with pytest.raises(WeightsError) as caught:
        check_header(read_header(packed({})), {f"w{i}": ((1,), "float32") for i in range(30)}, "net")
    lines = str(caught.value).splitlines()
    assert lines[0] == "net: 30 errors; nothing was loaded"
    assert len(lines) == 1 + 2 * 12 + 1
    assert lines[-1] == "  and 18 more"
    assert len(caught.value.problems) == 30


def test_of_tied_names_one_is_enough():
    header = read_header(GOOD)
    expected = {name: (info.shape, info.dtype) for name, info in header.tensors.items()}
    check_header(header, expected | {"b2": expected["b"]}, "net", ties=[["b", "b2"]])


def test_infos_are_values():
    assert read_header(GOOD).tensors["b"] == TensorInfo("int64", (4,), 0, 32)
