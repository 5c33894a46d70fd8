"""The generated index of blocks says what the code says."""

from __future__ import annotations

from blocks.registry import index


def test_the_index_is_what_the_code_says():
    assert index.INDEX.read_bytes() == index.render(), "stale: run `python -m blocks.registry.index`"


def test_check_answers_by_its_exit_code(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(index, "INDEX", tmp_path / "index.json")
    monkeypatch.setattr("sys.argv", ["index", "--check"])
    index.INDEX.write_bytes(b"[]\n")
    assert index.main() == 1
    assert capsys.readouterr().out == "index.json is stale: run `python -m blocks.registry.index`\n"
    index.INDEX.write_bytes(index.render())
    assert index.main() == 0
