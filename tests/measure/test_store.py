"""The file of measurements: many writers, idempotent merges, nothing foreign touched."""

from __future__ import annotations

import logging
import multiprocessing
import random
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from blocks.registry import words
from blocks.registry.words import is_name
from tests.measure.rows import FACTS, block_row, hammer, quiet, row, sample
from zoo.errors import InputError
from zoo.measure import store as module
from zoo.measure.device import Device, Fingerprint, recognise, same_machine
from zoo.measure.latency import Runtime, compose
from zoo.measure.predict import read, runtime_key
from zoo.measure.row_checks import block_problems, device_problems, row_problems
from zoo.measure.store import MIGRATIONS, Store, export_rows, import_rows, newest, read_rows

DEVICE = Device("cpu", "Xeon(R) Processor", "GenuineIntel", "avx2", 2, 23.5, True, Fingerprint(200.0, 20.0, 0.5))


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SHIPPED", "SHIPPED_BLOCKS"):
        monkeypatch.setattr(module, name, tmp_path / "none.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sqlite"


def test_rows_are_found_by_any_field(path: Path) -> None:
    rows = [row(), row(20.0, form="deploy"), row(5.0, runtime=Runtime(threads=2))]
    with Store(path) as store:
        assert store.add(rows) == 3
        assert store.rows(form="deploy") == [rows[1]]
        assert store.rows(threads=2) == [rows[2]]
        assert store.rows(device="other") == []


def test_entering_twice_is_entering_once(path: Path) -> None:
    with Store(path) as store:
        assert (store.add([row(), row()]), store.add([row()]), len(store.rows())) == (1, 0, 1)


def test_a_merge_does_not_depend_on_its_order(tmp_path: Path) -> None:
    rows = [row(float(centre)) for centre in range(1, 9)]
    halves = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    export_rows(rows[:5], [DEVICE], halves[0])
    export_rows(rows[3:], [DEVICE], halves[1])
    found = []
    for name, order in (("x", [0, 1]), ("y", [1, 0, 1])):
        with Store(tmp_path / f"{name}.sqlite") as store:
            for i in order:
                import_rows(store, halves[i])
            found.append({one.id for one in store.rows()})
            assert store.devices() == [DEVICE]
    assert found[0] == found[1] == {one.id for one in rows}


def test_imported_rows_say_where_they_come_from(tmp_path: Path, path: Path) -> None:
    export_rows([row()], [DEVICE], tmp_path / "theirs.jsonl")
    with Store(path) as store:
        assert import_rows(store, tmp_path / "theirs.jsonl") == 1
        assert [one.origin for one in store.rows()] == ["theirs.jsonl"]


def test_every_bad_line_of_an_import_is_named_and_nothing_is_entered(tmp_path: Path, path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"row": {"model": 1}}\n' + msgspec.json.encode({"row": row()}) + b"\nno json\n")
    with Store(path) as store:
        with pytest.raises(InputError) as error:
            import_rows(store, bad)
        assert [problem.where for problem in error.value.problems] == ["line 1", "line 3"]
        assert store.rows() == []


def test_rows_of_blocks_are_written_read_and_entered_like_those_of_models(tmp_path: Path, path: Path) -> None:
    one = block_row()
    export_rows([row()], [DEVICE], tmp_path / "theirs.jsonl", [one])
    assert read_rows(tmp_path / "theirs.jsonl") == ([DEVICE], [row()], [one])
    with Store(path) as store:
        assert [import_rows(store, tmp_path / "theirs.jsonl") for _ in range(2)] == [2, 0]
        (entered,) = store.block_rows(block="core/mlp@1", threads=1, shipped=False)
        assert (entered.id, entered.origin, store.block_rows(block="core/gelu@1")) == (one.id, "theirs.jsonl", [])
    first, _ = newest([one, block_row(2.0, date="2026-02-01"), block_row(device="other-2c-0")])
    assert first.p50_ms == 2.04


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"block": "core/<b>"}, "block"),
        ({"p50_ms": -1.0}, "p50_ms"),
        ({"p50_ms": 9.0}, "high_ms"),
        ({"ratio": float("inf")}, "ratio"),
        ({"macs": -1}, "macs"),
        ({"input": []}, "input"),
        ({"processes": 0}, "processes"),
        ({"date": "3026-01-01"}, "date"),
        ({"device": "a b"}, "device"),
    ],
)
def test_a_row_of_a_block_that_cannot_have_been_measured_is_refused(wrong: dict[str, object], where: str) -> None:
    assert block_problems(block_row()) == []
    assert where in [problem.where for problem in block_problems(msgspec.structs.replace(block_row(), **wrong))]


