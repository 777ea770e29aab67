"""Bases that stay on a GPU, and the time of its phases."""

import contextlib
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from registry.breadcrumbs.composing import variances
from registry.breadcrumbs.composing.gpu.residents import Residents
from registry.breadcrumbs.composing.gpu.work import Work
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.errors import BaseMismatch
from tests.support.gpu_kernels import keep_bases
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

    work, phases = Work(torch.device("cpu"), 64, 64), Phases()
    work._stream, work._marks = Stream(), [Mark(at) for at in (0, 1000, 3000, 6000)]
    work.lost().add_(5)
    assert work.finish(phases) == 5
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

    def use(name, size=40, room=100, device=device):
        return kept.use((name, size), (), room, device)[0]

    first, second = use("a"), use("b")
    assert use("a") is first
    assert use("c")
    assert use("a") is first
    assert use("b") is not second
    assert use("large", 101) is None
    assert use("a") is first
    assert use("a", device=torch.device("meta")) is not first  # each GPU has its own
    assert use("a") is first
    kept.drop("a")
    assert use("a") is not first
    assert use("a", room=30) is None


def test_patches_stay_beside_their_base_as_far_as_they_fit_and_others_leave_for_them():
    kept, device = Residents(), torch.device("cpu")

    def use(base, *patches, room=100):
        return kept.use((base, 40), patches, room, device)

    base, found = use("a", ("one", 30), ("large", 31), ("two", 30))
    assert list(found) == ["one", "two"]
    again, later = use("a", ("three", 10), ("one", 30))
    assert again is base
    assert later["one"] is found["one"]
    assert use("a", ("two", 30))[1]["two"] is not found["two"]  # it had left for the third
    assert use("b", ("one", 30), room=39) == (None, {})
    assert use("a")[0] is not base


def test_after_an_error_the_stream_is_waited_for_before_its_buffers_are_anothers(monkeypatch):
    work, waited = Work(torch.device("cpu"), 64, 64), []

    def synchronize():
        waited.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    work._stream = SimpleNamespace(synchronize=synchronize)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    with pytest.raises(KeyError), work.stream():
        raise KeyError
    assert waited


def test_what_a_launch_needs_is_sent_in_one_go_however_much_it_is():
    work = Work(torch.device("cpu"), 64, 64)
    for rows in (0, 3, 500):
        table, scales = np.arange(5 * rows).reshape(rows, 5), np.linspace(0, 1, rows + 1)
        sent = work.send([table[:, ::-1][:, ::-1], scales, np.arange(rows, dtype=np.int32)])
        assert [part.shape for part in sent] == [(rows, 5), (rows + 1,), (rows,)]
        assert np.array_equal(sent[0].numpy(), table)
        assert np.array_equal(sent[1].numpy(), scales)
        assert all(part.data_ptr() % 16 == 0 for part in sent)
