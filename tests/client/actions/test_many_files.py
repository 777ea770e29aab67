"""More patches in one `crumb apply`, and more shards of a base, than a process may open at first."""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import makers
from tests.support.many import write_many

PATCHES, SHARDS = 90, 100
MANY = 3 * SHARDS


def crumb(soft: int, hard: int, arguments: Sequence[object], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `crumb` in a process of its own, which may open so many files."""
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "from client.cli import main; sys.argv[0] = 'crumb'; main()"
    )
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and as many patches for it as files may be open at first, and more."""
    folder = tmp_path_factory.mktemp("patches")
    base = makers.make_checkpoint(folder / "base", shapes={"w": (8, 8)})
    for number in range(PATCHES):
        tuned = makers.fine_tuned(base, folder / f"tuned{number}", seed=number)
        makers.make_patch(base, tuned, folder / f"p{number}.safetensors")
    return folder


def apply_all(patches: Path) -> list[object]:
    return ["apply", "base", *(f"p{number}.safetensors" for number in range(PATCHES)), "--alpha", "0.01"]


def test_more_patches_than_files_may_be_open_at_first_are_composed(patches: Path) -> None:
    done = crumb(64, resource.getrlimit(resource.RLIMIT_NOFILE)[1], [*apply_all(patches), "-o", "m", "-q"], patches)
    assert (done.returncode, done.stderr) == (0, "")
    assert crumb(4096, 4096, [*apply_all(patches), "-o", "n", "-q"], patches).stdout == done.stdout


def test_more_patches_than_the_system_allows_are_one_sentence_that_names_the_limit(patches: Path) -> None:
    done = crumb(64, 64, [*apply_all(patches), "-o", "none"], patches)
    assert done.returncode == 1
    assert "crumb: This needs more files open at once than the 64 that a process may open here." in done.stderr
    assert "ulimit -n" in done.stderr
    assert not (patches / "none").exists()


def test_a_base_of_more_shards_than_files_may_be_open_at_first_is_diffed_and_composed(tmp_path: Path) -> None:
    write_many(tmp_path / "base", MANY, shards=SHARDS)
    write_many(tmp_path / "tuned", MANY, moved=0.05, shards=SHARDS)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    made = crumb(64, hard, ["diff", "base", "tuned", "-o", "p.safetensors", "--json"], tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["tensors"] == MANY
    done = crumb(64, hard, ["apply", "base", "p.safetensors", "-o", "m", "-q"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == SHARDS
    assert crumb(64, 64, ["digest", "base"], tmp_path).stderr.startswith("crumb: This needs more files open at once")
