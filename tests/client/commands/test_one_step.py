"""`crumb push` of a tuned model: the patch is made, pushed and proposed by one command."""

import inspect
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client.api.client import Client
from client.commands.composing.local import diff
from client.commands.curation.patches import push
from client.machine.locks import locked
from client.terminal.console import Console
from registry.breadcrumbs.formats.patchfile import open_patch
from tests.support import launcher, makers
from tests.support.adapter_makers import factors, write_adapter
from tests.support.visitors import Crumb, Files, Registry

MODEL = "ana/step"


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    from client.actions.models import create

    with registry.client() as client:
        create(client, MODEL, files.base)
    return MODEL


def fine_tuned(base: Path, folder: Path, seed: int) -> Path:
    plain = folder.with_name(f"{folder.name}-base")
    shutil.copytree(base, plain, ignore=shutil.ignore_patterns("tokenizer", ".crumb"), dirs_exist_ok=True)
    return makers.fine_tuned(plain, folder, seed)


def drafts(home: Path) -> list[Path]:
    return list((home / "cache" / "drafts").glob("*.safetensors"))


def test_a_tuned_folder_is_one_command_from_its_proposal(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path
) -> None:
    pushed = crumb.json("push", files.tuned[0], model, "-m", "one", "--propose", "--keep", "kept/one.safetensors")
    assert (pushed["state"], pushed["check"], pushed["title"]) == ("proposed", "checked", "one")
    assert (crumb.cwd / "kept/one.safetensors").read_bytes() == files.patches[0].read_bytes()
    assert "weights (" in crumb.errors
    again = crumb.json("push", files.base, files.tuned[0], model, "-m", "one", "--propose")
    assert (again["number"], again["sha256"]) == (pushed["number"], pushed["sha256"])
    assert drafts(home) == []


