"""Faults of weights: locks, checkpoints, stamps, mapped files, mirrors, the Hub, the store of measurements."""

from tests.faults.catalogue import fault

NAME = "starnet_nano"


def typed(call, *values, **named):
    """None if the call raises an error of ours; else what it did."""
    from zoo.errors import ProblemsError

    try:
        call(*values, **named)
    except ProblemsError:
        return None
    except BaseException as error:
        return f"raw {type(error).__name__}: {error}"[:200]
    return "it was accepted"


def first(*answers):
    return next((answer for answer in answers if answer), None)


@fault("H1", "high", "ZOO_LOCKED=1 holds for every spelling of a path, for zoo.load, and for each file of an index")
def locked():
    import json
    import os
    from pathlib import Path

    from safetensors.torch import save_file

    import zoo

    home = Path.home()
    zoo.save(zoo.create(NAME), home / "stranger.safetensors")
    state = zoo.create(NAME).state_dict()
    names = sorted(state)
    parts = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, own in parts.items():
        save_file({name: state[name].contiguous() for name in own}, home / file)
    index = home / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, own in parts.items() for name in own}}))
    Path("link.safetensors").symlink_to(home / "stranger.safetensors")
    entry = zoo.lock("vim_nano", None)[0]
    from zoo.artifacts import lockfile as locks

    spoken = locks.File.of(index)
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    locks.write_lock([locks.Locked(**{**fields, "name": "x", "files": (spoken,)}), entry], "zoo.lock")
    os.environ |= {"ZOO_LOCKED": "1", "ZOO_LOCK": "zoo.lock"}
    relative = os.path.relpath(home / "stranger.safetensors")
    spellings = ["~/stranger.safetensors", str(home / "stranger.safetensors"), relative, "link.safetensors", str(index),
                 "~/model.safetensors.index.json"]  # fmt: skip
    model = zoo.create(NAME)
    for text in spellings:
        for call in (lambda text=text: zoo.create(NAME, weights=text), lambda text=text: zoo.load(model, text)):
            if answer := typed(call):
                return f"{text}: {answer}"
    return None


def saved(change, path="x.pth"):
    """A checkpoint whose first tensor was changed."""
    import torch

    import zoo

    state = dict(zoo.create(NAME).state_dict())
    name = next(iter(state))
    state[name] = change(state[name])
    torch.save(state, path)
    return path


@fault("H5", "high", "a tensor that claims more values than there are bytes costs nothing", seconds=60, gigabytes=12)
def huge_claim():
    import torch

    import zoo

    return typed(zoo.create, NAME, weights=saved(lambda old: torch.zeros(1).expand(10**12)))


@fault(
    "H5b",
    "high",
    "claims in other places cost nothing: packed records, a set of a tensor, a call that makes bytes",
    60,
    6,
)
def huge_claims_elsewhere():
    import io
    import pickle
    import zipfile
    from pathlib import Path

    import torch

    import zoo

    saved(lambda old: old)
    with zipfile.ZipFile("x.pth") as source, zipfile.ZipFile("packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in source.infolist():
            packed.writestr(info.filename, source.read(info))
        packed.writestr("x/data/more", b"\0" * 2**20)

    class Call:
        def __init__(self, function, *values):
            self.call = function, values

        def __reduce__(self):
            return self.call

    def written(path, value):
        torch.save({"w": torch.zeros(1)}, "plain.pth")
        file = io.BytesIO()
        pickle.dump(value, file, protocol=2)
        with zipfile.ZipFile("plain.pth") as source, zipfile.ZipFile(path, "w") as out:
            for info in source.infolist():
                out.writestr(
                    info.filename, file.getvalue() if info.filename.endswith("data.pkl") else source.read(info)
                )
        return path

    deep = ()
    for _ in range(50):
        deep = (deep, deep)
    bombs = {
        "packed records": "packed.pth",
        "bytes of a number": written("bytes.pth", {"w": Call(bytearray, 3 * 10**9)}),
        "a key of tuples": written("key.pth", {"w": Call(set, [deep])}),
    }
    answers = {what: typed(zoo.create, NAME, weights=path) for what, path in bombs.items()}
    assert Path("bytes.pth").stat().st_size < 2000
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    heavy = f"{most:.1f} GB were taken for 2 kB" if most > 2.5 else None
    return first(*(f"{what}: {answer}" if answer else None for what, answer in answers.items()), heavy)


@fault("M2", "medium", "complex, sparse, nested, quantised tensors and those on meta are refused with a sentence")
def odd_tensors():
    import warnings

    import torch
    from safetensors.torch import save_file

    import zoo

    warnings.simplefilter("ignore")
    state = {name: tensor.contiguous() for name, tensor in zoo.create(NAME).state_dict().items()}
    name = next(name for name, tensor in state.items() if tensor.is_floating_point() and tensor.ndim > 1)
    save_file({**state, name: state[name].to(torch.complex64)}, "w.safetensors")
    changes = {
        "complex": lambda old: old.to(torch.complex64),
        "sparse": lambda old: old.float().to_sparse(),
        "nested": lambda old: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "quantised": lambda old: torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8),
        "on meta": lambda old: old.to("meta"),
    }
    answers = {"complex in safetensors": typed(lambda: zoo.create(NAME, weights="w.safetensors"))}
    for what, change in changes.items():
        answers[f"{what} in a pickle"] = typed(zoo.create, NAME, weights=saved(change))
        mapping = {**state, name: change(state[name])}
        answers[f"{what} in a mapping"] = typed(zoo.create, NAME, weights=mapping)
    return first(*(f"{what}: {answer}" if answer else None for what, answer in answers.items()))


