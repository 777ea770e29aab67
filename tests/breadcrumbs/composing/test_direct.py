"""Direct reading from disk to GPU, with a kvikio that reads into the CPU's memory."""

import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from registry.breadcrumbs.composing.gpu import direct
from registry.breadcrumbs.composing.gpu.direct import DirectReader, open_direct_reader
from registry.errors import InvalidInput
from tests.support.kvikio_stand_in import KvikIo


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    with path.open("rb") as opened:
        yield opened.fileno()


def test_parts_arrive_where_they_belong_and_nothing_else_is_written(file):
    kvikio, there = KvikIo(), torch.full((6000,), 77, dtype=torch.uint8)
    parts = [(file, 4095, 64, 3), (file, 4096, 128, 4097), (file, 0, 5000, 1), (file, 10_239, 5999, 1)]
    with DirectReader(kvikio) as reader:
        reader.read(parts, there)
        expected = torch.full((6000,), 77, dtype=torch.uint8)
        for _, at, to, length in parts:
            expected[to : to + length] = torch.tensor([(at + more) % 256 for more in range(length)])
        assert torch.equal(there, expected)
        assert len(kvikio.files) == 1
        assert kvikio.files[0].opened is not None
    assert kvikio.files[0].opened is None


@pytest.mark.parametrize(("failing", "error"), [(False, InvalidInput), (True, RuntimeError)])
def test_every_read_has_ended_before_an_error_is_told(file, failing, error):
    kvikio, there = KvikIo(failing), torch.zeros(9000, dtype=torch.uint8)
    with DirectReader(kvikio) as reader, pytest.raises(error):
        reader.read([(file, 0, 0, 10), (file, 10_000, 64, 1000), (file, 20, 2000, 10)], there)
    assert [read.done for read in kvikio.reads] == 3 * [True]


def test_several_threads_open_a_file_once(file):
    kvikio, together = KvikIo(), threading.Barrier(4)
    with DirectReader(kvikio) as reader:

        def read():
            together.wait()
            reader.read([(file, 0, 0, 8)], torch.zeros(8, dtype=torch.uint8))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(kvikio.files) == 1


@pytest.mark.parametrize(
    ("available", "mode", "expected"), [(True, "AUTO", True), (True, "ON", False), (False, "AUTO", False)]
)
def test_files_are_read_directly_where_the_system_can(monkeypatch, available, mode, expected):
    library = SimpleNamespace(CompatMode=SimpleNamespace(ON="ON"))
    library.cufile_driver = SimpleNamespace(properties=SimpleNamespace(is_gds_available=available))
    library.defaults = SimpleNamespace(compat_mode=lambda: mode)
    for name in ("kvikio", "kvikio.cufile_driver", "kvikio.defaults"):
        monkeypatch.setitem(sys.modules, name, library)
    assert (open_direct_reader(torch.device("cuda")) is not None) is expected
    assert open_direct_reader(torch.device("cpu")) is None


def test_without_kvikio_nothing_is_read_directly(monkeypatch):
    monkeypatch.setitem(sys.modules, "kvikio", None)
    assert direct.open_direct_reader(torch.device("cuda")) is None
