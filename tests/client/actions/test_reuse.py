"""Pulls that compose here what they can: what moves, what comes out, and what happens when something is wrong here."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client import pull
from client.actions.pulling import here as composing_here
from client.machine import known_files
from client.machine.config import cache
from registry.errors import NotFinite
from tests.support import launcher, makers
from tests.support.visitors import WEIGHTS, Crumb, Files, Registry, model_with_patches

MODEL = "ana/reused"


@pytest.fixture(scope="module")
def refs(registry: Registry, files: Files) -> tuple[str, str]:
    """A model, and two releases of it as it were: patch 1, and patches 1 and 2."""
    from client.actions.composing import compose

    model_with_patches(registry, files, MODEL)
    with registry.client() as client:
        one = compose(client, MODEL, [(1, "1")], alpha="0.5").recipe.digest
        two = compose(client, MODEL, [(1, "1"), (2, "1")], alpha="0.5").recipe.digest
    return f"{MODEL}@{one}", f"{MODEL}@{two}"


@pytest.fixture
def whole(here: Registry, refs: tuple[str, str], crumb: Crumb) -> Path:
    """The second release as it is downloaded, nothing being here."""
    crumb("pull", refs[1], "-o", "whole", "--as-files")
    return crumb.cwd / "whole"


def same(one: Path, two: Path) -> bool:
    """Whether two pulled folders have the same files with the same bytes."""
    return subprocess.run(["diff", "-r", one, two], check=False).returncode == 0


def states(path: Path) -> tuple[bytes, known_files.State]:
    return path.read_bytes(), known_files.state_of(path.stat())


def weights(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in WEIGHTS)


def test_the_next_release_moves_its_missing_patch_alone(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path
) -> None:
    size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file() and ".crumb" not in file.parts)
    card = (whole / "README.md").stat().st_size
    crumb("pull", f"{MODEL}@base", "-o", "it")
    first = crumb.json("pull", refs[0], "-o", "it")
    assert first["composed"] and first["moved"] < files.patches[0].stat().st_size + 2 * card
    second = crumb.json("pull", refs[1], "-o", "it")
    assert second["composed"]
    assert second["moved"] == files.patches[1].stat().st_size + card
    assert second["moved"] + second["saved"] == weights(whole) + card
    assert second["size"] == size
    assert same(crumb.cwd / "it", whole)
    crumb("verify", "it", refs[1])
    again = crumb.json("pull", refs[1], "-o", "it")
    assert (again["moved"], again["saved"], again["composed"]) == (0, 0, False)


def test_a_person_is_told_what_was_saved(here: Registry, refs: tuple[str, str], crumb: Crumb) -> None:
    told = crumb("pull", f"{MODEL}@base", "-o", "base")
    assert "saved" not in told
    assert ": the base was here" in crumb("pull", refs[0], "-o", "one")
    told = crumb("pull", refs[1], "-o", "two")
    assert "saved" in told and " instead of " in told and ": the base and 1 of 2 patches were here" in told
    assert ": the base and 2 of 2 patches were here" in crumb("pull", refs[1], "-o", "three")
    pulled = pull(refs[1], crumb.cwd / "four", quiet=True)
    assert (pulled.composed, pulled.patches_here) == (True, 2)
    assert "the base and 2 of 2 patches were here" in repr(pulled)


def test_a_base_that_was_pulled_elsewhere_is_used_and_left_as_it_is(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path
) -> None:
    crumb("pull", f"{MODEL}@base", "-o", "base")
    before = {path: states(path) for path in (crumb.cwd / "base").rglob("*") if path.is_file()}
    moved = crumb.json("pull", refs[1], "-o", "it")
    patches = sum(patch.stat().st_size for patch in files.patches)
    assert moved["moved"] == patches + (whole / "README.md").stat().st_size  # the tokenizer was copied, too
    assert same(crumb.cwd / "it", whole)
    assert {path: states(path) for path in before} == before
    assert crumb.json("pull", f"{MODEL}@base", "-o", "again")["moved"] == 0
    crumb("verify", "again", f"{MODEL}@base")
    shutil.rmtree(crumb.cwd / "base")
    shutil.rmtree(crumb.cwd / "again")
    assert not crumb.json("pull", refs[0], "-o", "other")["composed"]


def test_a_given_base_is_used_or_told_why_not(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path
) -> None:
    assert crumb.json("pull", refs[1], "-o", "good", "--base", files.base)["composed"]
    assert same(crumb.cwd / "good", whole)
    shutil.rmtree(cache() / "patches")
    makers.write_weights(crumb.cwd / "wrong", makers.read_weights(files.tuned[0]), shards=2)
    for name, base, words in (
        ("other", crumb.cwd / "wrong", "and not the base"),
        ("tuned", files.tuned[0], "does not have the weight files"),  # in one file
        ("empty", crumb.cwd, "does not have the weight files"),
    ):
        wrong = crumb.json("pull", refs[1], "-o", name, "--base", base)
        assert words in crumb.errors and str(base) in crumb.errors
        assert not wrong["composed"]
        assert same(crumb.cwd / name, whole)
    assert not (cache() / "patches").exists()  # no patch travelled in vain
    crumb("pull", refs[1], "-o", "x", "--base", "nowhere", code=1)
    assert "nowhere" in crumb.errors
    crumb("pull", refs[1], "-o", "x", "--base", files.base, "--as-files", code=2)


def spoil(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def test_a_damaged_base_in_the_cache_is_removed_and_the_files_are_downloaded(
    here: Registry, refs: tuple[str, str], crumb: Crumb, whole: Path
) -> None:
    crumb("pull", refs[0], "-o", "one", "--as-patches")
    cached = next((cache() / "bases").iterdir())
    spoil(cached / WEIGHTS[1])
    pulled = crumb.json("pull", refs[1], "-o", "it")
    assert not pulled["composed"]
    assert "was damaged, and is removed" in crumb.errors and str(cached) in crumb.errors
    assert not (cached / WEIGHTS[1]).exists()
    assert same(crumb.cwd / "it", whole)
    crumb("pull", refs[1], "-o", "two")
    assert crumb.errors == ""  # told once
    crumb("pull", refs[1], "-o", "three", "--as-patches")
    assert crumb.json("pull", refs[1], "-o", "four")["composed"]


def test_what_is_damaged_after_it_was_found_sound_is_noticed(
    here: Registry, refs: tuple[str, str], crumb: Crumb, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "SETTLED", 0)
    crumb("pull", f"{MODEL}@base", "-o", "base")
    assert crumb.json("pull", refs[1], "-o", "it")["composed"]
    spoil(crumb.cwd / "base" / WEIGHTS[0])
    shutil.rmtree(crumb.cwd / "it")
    assert not crumb.json("pull", refs[1], "-o", "it")["composed"]
    assert (crumb.cwd / "base" / WEIGHTS[0]).exists()  # a person's own folder
    assert same(crumb.cwd / "it", whole)


def test_a_damaged_patch_in_the_cache_comes_again(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path
) -> None:
    crumb("pull", refs[1], "-o", "it", "--base", files.base)
    for patch in (cache() / "patches").glob("*.safetensors"):
        spoil(patch)
    shutil.rmtree(crumb.cwd / "it")
    assert crumb.json("pull", refs[1], "-o", "it", "--base", files.base)["composed"]
    assert same(crumb.cwd / "it", whole)


@pytest.mark.parametrize("why", [NotFinite("It overflows."), RuntimeError("numba"), MemoryError()])
def test_whatever_fails_here_ends_in_a_download(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path, monkeypatch, why: Exception
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise why

    monkeypatch.setattr(composing_here, "compose_here", fail)
    assert not crumb.json("pull", refs[1], "-o", "it", "--base", files.base)["composed"]
    assert (str(why) or "MemoryError") in crumb.errors and "could not be used" in crumb.errors
    assert same(crumb.cwd / "it", whole)


def test_other_weights_than_the_registry_names_are_not_kept(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.breadcrumbs.composing import engines

    compose = engines.compose_chunk

    def wrong(arena: object, *rest: object) -> int:
        lost = compose(arena, *rest)
        rest[-3][0] ^= 1  # the output
        return lost

    monkeypatch.setattr(engines, "compose_chunk", wrong)
    monkeypatch.setattr("registry.breadcrumbs.composing.small.is_small", lambda entry: False)
    monkeypatch.setattr("registry.breadcrumbs.composing.writer.is_small", lambda entry: False)
    assert not crumb.json("pull", refs[1], "-o", "it", "--base", files.base)["composed"]
    assert "nothing was kept" in crumb.errors
    assert same(crumb.cwd / "it", whole)


def test_without_the_libraries_that_compose_files_are_downloaded_without_a_word(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    pulled = crumb.json("pull", refs[1], "-o", "it", "--base", files.base)
    assert (pulled["composed"], crumb.errors) == (False, "")
    assert same(crumb.cwd / "it", whole)


def test_patches_that_are_larger_than_the_weights_do_not_travel(
    here: Registry, files: Files, crumb: Crumb, tmp_path: Path
) -> None:
    from client.actions.composing import compose
    from client.actions.models import create
    from client.actions.push import push

    large = tmp_path / "large.safetensors"
    makers.make_patch(files.base, files.tuned[0], large, drop_bottom="0", drop_top="0")
    with here.client() as client:
        create(client, "ana/large", files.base)
        push(client, large, "ana/large", "everything")
        address = f"ana/large@{compose(client, 'ana/large', [(1, '1')], alpha='1').recipe.digest}"
    pulled = crumb.json("pull", address, "-o", "it", "--base", files.base)
    assert not pulled["composed"] and not (cache() / "patches").exists()
    assert pulled["saved"] > 0  # files beside the weights were copied
    crumb("verify", "it", address)


def test_nothing_is_composed_where_files_were_asked_for(
    here: Registry, refs: tuple[str, str], crumb: Crumb, whole: Path
) -> None:
    crumb("pull", f"{MODEL}@base", "-o", "it")
    pulled = crumb.json("pull", refs[1], "-o", "it", "--as-files")
    assert (pulled["composed"], pulled["saved"]) == (False, 0)
    assert pulled["moved"] >= weights(whole)
    assert same(crumb.cwd / "it", whole)


@pytest.mark.parametrize("moment", ["fetched", "moved"])
def test_a_pull_that_is_killed_while_it_composes_goes_on(
    here: Registry, refs: tuple[str, str], files: Files, crumb: Crumb, whole: Path, moment: str
) -> None:
    """Killed once patches have come, or once the first of two weight files has replaced the base's."""
    crumb("pull", f"{MODEL}@base", "-o", "it")
    code = (
        "import os, signal, pathlib\n"
        "import client.actions.composing as composing, client.actions.pulling.here as here\n"
        "def kill(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace = pathlib.Path.replace\n"
        "def one(self, target):\n"
        "    done = replace(self, target)\n"
        "    if 'composing' in self.parts and self.suffix == '.safetensors': kill()\n"
        "    return done\n"
        + ("pathlib.Path.replace = one\n" if moment == "moved" else "composing.open_checked = kill\n")
        + "from client.cli import main\n"
        "main()\n"
    )
    killed = launcher.run(code, "pull", refs[1], "-o", str(crumb.cwd / "it"), environment=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((crumb.cwd / "it/.crumb/source.json").read_text())["complete"] is False
    pulled = crumb.json("pull", refs[1], "-o", "it")
    assert pulled["composed"] and pulled["moved"] == (whole / "README.md").stat().st_size
    assert same(crumb.cwd / "it", whole)
    assert not list((crumb.cwd / "it").rglob("composing"))
