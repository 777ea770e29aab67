"""Scratch models: one folder for one candidate after another, whatever a command did to it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.machine.folders import files_beside
from client.trials.bench import Bench, Candidate, ScaledPatch, open_bench
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.errors import JobFailed, NotFinite
from registry.schemas import RecipeItem
from tests.support import makers

HUGE = "9" * 20 + "." + "9" * 20
NAMES = {"config.json", "tokenizer.json", "vocab.txt", "words"}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Bench]:
    base = makers.make_checkpoint(tmp_path / "base", shards=2)
    tuned = makers.fine_tuned(base, tmp_path / "tuned", scale=1e20)
    (base / "words").mkdir()
    (base / "words" / "vocab.txt").write_text("a\n")
    info = makers.make_patch(base, tuned, tmp_path / "patch.safetensors")
    with (
        open_checkpoint(base) as checkpoint,
        open_patch(tmp_path / "patch.safetensors") as patch,
        open_bench(
            info.base, checkpoint, files_beside(base, checkpoint.indexes), {str(info.sha256): patch}, keep=None
        ) as bench,
    ):
        yield bench


def candidate(bench: Bench, alpha: str) -> Candidate:
    (sha256,) = bench.patches
    item = RecipeItem(sha256=sha256, weight="1", number=1, revision=1, title="", author=None, license=None, state=None)
    return Candidate(bench.base, (ScaledPatch(item, alpha),))


def weights(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def inodes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in folder.glob("*.safetensors")}


def fresh(bench: Bench, alpha: str, tmp_path: Path) -> dict[str, bytes]:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    compose(bench.checkpoint, bench.patches, candidate(bench, alpha).recipe(), folder, "cpu")
    return weights(folder)


def test_a_folder_becomes_the_next_candidate_under_its_name(opened: Bench, tmp_path: Path) -> None:
    with opened.model(candidate(opened, "0.5"), "one") as one:
        assert weights(one) == fresh(opened, "0.5", tmp_path)
        assert {path.name for path in one.rglob("*") if "safetensors" not in path.name} == NAMES
        before = inodes(one)
    with opened.model(candidate(opened, "0.25"), "two") as two:
        assert (one.name, two.name, one.exists(), one.parent) == ("one", "two", False, two.parent)
        assert weights(two) == fresh(opened, "0.25", tmp_path)
        assert inodes(two) == before
    place = two.parent.parent
    assert [folder.name for folder in place.iterdir()] == [two.parent.name]


def test_candidates_that_are_tried_at_a_time_have_a_folder_each(opened: Bench, tmp_path: Path) -> None:
    with opened.model(candidate(opened, "0.5"), "one") as one, opened.model(candidate(opened, "1"), "two") as two:
        assert weights(one) == fresh(opened, "0.5", tmp_path)
        assert weights(two) == fresh(opened, "1", tmp_path)


def test_a_candidate_that_overflows_leaves_no_model_and_the_next_is_right(opened: Bench, tmp_path: Path) -> None:
    for alphas in (HUGE, "0.5"), ("0.5", HUGE, HUGE, "0.25"):
        for alpha in alphas:
            if alpha != HUGE:
                with opened.model(candidate(opened, alpha), alpha) as folder:
                    assert weights(folder) == fresh(opened, alpha, tmp_path)
                continue
            with pytest.raises(NotFinite), opened.model(candidate(opened, alpha), "huge"):
                pass
            (place,) = opened.scratch.iterdir()
            assert {folder.name for folder in place.iterdir()} == {".composing"}


def test_what_is_half_written_has_no_name(opened: Bench, tmp_path: Path) -> None:
    with opened.model(candidate(opened, "0.5"), "one"):
        opened.ended.set()  # as an interruption does
    with pytest.raises(JobFailed, match="ended"), opened.model(candidate(opened, "0.25"), "two"):
        pass
    (place,) = opened.scratch.iterdir()
    assert {folder.name for folder in place.iterdir()} == {".composing"}
    opened.ended.clear()
    with opened.model(candidate(opened, "0.25"), "three") as folder:
        assert weights(folder) == fresh(opened, "0.25", tmp_path)


def write(folder: Path) -> None:
    file = min(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")


MEDDLING: dict[str, Callable[[Path], object]] = {
    "adds a file": lambda folder: (folder / "converted.gguf").write_text("x"),
    "adds a folder": lambda folder: (folder / "cache").mkdir(),
    "removes a file": lambda folder: (folder / "config.json").unlink(),
    "removes the folder": shutil.rmtree,
    "moves the folder": lambda folder: folder.rename(folder.with_name("mine")),
    "writes weights": write,
    "links weights": lambda folder: os.link(min(folder.glob("*.safetensors")), folder.parents[1] / "link"),
}


@pytest.mark.parametrize("meddle", MEDDLING)
def test_a_folder_that_a_command_changed_is_not_used_again(opened: Bench, tmp_path: Path, meddle: str) -> None:
    with opened.model(candidate(opened, "0.5"), "one") as one:
        before = weights(one)
        MEDDLING[meddle](one)
    with opened.model(candidate(opened, "0.25"), "two") as two:
        assert weights(two) == fresh(opened, "0.25", tmp_path)
        assert {path.name for path in two.rglob("*") if "safetensors" not in path.name} == NAMES
        assert [folder.name for folder in two.parent.iterdir()] == ["two"]
    if meddle == "links weights":
        assert (opened.scratch / "link").read_bytes() == before[min(before)]


def test_models_that_are_kept_have_a_folder_each(opened: Bench, tmp_path: Path) -> None:
    opened.keep = tmp_path / "kept"
    for alpha in ("0.5", "0.25"):
        with opened.model(candidate(opened, alpha), alpha):
            pass
    with pytest.raises(NotFinite), opened.model(candidate(opened, HUGE), "huge"):
        pass
    assert {folder.name for folder in opened.keep.iterdir()} == {"0.5", "0.25"}
    for alpha in ("0.5", "0.25"):
        assert weights(opened.keep / alpha) == fresh(opened, alpha, tmp_path)
        assert {path.name for path in (opened.keep / alpha).rglob("*") if "safetensors" not in path.name} == NAMES
