"""TorchScript archives: read without their code, and refused if they ask for anything but tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark.untrusted.pickles import RefusedPickle, UnreadableFile
from benchmark.untrusted.torchscript import is_torchscript, load_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # TorchScript itself is old


class Network(nn.Module):
    """Parameters of two types, a buffer, and modules within modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3).half()
        self.inner = nn.Sequential(nn.LayerNorm(3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))
        self.own = nn.Parameter(torch.randn(2, 2).T)
        self.register_buffer("size", torch.tensor(224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.inner(self.first(x.half()).float())
        return h


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "network.pt"
    torch.jit.save(torch.jit.trace(Network(), torch.zeros(1, 2)), path)
    return path


def rewritten(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """The archive with changed records."""
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def test_tensors_are_those_of_torch(archive: Path) -> None:
    assert is_torchscript(archive)
    found, wanted = load_torchscript(archive), torch.jit.load(str(archive)).state_dict()
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert found[name].dtype == x.dtype
        assert torch.equal(found[name], x)


def test_code_is_not_read(archive: Path) -> None:
    def broken(name: str, content: bytes) -> bytes:
        return b"while True: pass" if "/code/" in name else content

    assert load_torchscript(rewritten(archive, broken)).keys() == load_torchscript(archive).keys()


def test_a_checkpoint_is_no_torchscript(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, tmp_path / "state.pt")
    assert not is_torchscript(tmp_path / "state.pt")
    with pytest.raises(UnreadableFile, match="no TorchScript archive"):
        load_torchscript(tmp_path / "state.pt")


def test_a_pickle_that_calls_something_else_is_refused(archive: Path, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    evil = pickle.dumps(Runs(), protocol=2)
    changed = rewritten(archive, lambda name, content: evil if name.endswith("/data.pkl") else content)
    with pytest.raises(RefusedPickle):
        load_torchscript(changed)
    assert not (tmp_path / "ran").exists()


def test_tensors_beyond_their_bytes_and_compressed_ones_are_refused(archive: Path) -> None:
    short = rewritten(archive, lambda name, content: content[:1] if "/data/" in name else content)
    with pytest.raises(UnreadableFile):
        load_torchscript(short)
    with pytest.raises(RefusedPickle, match="compressed"):
        load_torchscript(rewritten(archive, lambda name, content: content, zipfile.ZIP_DEFLATED))


def test_a_module_that_holds_itself_ends(archive: Path) -> None:
    # PROTO 2, a module (memo 0), its state {"me": memo 0}, BUILD.
    own = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x02\x00\x00\x00meh\x00sb."
    changed = rewritten(archive, lambda name, content: own if name.endswith("/data.pkl") else content)
    assert load_torchscript(changed) == {}


def test_a_damaged_archive_is_reported(archive: Path) -> None:
    content = archive.read_bytes()
    position = content.index(b"data.pkl") + 200
    archive.write_bytes(content[:position] + b"\xff" * 40 + content[position + 40 :])
    with pytest.raises(UnreadableFile):
        load_torchscript(archive)
