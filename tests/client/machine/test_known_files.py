"""Files that were read whole before, and are not read again while they stay the same."""

import os
import time

import pytest

from client.actions.patching import apply
from client.machine import known_files
from client.machine.known_files import checked_base, recall, remember, state_of
from client.machine.patch_files import open_checked
from registry.breadcrumbs.checking import check
from registry.breadcrumbs.composing import compose
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.errors import BaseMismatch, InvalidPatch
from tests.support import makers

FOUND = "f" * 64


@pytest.fixture
def settled(monkeypatch):
    """No waiting until a file may be kept."""
    monkeypatch.setattr(known_files, "SETTLED", 0)


@pytest.fixture
def world(tmp_path):
    base = makers.make_checkpoint(tmp_path / "base", shards=2)
    makers.make_patch(base, makers.fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    return tmp_path


def run(world, out="out", base="base"):
    return apply(world / base, [world / "patch.safetensors"], world / out).weights_digest


def spoil(path, at):
    """Change a byte of a file, and give it the size and time of change that it had."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def test_what_was_found_is_known_until_a_state_changes(home, tmp_path):
    states = {"one": (1, 2, 3, 4, 5), "two": (6, 7, 8, 9, 10)}
    remember("kind", states, FOUND, time.time_ns())
    assert recall("kind", states) == FOUND
    assert recall("other", states) is None
    assert recall("kind", {"one": states["one"]}) is None
    assert recall("kind", {"one": states["two"], "two": states["one"]}) is None
    for place in range(5):
        changed = list(states["one"])
        changed[place] += 1
        assert recall("kind", states | {"one": tuple(changed)}) is None


def test_nothing_is_kept_of_a_file_that_was_changed_just_before(home, tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    states = {"file": state_of(file.stat())}
    for place in (3, 4):
        times = [0] * 5
        times[place] = states["file"][place]
        remember("kind", {"file": tuple(times)}, FOUND, time.time_ns())
        assert recall("kind", {"file": tuple(times)}) is None
    later = states["file"][4] + known_files.SETTLED
    remember("kind", states, FOUND, later)
    assert recall("kind", states) == FOUND


def test_another_version_starts_anew(home, monkeypatch):
    states = {"file": (1, 2, 3, 4, 5)}
    remember("kind", states, FOUND, time.time_ns())
    monkeypatch.setattr(known_files, "version", lambda: "999")
    assert recall("kind", states) is None


def test_the_oldest_are_removed(home, monkeypatch):
    monkeypatch.setattr(known_files, "MOST", 10)
    for number in range(25):
        remember("kind", {"file": (number, 2, 3, 4, 5)}, FOUND, time.time_ns())
    kept = [number for number in range(25) if recall("kind", {"file": (number, 2, 3, 4, 5)})]
    assert kept[-1] == 24
    assert len(kept) <= 10


def test_a_cache_that_cannot_be_written_is_left_alone(home):
    home.write_text("a file in the way")
    states = {"file": (1, 2, 3, 4, 5)}
    remember("kind", states, FOUND, time.time_ns())
    assert recall("kind", states) is None


@pytest.mark.usefixtures("settled")
def test_a_patch_and_a_base_that_are_known_are_neither_checked_nor_hashed_again(world, monkeypatch):
    first = run(world, "first")
    monkeypatch.setattr(check, "_Reading", None)  # calling it fails
    monkeypatch.setattr(compose, "_check_base", None)
    assert run(world, "second") == first


def test_without_waiting_everything_is_checked_again(world, monkeypatch):
    run(world, "first")
    monkeypatch.setattr(check, "_Reading", None)
    with pytest.raises(TypeError):
        run(world, "second")


@pytest.mark.usefixtures("settled")
def test_a_patch_that_changed_is_checked_though_its_time_and_size_are_the_same(world):
    run(world, "first")
    patch = world / "patch.safetensors"
    header = 8 + int.from_bytes(patch.read_bytes()[:8], "little")
    spoil(patch, header)  # a bit of the first mask
    with pytest.raises(InvalidPatch):
        run(world, "second")


@pytest.mark.usefixtures("settled")
def test_a_base_that_changed_is_hashed_though_its_time_and_size_are_the_same(world):
    run(world, "first")
    weights = sorted((world / "base").glob("*.safetensors"))[-1]
    spoil(weights, weights.stat().st_size - 1)
    with pytest.raises(BaseMismatch):
        run(world, "second")


@pytest.mark.usefixtures("settled")
def test_a_base_that_changes_while_it_is_read_is_refused(world, monkeypatch):
    run(world, "first")
    weights = sorted((world / "base").glob("*.safetensors"))[-1]
    place = Checkpoint.place

    def spoiling(self, name):
        monkeypatch.setattr(Checkpoint, "place", place)
        spoil(weights, weights.stat().st_size - 1)
        return place(self, name)

    monkeypatch.setattr(Checkpoint, "place", spoiling)
    with pytest.raises(ValueError, match="changed while it was read"):
        run(world, "second")
    assert not (world / "second").exists()


@pytest.mark.usefixtures("settled")
def test_a_known_patch_on_another_base_is_refused_as_an_unknown_one_is(world):
    other = makers.make_checkpoint(world / "other", seed=5)
    fewer = makers.changed(other, world / "fewer", lambda _, tensor: tensor[:1] if tensor.dim() == 1 else tensor)
    for base in ("other", fewer.name):
        with pytest.raises(BaseMismatch):
            run(world, f"{base}-1", base)
    run(world, "first")
    for base in ("other", fewer.name):
        with pytest.raises(BaseMismatch):
            run(world, f"{base}-2", base)


@pytest.mark.usefixtures("settled")
def test_what_is_to_be_checked_anew_is(world, monkeypatch):
    run(world, "first")
    with open_checkpoint(world / "base") as base, open_patch(world / "patch.safetensors") as patch:
        digest = patch.info.base
        with checked_base(base, digest) as known, checked_base(base, digest, anew=True) as known_anew:
            assert (known, known_anew) == (True, False)
        monkeypatch.setattr(check, "_Reading", None)
        with open_checked([world / "patch.safetensors"], digest, base) as checked:
            assert len(checked) == 1
        with pytest.raises(TypeError), open_checked([world / "patch.safetensors"], digest, base, anew=True):
            pass
