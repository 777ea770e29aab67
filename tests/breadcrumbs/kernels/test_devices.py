"""Which device computes: torch is imported only where there is a driver, and torch is installed."""

import sys
from types import SimpleNamespace

import pytest

from registry.breadcrumbs.kernels import devices
from registry.breadcrumbs.kernels.devices import has_cuda, pick_device
from registry.errors import InvalidRequest


class Torch:
    """A torch that sees a GPU, or none."""

    def __init__(self, sees_gpu):
        self.cuda, self.sees_gpu, self.asked = self, sees_gpu, 0

    def is_available(self):
        self.asked += 1
        return self.sees_gpu


def install(monkeypatch, torch, driver):
    def load(name):
        if not driver:
            raise OSError(f"{name}: no such file")

    monkeypatch.setattr(devices.ctypes, "CDLL", load)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: torch)


def test_without_a_driver_torch_is_not_asked(monkeypatch):
    torch = Torch(sees_gpu=True)
    install(monkeypatch, torch, driver=False)
    assert not has_cuda()
    assert pick_device("auto") == "cpu"
    assert torch.asked == 0


@pytest.mark.parametrize("sees_gpu", [True, False])
def test_with_a_driver_torch_says_whether_there_is_a_gpu(monkeypatch, sees_gpu):
    install(monkeypatch, Torch(sees_gpu), driver=True)
    assert pick_device("auto") == ("cuda" if sees_gpu else "cpu")


def test_without_torch_there_is_no_gpu(monkeypatch):
    install(monkeypatch, None, driver=True)
    assert pick_device("auto") == "cpu"
    with pytest.raises(InvalidRequest, match="no torch that can use it"):
        pick_device("cuda")


def test_a_gpu_that_is_asked_for_is_looked_for_without_a_known_driver(monkeypatch):
    install(monkeypatch, Torch(sees_gpu=True), driver=False)
    assert pick_device("cuda") == "cuda"


def test_what_this_process_keeps_on_a_gpu_counts_as_free(monkeypatch):
    """So that the default for the next job is that of the first."""
    cuda = SimpleNamespace(
        current_device=lambda: 1, mem_get_info=lambda device: (5 * devices.GiB, 0), memory_reserved=lambda device: 2**30
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(device=lambda *named: named, cuda=cuda))
    assert devices.find_gpu(None) == (("cuda", 1), 3 * devices.GiB // 2)
    assert devices.find_gpu(2**26) == (("cuda", 1), 2**26)
