"""Bases that stay on a GPU, and the time of its phases."""

import hashlib

import pytest
import torch

from registry.breadcrumbs.composing import variances
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.residents import Residents
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.errors import BaseMismatch
from tests.support.gpu_kernels import gpu_engine, keep_bases
from tests.support.science_makers import (
    PatchedBase,
)

pytestmark = [  # the interpreter's numpy: an overflow, a signalling NaN
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in (cast|add):RuntimeWarning"),
]


@pytest.fixture
def keeping(monkeypatch):
    """Let compose() use a GPU that keeps bases."""
    return keep_bases(monkeypatch)


def overwrite(file, tensor, content):
    with open_checkpoint(file) as checkpoint:
        entry = checkpoint.headers[file.name].entries[tensor]
    whole = file.read_bytes()
    file.write_bytes(whole[: entry.start] + content + whole[entry.start + len(content) :])


def test_the_time_between_two_marks_is_that_of_one_phase():
    class Stream:
        def synchronize(self):
            self.waited = True

    class Mark:
        def __init__(self, milliseconds):
            self.at = milliseconds

        def elapsed_time(self, later):
            return later.at - self.at

    work, phases = gpu_engine._Work(torch.device("cpu"), 64, 64), Phases()
    work._stream, work._marks = Stream(), [Mark(at) for at in (0, 1000, 3000, 6000)]
    work.finish(phases)
    assert work._stream.waited
    assert phases.seconds == {"H2D": 1.0, "kernel": 2.0, "D2H": 3.0}


def test_a_base_that_stays_on_the_gpu_is_not_read_again(tmp_path, keeping):
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu", alpha="0.7").weights_digest
    world.compose("first", device="cuda")
    file = tmp_path / "base/model.safetensors"
    for tensor in ("bfloat16", "float64"):
        overwrite(file, tensor, b"what is on disk now")
    again = world.compose("again", alpha="0.7", device="cuda", file_digests=True)
    assert again.weights_digest == expected
    found = (tmp_path / "again/model.safetensors").read_bytes()
    assert found == (tmp_path / "cpu/model.safetensors").read_bytes()
    assert hashlib.sha256(found).hexdigest() == again.files["model.safetensors"].sha256


def test_negative_variances_are_counted_of_a_base_that_stays_on_the_gpu(tmp_path, keeping, monkeypatch):
    monkeypatch.setattr(variances, "ENDING", "float32")
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu", alpha="0.7").negative
    assert expected["float32"] > 0
    assert world.compose("first", alpha="0.7", device="cuda").negative == expected
    assert world.compose("again", alpha="0.7", device="cuda").negative == expected


def test_nothing_stays_of_a_base_in_which_something_is_wrong(tmp_path, keeping):
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu").weights_digest
    file = tmp_path / "base/model.safetensors"
    sound = file.read_bytes()
    overwrite(file, "bfloat16", b"damage")
    with pytest.raises(BaseMismatch):
        world.compose("damaged", device="cuda")
    file.write_bytes(sound)
    assert world.compose("sound", device="cuda").weights_digest == expected
    overwrite(file, "untouched", b"damage")  # no patch touches it, so it does not stay, and is read each time
    with pytest.raises(BaseMismatch):
        world.compose("later", device="cuda")


def test_the_base_that_was_used_longest_ago_leaves_first():
    kept = Residents()
    device = torch.device("cpu")
    first, second = (kept.use(name, 40, 100, device) for name in "ab")
    assert kept.use("a", 40, 100, device) is first
    assert kept.use("c", 40, 100, device)
    assert kept.use("a", 40, 100, device) is first
    assert kept.use("b", 40, 100, device) is not second
    assert kept.use("large", 101, 100, device) is None
    assert kept.use("a", 40, 100, device) is first
    kept.drop("a")
    assert kept.use("a", 40, 100, device) is not first
    assert kept.use("a", 40, 30, device) is None