@fault("L13", "low", "a tensor of one value seen many times becomes a parameter that can be trained in place")
def expanded_values():
    import torch

    import zoo

    state = dict(zoo.create(NAME).state_dict())
    name = next(name for name, tensor in state.items() if tensor.is_floating_point() and tensor.ndim == 1)
    state[name] = torch.ones(()).expand(state[name].shape)
    try:
        model = zoo.create(NAME, weights=state)
    except zoo.WeightsError:
        return None
    with torch.no_grad():
        model.state_dict()[name].add_(1)


@fault("M6", "medium", "what happens to a file after it was loaded is nothing to the model")
def changed_afterwards():
    import os

    import torch

    import zoo

    def differs(path):
        zoo.save(zoo.create(NAME), "w.safetensors")
        if path.endswith(".pth"):
            torch.save(zoo.create(NAME).state_dict(), path)
        model, x = zoo.create(NAME, weights=path), torch.randn(1, zoo.spec(NAME).input.channels, 32, 32)
        with torch.no_grad():
            before = model(x)
            size = os.path.getsize(path)
            with open(path, "r+b") as file:
                file.seek(size // 2)
                file.write(b"\1" * (size // 3))
            if not torch.equal(model(x), before):
                return f"{path}: outputs change when the file is written to"
            os.truncate(path, 100)
            model(x)

    return first(differs("w.safetensors"), differs("w.pth"))


@fault("M4", "medium", "a stamp that others could have written is not believed")
def foreign_stamps():
    import hashlib
    import json
    import os
    import time
    from pathlib import Path

    from zoo.weights.verify import sha256_of

    os.environ["ZOO_CACHE"] = str(Path("cache").resolve())
    Path("w").write_bytes(b"weights")
    time.sleep(0.2)
    right = hashlib.sha256(b"weights").hexdigest()
    sha256_of("w")
    stamps = list(Path("cache/stamps").glob("*.json"))
    if not stamps:
        return "no stamp was made"
    forged = json.loads(stamps[0].read_text()) | {"sha256": "f" * 64}
    stamps[0].write_text(json.dumps(forged))
    for folder, file in ((0o777, 0o600), (0o700, 0o666), (0o770, 0o600), (0o700, 0o620)):
        Path("cache/stamps").chmod(folder), stamps[0].chmod(file)
        if sha256_of("w") != right:
            return f"the stamp of a folder of mode {folder:o}, itself of mode {file:o}, was believed"
        stamps[0].write_text(json.dumps(forged))
    if os.geteuid() == 0:
        Path("cache/stamps").chmod(0o700), stamps[0].chmod(0o600)
        os.chown(stamps[0], 65534, 65534)
        if sha256_of("w") != right:
            return "the stamp of another user was believed"
    stamps[0].unlink(missing_ok=True)
    (Path("cache") / "elsewhere.json").write_text(json.dumps(forged))
    stamps[0].symlink_to(Path("cache/elsewhere.json").resolve())
    return None if sha256_of("w") == right else "a link was believed"


@fault("W24", "medium", "a torch that a pickle can make run code opens none")
def old_torch():
    import torch

    import zoo

    path = saved(lambda old: old)
    torch.__version__ = "2.9.1"
    return typed(zoo.create, NAME, weights=path)


def stored():
    """A store with one row and one device, and the sound lines of both."""
    import hashlib
    from pathlib import Path

    import msgspec

    from zoo.measure.device import Device, Fingerprint
    from zoo.measure.latency import Latency, Runtime
    from zoo.measure.store import Store

    path = Path("m.sqlite")
    row = Latency(
        model="net", digest=hashlib.sha256(b"").hexdigest(), form="train", device="xeon-2c-01234567", runtime=Runtime(), input=[1, 3, 8, 8],
        p50_ms=10.0, low_ms=9.0, high_ms=11.0, p90_ms=12.0, min_ms=8.0, mean_ms=10.0, cpu_ms=10.0, wall_cpu=1.0, anchor="a", ratio=1.0,
        peak_bytes=1, processes=5, samples=50, loops=1, verdict="clean", date="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    device = Device("cpu", "Xeon", "GenuineIntel", "avx2", 2, 23.5, True, Fingerprint(200.0, 20.0, 0.5))
    with Store(path) as store:
        store.add([row]), store.add_device(device)
    return path, msgspec.to_builtins(row), msgspec.to_builtins(device)


def changed(path, statement, *values):
    import sqlite3

    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


@fault("M8", "medium", "one row, device, sample or calibration that cannot be read costs itself alone")
def unreadable_records():
    import json
    from pathlib import Path

    from zoo.measure.latency import Runtime
    from zoo.measure.predict import read
    from zoo.measure.store import Store

    for data in (b"{", "text", 3, b"\xff", b"[" * 100_000, b'{"schema":"zoo.latency/9"}', b"null"):
        Path("m.sqlite").unlink(missing_ok=True)
        path, row, _ = stored()
        changed(path, "INSERT INTO rows VALUES ('x', 'd', 'e', '2026', ?)", data)
        changed(path, "INSERT INTO devices VALUES ('x', ?)", data)
        changed(path, "INSERT INTO samples VALUES ('j', 0, ?)", data)
        changed(path, "INSERT INTO calibrations VALUES ('d', 'r', ?)", data)
        newer = json.dumps({**row, "model": "newer", "more": 1}).encode()
        changed(path, "INSERT INTO rows VALUES ('y', 'd', 'e', '2026', ?)", newer)
        with Store(path) as store:
            if [one.model for one in store.rows(shipped=False)] != ["net"] or "Xeon" not in [
                one.name for one in store.devices()
            ]:
                return f"beside {data!r}: another answer"
            store.samples("j")
            read(store, "d", Runtime())
    return None


@fault(
    "M8b", "medium", "a store of a newer zoo is refused and stays where it is; a missing table and a lock are sentences"
)
def newer_store():
    import sqlite3
    from pathlib import Path

    import zoo.measure.store as module
    from zoo.measure.store import Store

    path, *_ = stored()
    changed(path, "PRAGMA user_version = 99")
    answer = typed(Store, path)
    if answer or list(Path.cwd().glob("m.sqlite.set-aside-*")):
        return f"newer: {answer or 'it was renamed'}"
    changed(path, f"PRAGMA user_version = {len(module.MIGRATIONS)}")
    real = sqlite3.connect
    sqlite3.connect = lambda name, timeout=5, **named: real(name, timeout=0.1, **named)
    with Store(path) as store:
        other = real(path)
        other.execute("BEGIN EXCLUSIVE")
        answer = first(*(typed(call) for call in (store.rows, store.devices, lambda: store.samples("j"))))
        other.rollback()
        if answer:
            return f"locked: {answer}"
    changed(path, "DROP TABLE rows")
    with Store(path) as store:
        return typed(store.rows)


@fault(
    "M9",
    "medium",
    "rows from elsewhere are judged: figures, dates, digests, names; where they come from is ours to say",
)
def imported_rows():
    import json
    from pathlib import Path

    from zoo.measure.store import Store, import_rows

    path, row, device = stored()
    wrongs = [
        {"p50_ms": -5.0}, {"p50_ms": 0.0}, {"p50_ms": 1e308}, {"p90_ms": -1.0}, {"p90_ms": 1.0}, {"date": ""}, {"date": "2999-01-01"},
        {"digest": "zz"}, {"model": ""}, {"model": "a\x1b[31m"}, {"device": "\x1b[2J"}, {"reason": "\x1b]0;x\x07"}, {"more": 1},
        {"low_ms": 99.0}, {"high_ms": 1.0}, {"ratio": 0.0}, {"cpu_ms": -1.0}, {"wall_cpu": -1.0}, {"processes": -1}, {"input": [-1]},
        {"anchor": "\x1b"}, {"version": "\n"}, {"clocks": "\x00"}, {"runtime": {"torch": "\x1b"}}, {"runtime": {"threads": -1}},
        {"source": "s" * 10**6},
    ]  # fmt: skip
    with Store(path) as store:
        for number, wrong in enumerate(wrongs):
            file = Path(f"{number}.jsonl")
            file.write_text(json.dumps({"row": {**row, "mean_ms": 10.0 + number, **wrong}}))
            if answer := typed(import_rows, store, file):
                return f"{wrong}: {answer}"
        Path("device.jsonl").write_text(json.dumps({"device": {**device, "name": "\x1b[31m"}}))
        if answer := typed(import_rows, store, Path("device.jsonl")):
            return f"a device: {answer}"
        Path("theirs.jsonl").write_text(json.dumps({"row": {**row, "mean_ms": 9.5, "origin": "local"}}))
        import_rows(store, Path("theirs.jsonl"))
        origins = {one.origin for one in store.rows(shipped=False)}
    return None if origins == {"", "theirs.jsonl"} else f"origins {origins}"


def carried():
    """A mirror with the weights of vim_nano as a pin, and the pin itself; returns its folder and the pinned file."""
    import hashlib
    import shutil
    from pathlib import Path

    from zoo import catalog
    from zoo.artifacts import lockfile as locks
    from zoo.artifacts import store

    source = catalog.home_of("vim_nano").weights / "vim_nano.digits.safetensors"
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    folder = Path("mirror")
    folder.mkdir()
    shutil.copyfile(source, folder / "w.safetensors")
    (folder / "SHA256SUMS").write_text(f"{sha256}  w.safetensors\n")
    store.made_folder()
    return folder, locks.File("model.safetensors", sha256, source.stat().st_size)


@fault("M7", "medium", "threads that ask a mirror at once all get the bytes")
def mirror_threads():
    import os
    from concurrent.futures import ThreadPoolExecutor

    from zoo.artifacts import store

    folder, file = carried()
    os.environ["ZOO_MIRROR"] = str(folder)
    failures = 0
    for _ in range(15):
        store.place(file).unlink(missing_ok=True)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(store.obtain, file, "x") for _ in range(8)]
        failures += sum(one.exception() is not None for one in asked)
    return f"{failures} of 120 calls failed" if failures else None


@fault("L14", "low", "a folder as mirror has the limits of an address", seconds=30)
def folder_mirror():
    import os

    from zoo.artifacts import store

    folder, file = carried()
    os.environ["ZOO_MIRROR"] = str(folder)
    with (folder / "w.safetensors").open("ab") as weights:
        weights.truncate(2**30)
    answer = typed(store.obtain, file, "x")
    if answer or (written := sum(path.stat().st_size for path in store.folder().iterdir())):
        return answer or f"{written:,} bytes were left in the store"
    (folder / "SHA256SUMS").unlink()
    (folder / "SHA256SUMS").symlink_to("/dev/zero")
    return typed(store.obtain, file, "x")


@fault("L15", "low", "what stands before the @ of an address is in no sentence")
def secrets():
    import os

    from zoo.artifacts import store

    _, file = carried()
    for address in ("http://user:secret@127.0.0.1:9", "http://user:secret@localhost:9/x", "http://user:secret@[::1"):
        for offline in ("", "1"):
            os.environ |= {"ZOO_MIRROR": address, "ZOO_OFFLINE": offline}
            try:
                store.obtain(file, "x")
            except Exception as error:
                if "secret" in str(error):
                    return f"{type(error).__name__}: {error}"[:200]
                if type(error).__name__ not in ("InputError", "WeightsError"):
                    return f"raw {type(error).__name__}: {error}"[:200]
    return None


@fault("L4", "low", "a name that no repository of the Hub has is a sentence")
def no_repository():
    import os

    import zoo

    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    names = (
        "hub:a/..",
        "hub:../a",
        "hub:a/.",
        "hub:a/b--c",
        "hub:-a/b",
        "hub:a/b.git",
        "hub:a/b@../../x",
        "hub:a/" + "b" * 300,
    )
    return first(*(f"{name}: {answer}" if (answer := typed(zoo.create, name)) else None for name in names))


@fault("L8", "low", "pre-processing that no memory holds is refused where it enters")
def endless_preprocessing():
    import json

    from zoo.catalog.manifests import manifests
    from zoo.weights.manifest import manifest_json, parse_manifest

    known = json.loads(manifest_json(manifests("starnet_nano")[0]))
    wrongs = [
        {"size": 10**9},
        {"size": [10**9, 1]},
        {"crop": 1e-9},
        {"std": [1e-300]},
        {"mean": [1e300]},
        {"range": [0.0, 1e300]},
    ]
    for wrong in wrongs:
        text = json.dumps({**known, "preprocess": {**known["preprocess"], **wrong}})
        if answer := typed(parse_manifest, text, "x"):
            return f"{wrong}: {answer}"
    return None


@fault("L8b", "low", "an address that is none is a sentence wherever it stands")
def no_address():
    import json
    from pathlib import Path

    from zoo.artifacts.download import download
    from zoo.catalog.manifests import manifests
    from zoo.weights.manifest import manifest_json, parse_manifest

    known = json.loads(manifest_json(manifests("starnet_nano")[0])) | {"state": "pinned"}
    for address in ("https://[::1/x", "https://host:port/x", "https://host:99999/x", "https://u:p@h/x"):
        if answer := typed(parse_manifest, json.dumps({**known, "source": address}), "x"):
            return f"a manifest with {address}: {answer}"
        if answer := typed(download, address, Path("x")):
            return f"{address}: {answer}"
    return None


def hub_server(answer):
    """The address of a Hub that tells of one repository; `answer(name)` gives the bytes of a file and what is told of their number."""
    import hashlib
    import os
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            name = self.path.partition("?")[0].rpartition("/")[2]
            if "/resolve/" not in self.path:
                return self.send_error(404)
            pieces, told, size = answer(name)
            self.send_response(200)
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(name.encode()).hexdigest()}"')
            self.send_header("X-Linked-Size", str(told))
            if self.command == "HEAD" or size is not None:
                self.send_header("Content-Length", str(told if self.command == "HEAD" else size))
            self.end_headers()
            if self.command != "HEAD":
                for piece in pieces:
                    sent.append(len(piece))
                    self.wfile.write(piece)
            self.close_connection = True

        do_HEAD = do_GET

    sent = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return sent


def record():
    """A sound zoo.json of starnet_nano, and its weights."""
    import json

    import zoo
    from zoo import catalog
    from zoo.catalog.manifests import manifests
    from zoo.weights.manifest import manifest_json

    manifest = json.loads(manifest_json(manifests("starnet_nano")[0]))
    manifest |= {"source": "file:model.safetensors", "state": "pinned"}
    data = json.dumps({"schema": "zoo.json/1", "manifest": manifest, "spec": zoo.spec("starnet_nano").plain()}).encode()
    return data, (catalog.home_of("starnet_nano").weights / "starnet_nano.digits.safetensors").read_bytes()


@fault(
    "M11",
    "medium",
    "no more bytes are fetched from a Hub than the manifest, or the kind of the file, allows",
    seconds=120,
)
def unbounded_downloads():
    import os
    from pathlib import Path

    import zoo

    text, weights = record()
    extra = [b"\0" * 2**20] * 100
    cases = {
        "told": lambda name: (([text], len(text), len(text)) if name == "zoo.json" else ([weights, *extra], len(weights) + 100 * 2**20, None)),
        "sent": lambda name: (([text], len(text), len(text)) if name == "zoo.json" else ([weights, *extra], len(weights), len(weights) + 100 * 2**20)),
        "record": lambda name: ([b" " * 2**20] * 50, 50 * 2**20, 50 * 2**20),
    }  # fmt: skip
    for what, answer in cases.items():
        os.environ["HF_HUB_CACHE"] = f"cache-{what}"
        sent = hub_server(answer)
        import huggingface_hub.constants as constants

        constants.ENDPOINT = os.environ["HF_ENDPOINT"]
        constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_CACHE = os.environ["HF_HUB_CACHE"]
        if wrong := typed(zoo.create, "hub:a/b"):
            return f"{what}: {wrong}"
        left = sum(path.stat().st_size for path in Path(f"cache-{what}").rglob("*") if path.is_file())
        if left > 20 * 2**20 or sum(sent) > 60 * 2**20:
            return f"{what}: {sum(sent) / 2**20:.0f} MB were taken, {left / 2**20:.0f} MB stay in the cache"
    return None
