"""Deltas of pulled models: made, applied, killed in between, and refused."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from client.actions.patching import apply, diff
from client.actions.pulling import deltas
from client.actions.pulling.target import move_in
from client.machine.folders import read_source
from registry.errors import StorageFull
from registry.files.beside import COMPANION
from tests.support import launcher, makers
from tests.support.visitors import WEIGHTS, Crumb, Files, Registry, model_with_patches

MODEL = "ana/deltas"


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
def ends(here: Registry, refs: tuple[str, str], crumb: Crumb) -> tuple[Path, Path]:
    """The two releases, pulled."""
    crumb("pull", refs[0], "-o", "old")
    crumb("pull", refs[1], "-o", "new")
    return crumb.cwd / "old", crumb.cwd / "new"


@pytest.fixture
def delta(ends: tuple[Path, Path], refs: tuple[str, str], crumb: Crumb) -> Path:
    crumb("delta", *refs, "-o", "d.safetensors")
    return crumb.cwd / "d.safetensors"


def same(one: Path, two: Path) -> bool:
    """Whether two pulled folders have the same files with the same bytes, and the same record of them."""
    return subprocess.run(["diff", "-r", one, two], check=False).returncode == 0


def test_a_delta_brings_a_pulled_folder_up_to_date_as_a_pull_would(
    ends: tuple[Path, Path], delta: Path, refs: tuple[str, str], files: Files, crumb: Crumb
) -> None:
    old, new = ends
    patch = files.patches[1].stat().st_size
    header = int.from_bytes(delta.read_bytes()[:8], "little")
    assert delta.stat().st_size - header < 2 * patch
    applied = crumb.json("apply-delta", "old", delta, "-o", "out", CRUMB_URL="", CRUMB_TOKEN="")
    assert (applied["model"], applied["ref"]) == (MODEL, refs[1].partition("@")[2])
    assert same(crumb.cwd / "out", new)
    crumb("verify", "out")
    assert read_source(old).ref == refs[0].partition("@")[2]
    crumb("apply-delta", "old", delta)
    assert same(old, new)
    crumb("verify", "old", refs[1])
    crumb("apply-delta", "old", delta)  # what is up to date stays so
    assert same(old, new)
    crumb("pull", refs[0], "-o", "old")
    crumb("verify", "old", refs[0])


def test_revisions_in_folders_and_at_the_registry_have_the_same_delta(
    ends: tuple[Path, Path], delta: Path, refs: tuple[str, str], crumb: Crumb, home: Path
) -> None:
    made = crumb.json("delta", "old", "new", "-o", "f.safetensors", CRUMB_URL="", CRUMB_TOKEN="")
    assert (crumb.cwd / "f.safetensors").read_bytes() == delta.read_bytes()
    assert made["size"] == delta.stat().st_size
    assert made["carried"] == ["README.md"]
    assert [path.name for path in (home / "cache").iterdir() if path.name.startswith("delta-")] == []
    crumb("delta", refs[1], refs[1], "-o", "none", code=1)
    assert "the same" in crumb.errors
    for wrong in ("nowhere", "ana/none@base", "a/b/c"):
        crumb("delta", "old", wrong, "-o", "none", code=1)
    crumb("delta", "old", "new", "-o", "new/none", code=1)
    assert "inside the model" in crumb.errors
    crumb("delta", "old", "new", "-o", "no/none", code=1)
    assert not (crumb.cwd / "none").exists()


def test_folders_that_no_pull_brought_have_deltas_without_a_name(files: Files, crumb: Crumb) -> None:
    for name, folder in (("one", files.tuned[0]), ("two", files.tuned[1])):
        shutil.copytree(folder, crumb.cwd / name)
    (crumb.cwd / "one" / "old.txt").write_text("old")
    (crumb.cwd / "two" / "optimizer.bin").write_bytes(b"a pickle")
    crumb("delta", "one", "two", "-o", "d.safetensors")
    crumb("apply-delta", "one", "d.safetensors", "-o", "out")
    (crumb.cwd / "two" / "optimizer.bin").unlink()
    shutil.rmtree(crumb.cwd / "out" / ".crumb")
    assert same(crumb.cwd / "out", crumb.cwd / "two")
    crumb("apply-delta", "one", "d.safetensors", code=1)
    assert "no pull brought it" in crumb.errors
    assert not (crumb.cwd / "one/.crumb/source.json").exists()
    crumb("apply-delta", "one", "d.safetensors", "-o", "out2", "-q")
    for command in (("status", "out2"), ("verify", "out2")):
        crumb(*command, code=1)
        assert "pulled" in crumb.errors


def test_a_delta_brings_a_companion_and_keeps_one(files: Files, crumb: Crumb) -> None:
    for name, folder, value in (("one", files.tuned[0], 1), ("two", files.tuned[1], 2), ("none", files.tuned[0], None)):
        shutil.copytree(folder, crumb.cwd / name)
        if value is not None:
            (crumb.cwd / name / COMPANION).parent.mkdir()
            save_file({"score.weight": torch.full((2, 3), value)}, crumb.cwd / name / COMPANION)
    shutil.copytree(crumb.cwd / "two", crumb.cwd / "kept")
    shutil.copy(crumb.cwd / "one" / COMPANION, crumb.cwd / "kept" / COMPANION)
    for before, after in (("one", "two"), ("none", "two"), ("one", "kept")):
        crumb("delta", before, after, "-o", f"{before}-{after}.safetensors")
        crumb("apply-delta", before, f"{before}-{after}.safetensors", "-o", f"{before}-{after}")
        shutil.rmtree(crumb.cwd / f"{before}-{after}" / ".crumb")
        assert same(crumb.cwd / f"{before}-{after}", crumb.cwd / after), (before, after)


def test_what_fails_while_files_take_their_places_goes_on_later(
    ends: tuple[Path, Path], delta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(work: Path, target: Path, paths: list[str]) -> None:
        move_in(work, target, [path for path in paths if path.endswith(".safetensors")][:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(deltas, "move_in", half)
        deltas.apply_delta(ends[0], delta)
    assert read_source(ends[0]).complete is False
    deltas.apply_delta(ends[0], delta)
    assert same(*ends)


def test_another_model_than_the_earlier_revision_is_refused_and_nothing_is_left_behind(
    ends: tuple[Path, Path], delta: Path, files: Files, crumb: Crumb
) -> None:
    old, _ = ends
    crumb("apply-delta", files.base, delta, "-o", "out", code=1)
    assert "is not the file that ana/deltas@" in crumb.errors
    joined = crumb.cwd / "joined"
    makers.write_weights(joined, makers.read_weights(old))
    crumb("apply-delta", joined, delta, "-o", "out", code=1)
    (old / "tokenizer.json").write_text("{}")
    crumb("apply-delta", old, delta, "-o", "out", code=1)
    assert "tokenizer.json is not the file" in crumb.errors
    (old / "tokenizer.json").unlink()
    crumb("apply-delta", old, delta, "-o", "out", code=1)
    assert "tokenizer.json is missing" in crumb.errors
    crumb("apply-delta", "nowhere", delta, "-o", "out", code=1)
    crumb("apply-delta", old, "nowhere", "-o", "out", code=1)
    assert not (crumb.cwd / "out").exists()


def test_a_damaged_delta_changes_nothing(ends: tuple[Path, Path], delta: Path, crumb: Crumb, refs) -> None:
    old, _ = ends
    shutil.copytree(old, crumb.cwd / "before")
    raw = delta.read_bytes()
    header = int.from_bytes(raw[:8], "little") + 8
    tell = {"weights": raw.find(b'"after":"sha256:') + 20, "values": (header + len(raw)) // 2, "last": len(raw) - 1}
    for where, place in tell.items():
        spoiled = bytearray(raw)
        spoiled[place] = ord("0") if spoiled[place] != ord("0") else ord("1")
        delta.write_bytes(spoiled)
        crumb("apply-delta", "old", delta, code=1)
        assert "The delta d.safetensors is refused" in crumb.errors, where
        crumb("apply-delta", "old", delta, "-o", "out", code=1)
        assert not (crumb.cwd / "out").exists()
        assert same(old, crumb.cwd / "before"), where
        crumb("verify", "old", refs[0])


def test_a_full_disk_changes_nothing(
    ends: tuple[Path, Path], delta: Path, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise StorageFull("There is no room.")

    shutil.copytree(ends[0], crumb.cwd / "before")
    monkeypatch.setattr(deltas, "check_room", full)
    crumb("apply-delta", "old", delta, code=1)
    crumb("apply-delta", "old", delta, "-o", "out", code=1)
    assert same(ends[0], crumb.cwd / "before")
    assert not (crumb.cwd / "out").exists()


@pytest.mark.parametrize("into", ["old", "out"])
def test_a_delta_whose_application_is_killed_is_applied_again(
    ends: tuple[Path, Path], delta: Path, crumb: Crumb, refs: tuple[str, str], into: str
) -> None:
    code = (
        "import os, signal, pathlib\n"
        "replace = pathlib.Path.replace\n"
        "def one(self, target):\n"
        "    done = replace(self, target)\n"
        "    if 'composing' in self.parts and self.suffix == '.safetensors': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        "pathlib.Path.replace = one\n"
        "from client.cli import main\n"
        "main()\n"
    )
    command = ["apply-delta", str(crumb.cwd / "old"), str(delta), "-o", str(crumb.cwd / into)]
    assert launcher.run(code, *command, environment=os.environ).returncode == -signal.SIGKILL
    assert json.loads((crumb.cwd / into / ".crumb/source.json").read_text())["complete"] is False
    changed = [name for name in WEIGHTS if (crumb.cwd / into / name).is_file()]
    assert len(changed) == (2 if into == "old" else 1)
    crumb(*command)
    crumb("verify", into, refs[1])
    assert same(crumb.cwd / into, ends[1])


def train(start: dict[str, torch.Tensor], seed: int, steps: int, rate: float) -> dict[str, torch.Tensor]:
    """Train a small network from given weights to answer as a random one does, and return its weights."""
    random = torch.Generator().manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    network.load_state_dict(start or network.state_dict())
    inputs, teacher = torch.randn(256, 64, generator=random), torch.randn(64, 10, generator=random)
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), (inputs @ teacher).argmax(1)).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_patch_more_of_a_trained_model_is_a_delta_of_that_patchs_size(crumb: Crumb, dtype: torch.dtype) -> None:
    """Three fine-tunings of a network; each release has one patch more, with the same alpha."""

    def save(name: str, weights: dict[str, torch.Tensor]) -> Path:
        makers.write_weights(crumb.cwd / name, {key: tensor.to(dtype) for key, tensor in weights.items()})
        return crumb.cwd / name

    torch.manual_seed(0)
    trained = train({}, 0, 60, 1e-2)
    base, patches = save("base", trained), []
    for number in (1, 2, 3):
        patches.append(crumb.cwd / f"{number}.safetensors")
        diff(base, save(f"tuned-{number}", train(trained, number, 10, 1e-3)), patches[-1])
        apply(base, patches, crumb.cwd / f"{number}", alpha="0.4", device="cpu")
        if number > 1:
            old, new, file = crumb.cwd / f"{number - 1}", crumb.cwd / f"{number}", crumb.cwd / "d.safetensors"
            made = deltas.make_delta(old, new, file)
            assert made.size - (new / "README.md").stat().st_size <= 1.1 * patches[-1].stat().st_size
            out = crumb.cwd / f"made-{number}"
            assert deltas.apply_delta(old, file, out).weights_digest == made.after
            shutil.rmtree(out / ".crumb")
            assert same(out, new)
