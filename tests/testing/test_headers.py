"""Published rows are written to be read in a diff, and replaced only on request."""

from __future__ import annotations

import json

from zoo.testing import published
from zoo.testing.headers import main, render


def test_headers_are_written_one_tensor_to_a_line():
    text = render({"core/a@1": {"weight": [2, 3], "scale": []}})
    assert text == '{\n "core/a@1": {\n  "scale": [],\n  "weight": [2, 3]\n }\n}\n'
    assert json.loads(text) == {"core/a@1": {"weight": [2, 3], "scale": []}}


def test_published_names_are_only_replaced_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("zoo.testing.headers.current", lambda: {"core/a@1": {"w": [2]}, "core/b@1": {}})
    path = tmp_path / "block_headers.json"
    path.write_text(render({"core/a@1": {"weight": [2]}}))
    assert main([], path) == 1
    assert (
        capsys.readouterr().out
        == "published names or shapes changed: core/a@1; nothing was written; --accept replaces them\n"
    )
    assert main(["--accept"], path) == 0
    assert capsys.readouterr().out == "2 blocks: 1 new, 1 changed\n"
    assert published.read(path)["core/a@1"] == {"w": [2]}


def test_new_rows_are_added_without_a_request(tmp_path, capsys):
    path = tmp_path / "digests.json"
    assert published.update(path, {"a": "1"}, [], "digests", "models") == 0
    assert published.update(path, {"a": "1", "b": "2"}, [], "digests", "models") == 0
    assert capsys.readouterr().out == "1 models: 1 new, 0 changed\n2 models: 1 new, 0 changed\n"
    assert path.read_text() == '{\n "a": "1",\n "b": "2"\n}\n'


def test_a_row_that_is_gone_is_a_change(tmp_path, capsys):
    path = tmp_path / "digests.json"
    published.update(path, {"a": "1", "b": "2"}, [], "digests", "models")
    assert published.update(path, {"a": "1"}, [], "digests", "models") == 1
    assert capsys.readouterr().out.endswith(
        "published digests changed: b; nothing was written; --accept replaces them\n"
    )
