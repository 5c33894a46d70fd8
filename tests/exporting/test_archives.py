"""Archives of torch on a disk that is full: an error, and not the end of the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo.exporting.archives import write_archive


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_archive(Path("/dev/full"), lambda file: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), file))


def test_an_archive_is_read_as_torch_writes_it(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 3)
    program = torch.export.export(net, (torch.ones(1, 2),))
    write_archive(tmp_path / "net.pt2", lambda file: torch.export.save(program, file))
    assert torch.equal(torch.export.load(str(tmp_path / "net.pt2")).module()(torch.ones(1, 2)), net(torch.ones(1, 2)))