def test_the_base_comes_once_and_stays_in_the_cache(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.actions import downloads

    fetched: list[str] = []
    fill = downloads._fill
    monkeypatch.setattr(downloads, "_fill", lambda *a, **k: (fetched.append(a[1].target.name), fill(*a, **k))[1])
    for seed in (11, 12):
        fine_tuned(files.base, crumb.cwd / str(seed), seed)
        crumb("push", seed, model, "-m", str(seed))
    assert len(fetched) == len(set(fetched)) > 0
    assert list((home / "cache" / "bases").iterdir())


def test_the_settings_of_a_model_hold_where_no_option_is_given(
    here: Registry, files: Files, crumb: Crumb, home: Path
) -> None:
    crumb("model", "create", "ana/masked", "--base", files.base)
    shown = crumb("model", "set", "ana/masked", "--drop-bottom", "0.7", "--value-dtype", "bf16")
    assert "drop_bottom 0.7, value_dtype BF16" in shown
    assert crumb.json("model", "set", "ana/masked", "--granularity", "row")["mask"] == {
        "drop_bottom": "0.7", "value_dtype": "BF16", "granularity": "row",
    }  # fmt: skip
    mask = ("--drop-bottom", "0.7", "--value-dtype", "BF16", "--granularity", "row")
    made = crumb.json("diff", files.base, files.tuned[0], "-o", "a", *mask)
    pushed = crumb.json("push", files.tuned[0], "ana/masked", "-m", "one")
    assert pushed["sha256"] == made["sha256"]
    assert "By the settings of ana/masked: drop_bottom 0.7, granularity row, value_dtype BF16." in crumb.errors
    plain = ("--drop-bottom", "0.85", "--granularity", "tensor", "--value-dtype", "auto")  # the general defaults
    pushed = crumb.json("push", files.tuned[0], "ana/masked", "-m", "two", *plain)
    assert pushed["sha256"] == crumb.json("diff", files.base, files.tuned[0], "-o", "b")["sha256"]
    assert "By the settings" not in crumb.errors
    assert crumb.json("model", "set", "ana/masked", "--mask-none")["mask"] == {}


def test_an_adapter_and_options_of_a_diff_work_as_they_do_there(
    here: Registry, model: str, files: Files, crumb: Crumb
) -> None:
    module = "layers.0.attention"
    write_adapter(crumb.cwd / "adapter", factors(module, 48, 16))
    made = crumb.json("diff", files.base, "adapter", "-o", "a", "--drop-bottom", "0.5", "--value-dtype", "f32")
    pushed = crumb.json("push", "adapter", model, "-m", "lora", "--drop-bottom", "0.5", "--value-dtype", "f32")
    assert pushed["sha256"] == made["sha256"]
    assert "LoRA" in crumb.errors
    file = crumb.json(
        "push", "adapter/adapter_model.safetensors", model, "-m", "lora", "--drop-bottom", "0.5", "--value-dtype", "F32"
    )
    assert file["number"] == pushed["number"]


def test_push_takes_every_option_of_diff() -> None:
    shown = inspect.signature(push).parameters
    options = {name: it for name, it in inspect.signature(diff).parameters.items() if it.default != it.empty}
    assert len(options) > 8
    assert {name for name, it in options.items() if shown[name] != it} == set()


def test_a_patch_file_is_pushed_as_it_is_and_takes_no_options_of_a_diff(
    here: Registry, model: str, files: Files, crumb: Crumb
) -> None:
    for more in (("--drop-top", "0"), ("--keep", "x"), ("--exclude", "embed*")):
        crumb("push", files.patches[1], model, "-m", "two", *more, code=1)
        assert "is a patch already" in crumb.errors
    crumb("push", files.base, files.patches[1], model, "-m", "two", code=1)
    assert "leave out a base" in crumb.errors
    assert crumb.json("push", files.patches[1], model, "-m", "two")["check"] == "checked"


def test_what_cannot_become_a_patch_is_one_sentence_and_leaves_nothing_behind(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path
) -> None:
    with here.client() as client:
        before = client.model(model).patches
    crumb("push", files.base, model, "-m", "t", code=1)
    assert "base and tuned are equal" in crumb.errors
    crumb("push", files.tuned[1], files.tuned[0], model, "-m", "t", code=1)
    assert "pinned to" in crumb.errors and "Leave the base out" in crumb.errors
    (crumb.cwd / "other").mkdir()
    makers.write_weights(crumb.cwd / "other", {"another.weight": torch.ones(2)})
    crumb("push", "other", model, "-m", "t", code=1)
    assert "another.weight" in crumb.errors or "embed.weight" in crumb.errors
    (crumb.cwd / "half.safetensors").write_bytes(files.patches[0].read_bytes()[:50])
    crumb("push", "half.safetensors", model, "-m", "t", code=1)
    assert "half.safetensors" in crumb.errors
    (crumb.cwd / "model.bin").write_bytes(b"pickle")
    crumb("push", "model.bin", model, "-m", "t", code=1)
    assert "never opened" in crumb.errors
    crumb("push", "missing", model, "-m", "t", code=1)
    assert "There is no 'missing'" in crumb.errors
    crumb("push", files.tuned[0], model, "-m", "t", "--keep", files.tuned[0] / "patch.safetensors", code=1)
    assert "inside the model" in crumb.errors
    crumb("push", files.tuned[0], model, "-m", "t", code=1, CRUMB_TOKEN="")
    assert "token" in crumb.errors
    crumb("push", "a", "b", "c", model, "-m", "t", code=2)
    assert "the base and then the tuned model" in crumb.errors
    assert drafts(home) == []
    with here.client() as client:
        assert client.model(model).patches == before


def test_a_push_that_was_killed_goes_on_without_another_diff(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = fine_tuned(files.base, crumb.cwd / "tuned", 21)
    code = (
        "import os, signal, client.api.client as api\n"
        "api.Client.complete_upload = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from client.cli import main\n"
        "main()\n"
    )
    killed = launcher.run(code, "push", str(tuned), model, "-m", "killed", environment=os.environ)
    assert killed.returncode == -signal.SIGKILL
    (draft,) = drafts(home)
    with open_patch(draft) as patch:
        nnz = sum(patch.info.nnz.values())

    def diff_again(*_: object, **__: object) -> None:
        raise AssertionError("made anew")

    monkeypatch.setattr("client.actions.push_tuned.diff", diff_again)
    monkeypatch.setattr("client.api.client.Client.send_part", diff_again)
    pushed = crumb.json("push", tuned, model, "-m", "killed")
    assert "made before" in crumb.errors
    assert pushed["nnz"] == nnz
    assert drafts(home) == []


def test_drafts_that_nobody_goes_on_with_are_removed_by_a_later_push(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path
) -> None:
    folder, day = home / "cache" / "drafts", 86400
    folder.mkdir(parents=True, exist_ok=True)
    ages = {"old.safetensors": 15, "young.safetensors": 13, "held.safetensors": 15, ".killed.tmp": 15, ".now.tmp": 0.5}
    for name, days in ages.items():
        (folder / name).touch()
        os.utime(folder / name, (time.time() - days * day,) * 2)
    with locked(folder, Console(quiet=True), "held.lock"):
        crumb("push", files.tuned[0], model, "-m", "one")
        assert {path.name for path in folder.iterdir()} == {*ages, ".crumb"} - {"old.safetensors", ".killed.tmp"}
    crumb("push", files.tuned[0], model, "-m", "one", code=1, CRUMB_DRAFT_DAYS="soon")
    assert "CRUMB_DRAFT_DAYS cannot be 'soon'" in crumb.errors
    crumb("push", files.tuned[0], model, "-m", "one", CRUMB_DRAFT_DAYS="0")
    assert {path.name for path in folder.iterdir()} == {".crumb", ".now.tmp"}, "a diff may be under way"


def test_the_registry_is_asked_once_who_pushes_and_for_which_base(
    here: Registry, model: str, files: Files, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(name: str) -> None:
        method = getattr(Client, name)
        monkeypatch.setattr(Client, name, lambda *a, **k: (asked.append(name), method(*a, **k))[1])

    counted("whoami")
    counted("model")
    crumb("push", files.tuned[0], model, "-m", "one")
    assert sorted(asked) == ["model", "whoami"]


def test_a_draft_of_a_model_that_changed_since_is_not_used(
    here: Registry, model: str, files: Files, crumb: Crumb, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = fine_tuned(files.base, crumb.cwd / "tuned", 31)
    with monkeypatch.context() as patch:
        patch.setattr("client.actions.push_tuned.push_to", _interrupt)
        crumb("push", tuned, model, "-m", "t", code=130)
    (draft,) = drafts(home)
    stale = draft.read_bytes()
    fine_tuned(files.base, tuned, 32)
    crumb("push", tuned, model, "-m", "t", "--keep", "kept")
    assert "made before" not in crumb.errors
    assert (crumb.cwd / "kept").read_bytes() != stale


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_of_a_model_that_was_tuned_from_a_composition_what_was_learned_on_top_is_pushed(
    here: Registry, files: Files, crumb: Crumb, home: Path
) -> None:
    name = "ana/ontop"
    crumb("model", "create", name, "--base", files.base)
    crumb("push", files.tuned[0], name, "-m", "first")
    digest = crumb.json("compose", name, 1, "--alpha", "0.5")["recipe"]["digest"]
    crumb("pull", f"{name}@{digest}", "-o", "composed", "--as-files")
    tuned = fine_tuned(crumb.cwd / "composed", crumb.cwd / "tuned", 31)
    (home / "cache" / "drafts" / ".killed.origin").mkdir()
    pushed = crumb.json(
        "push", tuned, name, "-m", "second", "--tuned-from", digest[:12], "--keep", "second.safetensors"
    )
    crumb("diff", "composed", tuned, "-o", "wanted.safetensors")
    with open_patch(crumb.cwd / "second.safetensors") as made, open_patch(crumb.cwd / "wanted.safetensors") as wanted:
        assert made.info.base == pushed["base"] != wanted.info.base
    found, expected = (load_file(crumb.cwd / f"{each}.safetensors") for each in ("second", "wanted"))
    assert found.keys() == expected.keys() and all(torch.equal(found[each], expected[each]) for each in found)
    assert drafts(home) == [*(home / "cache" / "drafts").glob(".*.origin")] == []
    crumb("push", files.base, tuned, name, "-m", "x", "--tuned-from", digest[:12], code=1)
    assert "leave the base out" in crumb.errors
    crumb("push", "second.safetensors", name, "-m", "x", "--tuned-from", digest[:12], code=1)
    assert "leave out tuned_from" in crumb.errors
