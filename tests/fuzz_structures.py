"""Weights, records, locks, rows and pickles that are sound but for what their own grammar lets go wrong: `python -m tests.fuzz_structures`.

Where `tests.fuzz` changes bytes and trees blindly, these mutators know what they change: offsets stay in step with each other while one is
moved, a pickle stays a program while its numbers, names and operations are exchanged, a record keeps its types while a value goes to its
bound. So most cases get past the first check. Only typed errors may come of them; what is accepted is held against a second reader.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import sys
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import safetensors
import torch
from safetensors.torch import save

import tests.fuzz as plain
from tests.fuzz import Target, command, fuzz
from tests.measure.rows import block_row
from zoo.artifacts.client import Reference
from zoo.artifacts.lock import lock
from zoo.artifacts.lockfile import Lock, read_lock
from zoo.artifacts.record import read_record
from zoo.measure.store import Store, read_rows, shipped_devices, shipped_rows
from zoo.weights.load import read_tensors
from zoo.weights.source import open_checkpoint

NUMBERS = [0, 1, -1, 2, 3, 7, 8, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
FLOATS = [0.0, -0.0, -1.0, 1e-300, 5e-324, 1e308, 1e16, 0.1, float("nan"), float("inf"), -float("inf")]
TEXTS = [
    "", " ", "a", "A", "é", "\x1b[31m", "a\nb", "\u202e", "..", "../x", "/x", "~", "con", "nul.x", "x" * 101, "x" * 5000, "0" * 64, "f" * 64,
    "F" * 64, "g" * 64, "2026-01-31", "2999-01-01", "0000-00-00", "embedded:x.safetensors", "file:model.safetensors", "file:~", "hub:a/b/c",
    "https://h/x", "https://[::1", "https://u:p@h/x", "pinned", "listed", "embedded", "saved", "clean", "train", "deploy", "float32", "zoo.json/2",
]  # fmt: skip
WORK = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


# numbers, texts and lists of a tree, each by its like


def like(rng: random.Random, value: Any) -> Any:
    """Another value of the same type, at a bound of it; now and then one of another type."""
    if rng.random() < 0.08:
        return rng.choice([None, True, 0, 0.5, "", [], {}])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([*NUMBERS, value + 1, value - 1, -value, value * 2])
    if isinstance(value, float):
        return rng.choice([*FLOATS, value * 1.0001, -value, value * 1e6])
    if isinstance(value, str):
        return rng.choice([*TEXTS, value[:-1], value + value[:1], value.upper(), value + "\0", value[::-1]])
    if isinstance(value, list):
        return rng.choice([[], value[:-1], value + value[:1], value[::-1], value * 50, [value]])
    if isinstance(value, dict):
        return {key: value[key] for key in list(value)[:-1]} if value else {"x": 1}
    return rng.choice([0, "", []])


def leaves(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        found.append((tree, key))
        if isinstance(tree[key], dict | list):
            leaves(tree[key], found)
    return found


def values_mutation(rng: random.Random, data: bytes) -> bytes:
    """One to three values at a bound; now and then a key that is renamed, lost, new, or twice."""
    tree = json.loads(data)
    places = leaves(tree, [])
    for _ in range(rng.randint(1, 3)):
        parent, key = rng.choice(places)
        try:
            change = rng.random()
            if change < 0.8 or not isinstance(parent, dict):
                parent[key] = like(rng, parent[key])
            elif change < 0.87:
                del parent[key]
            elif change < 0.94:
                parent[rng.choice(["x", "schema", key.upper(), "\x1b", "é"])] = parent[key]
            else:
                parent[key + "_"] = parent.pop(key)
        except (KeyError, IndexError):
            continue
    text = json.dumps(tree)
    if rng.random() < 0.05:
        key = json.dumps(rng.choice([key for parent, key in places if isinstance(parent, dict)]))
        text = text.replace(f"{key}:", f"{key}: 1, {key}:", 1)
    return text.encode("utf-8", "surrogatepass")


# headers


def layout_mutation(rng: random.Random, data: bytes) -> bytes:
    """A whole file anew: tensors of drawn shapes and dtypes, spans that follow each other, and at most two of these facts wrong."""
    dtypes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "C64": 8, "U16": 2}
    entries, end = {}, 0
    for place in range(rng.randint(0, 6)):
        dtype = rng.choice(list(dtypes))
        shape = [rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randint(0, 4))]
        count = dtypes[dtype]
        for size in shape:
            count *= size
        entries[f"layer.{place}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + count]}
        end += count
    names = list(entries)
    rng.shuffle(names)
    entries = {name: entries[name] for name in names}
    if rng.random() < 0.5:
        entries["__metadata__"] = {"format": "pt", rng.choice(["zoo.json", "x", ""]): rng.choice(TEXTS)}
    places = leaves(entries, [])
    for _ in range(rng.choice((0, 1, 1, 2)) if places else 0):
        parent, key = rng.choice(places)
        if isinstance(parent, list) and key < len(parent) and isinstance(parent[key], int):
            parent[key] = rng.choice([parent[key] + 1, parent[key] - 1, 0, 2**31, 2**62, 2**63, -1, 1.0, True])
        elif key in parent if isinstance(parent, dict) else key < len(parent):
            parent[key] = like(rng, parent[key])
    header = json.dumps(entries).encode("utf-8", "surrogatepass")
    header += b" " * rng.choice((0, -len(header) % 8, 1))
    told = len(header) + rng.choice((0, 0, 0, 0, 1, -1, 8))
    body = rng.randbytes(max(0, end + rng.choice((0, 0, 0, 0, 1, -1))))
    return max(0, told).to_bytes(8, "little") + header + body


def accept_file(data: bytes) -> None:
    """Read as we read it, and as the safetensors library does: the same bytes under the same names."""
    path = _file(data, "w.safetensors")
    found = read_tensors(path)
    for name, view in safetensors.deserialize(data):
        own = found.pop(name)
        assert list(own.shape) == view["shape"] and _bytes(own) == bytes(view["data"])
    assert not found


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


# pickles

GLOBALS = [
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_nested_tensor", "torch._utils _rebuild_qtensor", "torch FloatStorage",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_wrapper_subclass", "torch._tensor _rebuild_from_type_v2",
    "torch._utils _rebuild_device_tensor_from_numpy", "torch HalfStorage", "torch ByteStorage", "torch ComplexDoubleStorage", "torch Size",
    "torch.storage UntypedStorage", "torch.storage TypedStorage", "torch float16", "torch float64", "torch complex64", "torch Tensor",
    "torch FloatTensor", "torch device", "torch.nn.parameter Parameter", "collections OrderedDict", "collections Counter", "builtins set",
    "__builtin__ set", "builtins bytearray", "builtins complex", "_codecs encode", "torch.serialization _get_layout", "posix system",
    "builtins eval", "builtins getattr", "torch load", "torch.hub load", "numpy.core.multiarray _reconstruct", "argparse Namespace",
    "torch.jit._script unpackage_script_module", "os.path join", "pathlib Path", "torch._utils _rebuild_parameter_with_state",
]  # fmt: skip


def _sealed(op: pickletools.OpcodeInfo, argument: Any) -> bytes:
    """The bytes of one operation with another argument of its kind; b"" for kinds that the seeds do not use."""
    code = op.code.encode("latin1")
    if op.name in ("GLOBAL", "INST"):
        module, _, name = argument.partition(" ")
        return code + f"{module}\n{name}\n".encode()
    widths = {
        "BININT": 4,
        "BININT1": 1,
        "BININT2": 2,
        "BINGET": 1,
        "BINPUT": 1,
        "LONG_BINGET": 4,
        "LONG_BINPUT": 4,
        "PROTO": 1,
    }
    if op.name in widths:
        return code + (int(argument) % 2 ** (8 * widths[op.name])).to_bytes(widths[op.name], "little")
    if op.name == "LONG1":
        body = pickle.encode_long(int(argument))[:255]
        return code + bytes([len(body)]) + body
    if op.name in ("BINUNICODE",):
        body = str(argument).encode("utf-8", "surrogatepass")
        return code + len(body).to_bytes(4, "little") + body
    if op.name == "BINFLOAT":
        import struct

        return code + struct.pack(">d", float(argument))
    return code if argument is None else b""


def program_mutation(rng: random.Random, data: bytes) -> bytes:
    """The pickle of a checkpoint as a list of operations: arguments exchanged for their like, operations left out, doubled, moved, new."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    program = [(op, argument) for op, argument, _ in pickletools.genops(records[name])]
    plain_ops = [op for op in pickletools.opcodes if op.arg is None]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, change = rng.randrange(len(program)), rng.random()
        op, argument = program[at]
        if change < 0.6:
            at = rng.choice([place for place, (_, one) in enumerate(program) if one is not None])
            op, argument = program[at]
            if op.name == "GLOBAL":
                argument = rng.choice(GLOBALS)
            elif isinstance(argument, int):
                argument = rng.choice([*NUMBERS, argument + 1, argument - 1, rng.randrange(256)])
            elif isinstance(argument, str):
                argument = rng.choice([*TEXTS, "0", "1", "cpu", "cuda:0", "meta", "storage", "module", "sparse_coo"])
            program[at] = op, argument
            if op.name.startswith("BININT") and argument > 2**16:
                program[at] = pickletools.code2op["\x8a"], argument
        elif change < 0.7:
            del program[at]
        elif change < 0.8:
            program[at:at] = program[at : at + rng.randint(1, 8)]
        elif change < 0.87:
            program.insert(at, (rng.choice(plain_ops), None))
        elif change < 0.94:
            program[at:at] = [(pickletools.code2op["c"], rng.choice(GLOBALS)), *[(pickletools.code2op[code], None) for code in rng.choice(
                ("]", "}", ")", "(t", "]\x85R", ")R", "}\x85R", "N\x85R", ")b", "}b", "))\x86\x85R"))]]  # fmt: skip
        else:
            other = rng.randrange(len(program))
            program[at], program[other] = program[other], program[at]
    records[name] = b"".join(_sealed(*step) for step in program)
    if rng.random() < 0.1:
        key = rng.choice([name for name in records if "/data/" in name] or [name])
        records[key] = records[key][: rng.randrange(len(records[key]) + 1)] * rng.choice((1, 2))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.02 else zipfile.ZIP_STORED) as archive:
        for key, record in records.items():
            archive.writestr(key, record)
    return out.getvalue()