def test_shipped_rows_stand_beside_the_own_ones(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    export_rows([row(3.0)], [DEVICE], tmp_path / "shipped.jsonl")
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped.jsonl")
    with Store(path) as store:
        store.add([row()])
        assert [one.p50_ms for one in store.rows()] in ([3.0, 10.0], [10.0, 3.0])
        assert [one.p50_ms for one in store.rows(shipped=False)] == [10.0]
        assert store.devices() == [DEVICE]


def test_the_newest_clean_row_speaks_for_its_model() -> None:
    old, new = row(date="2026-01-01"), row(11.0, date="2026-02-01")
    busy = compose({**FACTS, "date": "2026-03-01"}, [sample([10.0] * 3, waited=2.0)] * 5)
    assert list(newest([new, busy, old])) == [new]


@pytest.mark.parametrize(
    "bytes_", [b"not a database at all, but long enough to look at", b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_damaged_file_is_set_aside_with_a_sentence(
    path: Path, bytes_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(bytes_)
    with caplog.at_level(logging.WARNING, "zoo"), Store(path) as store:
        store.add([row()])
        assert len(store.rows()) == 1
    (aside,) = path.parent.glob("m.sqlite.set-aside-*")
    assert aside.read_bytes() == bytes_
    assert "is damaged or not ours" in caplog.text and aside.name in caplog.text


def test_another_programs_database_is_set_aside_whole(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("INSERT INTO theirs VALUES (7)")
    other.close()
    with Store(path) as store:
        assert store.rows() == []
    (aside,) = path.parent.glob("m.sqlite.set-aside-*")
    with sqlite3.connect(aside) as kept:
        assert kept.execute("SELECT x FROM theirs").fetchall() == [(7,)]
    kept.close()


def test_a_file_of_a_newer_zoo_is_refused_and_stays(path: Path) -> None:
    with Store(path) as store:
        store.add([row()])
    change(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"found one of version 5, which a newer zoo wrote; next: `pip install -U"):
        Store(path)
    assert path.read_bytes() == before and not list(path.parent.glob("m.sqlite.set-aside-*"))


def change(path: Path, statement: str, *values: object) -> None:
    """What another program, or damage, does to the file."""
    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


@pytest.mark.parametrize(
    "data", [b"{", b"", "text", 3, b"\xff", b"[" * 100_000, msgspec.json.encode({"schema": "zoo.latency/2"})]
)
def test_a_row_or_device_that_cannot_be_read_is_passed_over_with_one_warning(
    path: Path, data: object, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(path) as store:
        store.add([row()]), store.add_device(DEVICE), store.add_sample("job", 0, quiet()[0])
    change(path, "INSERT INTO rows VALUES ('x', 'd', 'e', '2026', ?)", data)
    change(path, "INSERT INTO devices VALUES ('x', ?)", data)
    change(path, "INSERT INTO samples VALUES ('job', 1, ?)", data)
    with Store(path) as store:
        for _ in range(2):
            assert store.rows() == [row()] and store.devices() == [DEVICE] and store.samples("job") == {0: quiet()[0]}
    assert [record.message.count("passed over what a newer zoo or damage wrote: 1") for record in caplog.records] == [
        1,
        1,
        1,
    ]


def test_a_row_with_a_field_that_only_a_newer_zoo_knows_is_passed_over(path: Path) -> None:
    with Store(path) as store:
        store.add([row()])
        store._write("INSERT INTO rows VALUES ('x', 'd', 'e', '2026', ?)", [(plus(row(9.0), more=1),)])
        assert store.rows() == [row()]


def plus(record: msgspec.Struct, **fields: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(record), **fields})


def test_damaged_pieces_and_calibrations_are_as_if_they_were_not_there(path: Path) -> None:
    with Store(path) as store:
        store.add_looks("d", "r", {"one": 2.0})
        store.set_calibration("d", runtime_key(Runtime()), b"\xff{")
    for ms in ("text", float("inf"), -1.0, b"\0"):
        change(path, "INSERT INTO looks VALUES ('d', 'r', 'one', ?)", ms)
    with Store(path) as store:
        assert store.pieces("d", "r") == {"one": 2.0} and read(store, "d", Runtime()) is None


@pytest.mark.parametrize("table", ["rows", "devices", "machines", "samples", "looks", "calibrations"])
def test_a_table_that_is_missing_is_a_sentence(path: Path, table: str) -> None:
    with Store(path):
        pass
    change(path, f"DROP TABLE {table}")
    with Store(path) as store, pytest.raises(InputError, match=f"no such table: {table}; next: move the file away"):
        (
            store.rows(),
            store.devices(),
            store.recall("s"),
            store.samples("j"),
            store.pieces("d", "r"),
            store.calibration("d", "r"),
        )


def test_a_lock_that_begins_after_opening_is_a_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with Store(path) as store:
        other = sqlite3.connect(path)
        other.execute("BEGIN EXCLUSIVE")
        for call in (store.rows, store.devices, lambda: store.add([row()])):
            with pytest.raises(
                InputError, match=r"free within 0\.1 s; found database is locked; next: end the program"
            ):
                call()
        other.rollback()
        other.close()
        assert store.add([row()]) == 1


FUTURE = (datetime.now(UTC) + timedelta(days=30)).isoformat()


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"p50_ms": -5.0}, "p50_ms"), ({"p50_ms": 0.0}, "p50_ms"), ({"p50_ms": 1e308}, "p50_ms"), ({"p90_ms": -1.0}, "p90_ms"),
        ({"p90_ms": 1.0}, "p90_ms"), ({"low_ms": 11.0}, "p50_ms"), ({"high_ms": 9.0}, "high_ms"), ({"min_ms": 99.0}, "p50_ms"),
        ({"date": ""}, "date"), ({"date": "2999-01-01"}, "date"), ({"date": FUTURE}, "date"), ({"date": "yesterday"}, "date"),
        ({"digest": "zz"}, "digest"), ({"digest": "D" * 64}, "digest"), ({"model": ""}, "model"), ({"model": "a\x1b[31m"}, "model"),
        ({"device": "a\x1b[2J"}, "device"), ({"reason": "\x1b]0;owned\x07"}, "reason"), ({"source": "s" * 301}, "source"),
        ({"anchor": "a\nb"}, "anchor"), ({"processes": 0}, "processes"), ({"input": []}, "input"), ({"input": [0]}, "input"),
        ({"ratio": -1.0}, "ratio"), ({"peak_bytes": -1}, "peak_bytes"), ({"runtime": {"threads": 0}}, "runtime.threads"),
        ({"runtime": {"torch": "\x1b"}}, "runtime.torch"), ({"runtime": {"dtype": "float33"}}, "runtime.dtype"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_have_been_measured_is_refused(
    tmp_path: Path, path: Path, fields: dict[str, object], where: str
) -> None:
    lines = [msgspec.json.encode({"row": row(9.0)}), b'{"row": ' + plus(row(), **fields) + b"}"]
    (tmp_path / "theirs.jsonl").write_bytes(b"\n".join(lines))
    with Store(path) as store:
        with pytest.raises(InputError) as caught:
            import_rows(store, tmp_path / "theirs.jsonl")
        assert f"line 2: {where}" in [problem.where for problem in caught.value.problems]
        assert store.rows() == [] and str(caught.value).replace("\n", "").isprintable()


def test_an_unknown_field_is_named_wherever_it_stands(tmp_path: Path, path: Path) -> None:
    lines = [
        b'{"more": 1}', b'{"row": ' + plus(row(), more=1) + b"}", b'{"device": ' + plus(DEVICE, more=1) + b"}",
        b'{"row": ' + plus(row(), runtime={"more": 1}) + b"}", b'{"device": ' + plus(DEVICE, fingerprint={"more": 1}) + b"}",
    ]  # fmt: skip
    (tmp_path / "theirs.jsonl").write_bytes(b"\n".join(lines))
    with Store(path) as store, pytest.raises(InputError) as caught:
        import_rows(store, tmp_path / "theirs.jsonl")
    assert ["`more`" in problem.found for problem in caught.value.problems] == [True] * 5


def test_the_origin_of_a_row_is_not_taken_from_the_row(tmp_path: Path, path: Path) -> None:
    export_rows([msgspec.structs.replace(row(), origin="local")], [DEVICE], tmp_path / "theirs\x1b.jsonl")
    with Store(path) as store:
        import_rows(store, tmp_path / "theirs\x1b.jsonl")
        assert [one.origin for one in store.rows()] == ["theirs\\x1b.jsonl"]


def test_a_device_that_cannot_be_is_refused(tmp_path: Path, path: Path) -> None:
    odd = msgspec.structs.replace(
        DEVICE, name="\x1b[31m", cores=0, fingerprint=Fingerprint(-1.0, float("inf"), 0.0), memory_gb=-1.0
    )
    data = msgspec.json.encode({"device": odd}).replace(b"null", b"1e999")
    (tmp_path / "theirs.jsonl").write_bytes(data)
    with Store(path) as store, pytest.raises(InputError):
        import_rows(store, tmp_path / "theirs.jsonl")
    assert {problem.where for problem in device_problems(odd)} == {
        "name", "cores", "memory_gb", "fingerprint.gemm_gflops", "fingerprint.copy_gb_s", "fingerprint.dispatch_us",
    }  # fmt: skip


def test_broken_rows_of_a_plugin_are_passed_over_with_one_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shipped.jsonl").write_bytes(b"no json")
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped.jsonl")
    with Store(path) as store:
        store.add([row()])
        assert store.rows() == store.rows() == [row()] and store.devices() == []
    assert caplog.text.count("passed over the shipped measurements of") == 1


def test_a_row_from_a_wrong_clock_does_not_speak_for_ever() -> None:
    ahead = row(12.0, date=FUTURE)
    assert list(newest([ahead, row(date="2026-01-01")])) == [row(date="2026-01-01")]
    assert list(newest([ahead])) == [ahead]


def test_an_older_file_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store:
        store.add([row()])
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE more (x)"))
    with Store(path) as store:
        assert store.rows() == [row()]
        assert store._db.execute("SELECT count(*) FROM more").fetchone() == (0,)


def test_pieces_in_a_store_of_the_first_version_become_first_samples(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(module, "MIGRATIONS", MIGRATIONS[:1])
        with Store(path) as store, store._db as db:
            db.execute("INSERT INTO pieces VALUES ('d', 'r', 'one', 2.0)")
    with Store(path) as store:
        store.add_looks("d", "r", {"one": 4.0, "other": 1.0})
        assert store.looks("d", "r") == {"one": [2.0, 4.0], "other": [1.0]}
        assert store.pieces("d", "r") == {"one": 3.0, "other": 1.0}


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="measurements cannot be opened"):
        Store(tmp_path / "nowhere" / "m.sqlite")


def test_two_processes_write_into_one_file_and_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=hammer, args=(path, seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    with Store(path) as store:
        assert len(store.rows()) == 83 and len(store.pieces("d", "r")) == 80


def test_files_that_are_set_aside_in_one_second_all_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    for text in (b"one program's file, long enough", b"another program's, long enough"):
        path.write_bytes(text)
        with Store(path):
            pass
    assert len({file.read_bytes() for file in path.parent.glob("m.sqlite.set-aside-1800000000-*")}) == 2


WRITING = """
import itertools, sys
from pathlib import Path
from tests.measure.rows import row
from zoo.measure.store import Store
with Store(Path(sys.argv[1])) as store:
    for i in itertools.count(int(sys.argv[2]) * 10**6, 50):
        store.add(row(digest=f"{i + k:064x}") for k in range(50))
        store.add_looks("d", "r", {f"{i + k}": 1.0 for k in range(50)})
        print(i, flush=True)
"""


@pytest.mark.slow
def test_a_kill_in_a_write_leaves_whole_batches_and_all_that_were_told(path: Path) -> None:
    draw, told = random.Random(0), 0
    for number in range(20):
        command = [sys.executable, "-c", WRITING, str(path), str(number)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert writer.stdout is not None and writer.stdout.readline()
        time.sleep(draw.random() * 0.3)
        writer.kill()
        told += 1 + len(writer.stdout.read().split())
        writer.wait()
        with Store(path) as store:
            counts = len(store.rows()), len(store.looks("d", "r"))
        assert all(count % 50 == 0 and count >= told * 50 for count in counts)
        assert not list(path.parent.glob("*.set-aside-*"))


def test_samples_of_a_run_are_kept_until_they_are_a_row(path: Path) -> None:
    with Store(path) as store:
        store.add_sample("job", 0, quiet()[0])
        store.add_sample("job", 1, quiet()[1])
        assert store.samples("job") == {0: quiet()[0], 1: quiet()[1]}
        store.forget_samples("job")
        assert store.samples("job") == {}


def test_a_machine_is_known_again_though_it_was_busier() -> None:
    later = msgspec.structs.replace(DEVICE, fingerprint=Fingerprint(175.0, 15.0, 0.7), memory_gb=23.4)
    assert same_machine(DEVICE, later) and recognise(later, [DEVICE]).id == DEVICE.id


@pytest.mark.parametrize(
    "other", [Fingerprint(120.0, 20.0, 0.5), Fingerprint(200.0, 6.0, 0.5), Fingerprint(200.0, 20.0, 1.1)]
)
def test_machines_of_one_name_are_told_apart_by_what_they_do(other: Fingerprint) -> None:
    twin = msgspec.structs.replace(DEVICE, fingerprint=other)
    assert not same_machine(DEVICE, twin) and recognise(twin, [DEVICE]).id != DEVICE.id


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    export_rows([row()], [DEVICE], tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == ([DEVICE], [row()], [])


def test_a_good_file_that_another_locks_is_not_set_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store:
        store.add([row()])
    errors = iter([sqlite3.DatabaseError("half made"), sqlite3.OperationalError("database is locked")])
    with monkeypatch.context() as patched:
        patched.setattr(module, "_connect", lambda path: (_ for _ in ()).throw(next(errors)))
        with pytest.raises(InputError, match="database is locked"):
            Store(path)
    with Store(path) as store:
        assert store.rows() == [row()]


def test_rows_of_one_process_of_an_older_file_are_kept_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, glance = row(), compose(FACTS, quiet()[:1])
    with monkeypatch.context() as older:
        older.setattr(module, "MIGRATIONS", MIGRATIONS[:2])
        with Store(path) as store:
            store.add([measured, glance])
    with Store(path) as store:
        assert store.rows(shipped=False) == [measured]
        assert sorted(one.processes for one in store.rows(shipped=False, glances=True)) == [1, 5]
        assert store.add_glances([glance]) == 0


@pytest.mark.parametrize("name", ["Xeon(R) Processor", "- fast chip", "x" * 300, "龙芯 3A5000", "", "AMD -- Ryzen"])
def test_the_id_of_every_machine_is_a_name_that_records_take(name: str) -> None:
    device = msgspec.structs.replace(DEVICE, name=name)
    assert is_name(device.id, words.DEVICE) and not row_problems(row(device=device.id))
