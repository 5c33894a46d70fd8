"""The file of measurements: many writers, idempotent merges, nothing foreign touched."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
from pathlib import Path

import msgspec
import pytest

from tests.measure.rows import FACTS, hammer, quiet, row, sample
from zoo.errors import InputError
from zoo.measure import store as module
from zoo.measure.device import Device, Fingerprint, recognise, same_machine
from zoo.measure.latency import Runtime, compose
from zoo.measure.store import MIGRATIONS, Store, export_rows, import_rows, newest, read_rows

DEVICE = Device("cpu", "Xeon(R) Processor", "GenuineIntel", "avx2", 2, 23.5, True, Fingerprint(200.0, 20.0, 0.5))


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "none.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sqlite"


def test_what_is_entered_is_found_by_any_field(path: Path) -> None:
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


def test_a_file_of_a_newer_zoo_is_not_written_to(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with Store(path) as store:
        assert store.rows() == []
    assert "written by a newer zoo" in caplog.text and len(list(path.parent.glob("m.sqlite.set-aside-*"))) == 1


def test_an_older_file_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store:
        store.add([row()])
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE more (x)"))
    with Store(path) as store:
        assert store.rows() == [row()]
        assert store._db.execute("SELECT count(*) FROM more").fetchone() == (0,)


def test_what_a_file_of_the_first_version_knew_of_pieces_is_their_first_look(
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
    assert read_rows(tmp_path / "rows.jsonl") == ([DEVICE], [row()])


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
