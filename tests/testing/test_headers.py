"""The golden names of state dicts are written to be read in a diff, and replaced only on request."""

from __future__ import annotations

import json

from zoo.testing.headers import main, read, render


def test_headers_are_written_one_tensor_to_a_line():
    text = render({"core/a@1": {"weight": [2, 3], "scale": []}})
    assert text == '{\n "core/a@1": {\n  "scale": [],\n  "weight": [2, 3]\n }\n}\n'
    assert json.loads(text) == {"core/a@1": {"weight": [2, 3], "scale": []}}


def test_published_names_are_only_replaced_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("zoo.testing.headers.current", lambda: {"core/a@1": {"w": [2]}, "core/b@1": {}})
    path = tmp_path / "golden.json"
    path.write_text(render({"core/a@1": {"weight": [2]}}))
    assert main([], path) == 1
    assert (
        capsys.readouterr().out
        == "published names or shapes changed: core/a@1; nothing was written; --accept replaces them\n"
    )
    assert main(["--accept"], path) == 0
    assert capsys.readouterr().out == "2 blocks: 1 new, 1 changed\n"
    assert read(path)["core/a@1"] == {"w": [2]}