def old_mutation(rng: random.Random, data: bytes) -> bytes:
    """A mutation of a file of the old format: an operation of one of its pickles, or bytes."""
    if rng.random() < 0.5:
        return plain.byte_mutation(rng, data)
    file, parts = io.BytesIO(data), []
    for _ in range(5):
        start = file.tell()
        program = [(op, argument) for op, argument, _ in pickletools.genops(file)]
        parts.append((data[start : file.tell()], program))
    which = rng.randrange(5)
    program = parts[which][1]
    at = rng.randrange(len(program))
    op, argument = program[at]
    program[at] = (
        op,
        rng.choice(GLOBALS) if op.name == "GLOBAL" else argument if argument is None else like(rng, argument),
    )
    try:
        changed = b"".join(_sealed(*step) for step in program)
    except (ValueError, TypeError, OverflowError):
        changed = parts[which][0]
    return b"".join(changed if place == which else part for place, (part, _) in enumerate(parts)) + data[file.tell() :]


def accept_pickle(data: bytes) -> None:
    path = _file(data, "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = open_checkpoint(path)
    assert isinstance(found, dict)


# records, locks, rows


def accept_record(data: bytes) -> None:
    read_record(data, Reference("fuzz/record", "main"))


def accept_lock(data: bytes) -> None:
    read_lock(_file(data, "zoo.lock"))


def accept_rows(data: bytes) -> None:
    """What may be imported can be entered, read back, and shown."""
    found = read_rows(_file(data, "rows.jsonl"))
    for one in [*found.devices, *found.rows, *found.blocks]:
        text = msgspec.json.encode(one)
        assert msgspec.json.decode(text, type=type(one)) == one
    for row in found.rows:
        assert (
            f"{row.model} {row.device} {row.reason} {row.source} {row.anchor}".isprintable()
            and 0 < row.p50_ms <= row.p90_ms
            and row.throughput > 0
        )
    for block in found.blocks:
        assert f"{block.block} {block.device} {block.reason} {block.source} {block.anchor}".isprintable()
        assert 0 < block.low_ms <= block.p50_ms <= block.high_ms and block.anchor_ms > 0


def accept_stored(data: bytes) -> None:
    """Never an error: what cannot be read is passed over."""
    store = STORE[0]
    with store._db:
        for table, row in (
            ("rows", ("x", "d", "e", "2026", data)),
            ("blocks", ("x", "d", "e", "2026", data)),
            ("devices", ("x", data)),
            ("samples", ("j", 0, data)),
        ):
            marks = ", ".join("?" * len(row))
            store._db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
    (
        store.rows(shipped=False),
        store.block_rows(shipped=False),
        store.samples("j"),
        [device.id for device in store.devices()],
    )


STORE: list[Any] = []
FOLDER = TemporaryDirectory(dir=WORK)


def _file(data: bytes, name: str) -> Path:
    path = Path(FOLDER.name, name)
    path.write_bytes(data)
    return path


def _saved(content: Any, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def targets() -> dict[str, Target]:
    whole = torch.arange(12.0).reshape(3, 4)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    contents = [
        {"w": whole, "part": whole[1:, 1:3], "n": torch.tensor(3)},
        {"state_dict": net.state_dict(), "epoch": 3, "args": {"lr": 1e-3, "tags": {"a"}}},
        {
            "p": torch.nn.Parameter(whole),
            "h": whole.half(),
            "u": torch.zeros(2, dtype=torch.uint16),
            "b": bytearray(b"ab"),
        },
    ]
    row = msgspec.to_builtins(shipped_rows()[0])
    device = msgspec.to_builtins(shipped_devices()[0])
    block = msgspec.to_builtins(block_row())
    rows = [json.dumps(line).encode() for line in ({"row": row}, {"device": device}, {"block": block})]
    STORE[:] = [Store(Path(FOLDER.name, "m.sqlite"))]
    locks = [
        json.dumps(
            {"schema": Lock([]).schema, "models": msgspec.to_builtins(lock(["starnet_nano", "vim_nano"], None))}
        ).encode()
    ]
    return {
        "layout": Target([save({"a": torch.zeros(2)})], layout_mutation, accept_file),
        "program": Target([_saved(content) for content in contents], program_mutation, accept_pickle),
        "old": Target([_saved(content, False) for content in contents[:2]], old_mutation, accept_pickle),
        "values of a record": Target([plain._record(name) for name in ("starnet_nano", "mambaout_nano")], values_mutation, accept_record),
        "values of a lock": Target(locks, values_mutation, accept_lock),
        "values of a row": Target(rows, values_mutation, accept_rows),
        "stored values": Target([json.dumps(one).encode() for one in (row, device, block)], values_mutation, accept_stored),
    }  # fmt: skip


SHARES = {
    "layout": 0.3, "program": 0.25, "old": 0.05, "values of a record": 0.05, "values of a lock": 0.1, "values of a row": 0.2, "stored values": 0.05,
}  # fmt: skip


def run(cases: int, seed: int = 0) -> plain.Result:
    return fuzz(cases, seed, targets(), SHARES)


def main() -> int:
    return command(__doc__, targets(), SHARES)


if __name__ == "__main__":
    sys.exit(main())
