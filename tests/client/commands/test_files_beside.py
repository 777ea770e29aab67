"""Files beside the weights from a tuned folder to a release: pushed, looked at, taken, pulled and verified."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support import makers
from tests.support.visitors import Crumb, Files, Registry

MODEL = "ana/beside"
TEMPLATE = "{{ messages }}"


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    from client.actions.models import create

    with registry.client() as client:
        create(client, MODEL, files.base)
        client.update_model(MODEL, min_approvals=0)
    return MODEL


def tuned(base: Path, folder: Path, seed: int) -> Path:
    """Write a tuned model with another config, a chat template, and what a training leaves behind."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    plain = folder.with_name(f"{folder.name}-base")
    shutil.copytree(base, plain, ignore=shutil.ignore_patterns("tokenizer"))
    makers.fine_tuned(plain, folder, seed)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 1e6, "transformers_version": "5.0.0"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_files_go_from_a_tuned_folder_into_a_release(here: Registry, model: str, files: Files, crumb: Crumb) -> None:
    folder = tuned(files.base, crumb.cwd / "tuned", 41)
    pushed = crumb.json("push", folder, model, "-m", "long context", "--propose")
    assert [file["path"] for file in pushed["files"]] == ["chat_template.jinja", "config.json"]
    assert "chat_template.jinja (new), config.json (rope_theta)" in crumb.errors.replace("\n", " ")
    number = pushed["number"]
    assert crumb.json("push", folder, model, "-m", "long context")["files"] == pushed["files"]
    assert "stay as they are" not in crumb.errors

    for shown in (crumb("show", f"{model}#{number}", "--files", "got"), crumb("review", model, number)):
        assert "Beside the weights, for releases that take them:" in shown
        assert "rope_theta: (missing) -> 1000000.0" in shown
    for name in ("config.json", "chat_template.jinja"):
        assert (crumb.cwd / "got" / name).read_bytes() == (folder / name).read_bytes()
    crumb("show", f"{model}#{number}", "--files", "got", code=1)
    assert "not empty" in crumb.errors
    crumb("show", folder / "model.safetensors", "--files", "new", code=2)

    assert f"--add {number} --files-of {number}" in crumb("accept", model, number)
    crumb("release", "cut", model, "1.0.0", number, "-q")
    cut = crumb("release", "cut", model, "1.0.0", number, "--files-of", number)
    assert f"#{number}.1" in cut and "gives it config.json" in cut
    crumb("release", "publish", model, "1.0.0", "--recompose", "-q")
    for how in ((), ("--as-patches",)):
        place = f"pulled{len(how)}"
        crumb("pull", f"{model}@1.0.0", "-o", place, *how)
        assert (crumb.cwd / place / "config.json").read_bytes() == (folder / "config.json").read_bytes()
        assert (crumb.cwd / place / "chat_template.jinja").read_text() == TEMPLATE
        assert (crumb.cwd / place / "tokenizer.json").read_bytes() == (files.base / "tokenizer.json").read_bytes()
        assert crumb.json("verify", place, f"{model}@1.0.0")["different"] == []
    assert "+ chat_template.jinja\n~ config.json\n" in crumb("release", "diff", model, "base", "1.0.0")
    (crumb.cwd / "pulled0" / "config.json").write_bytes((files.base / "config.json").read_bytes())
    assert "config.json" in crumb("verify", "pulled0", f"{model}@1.0.0", code=3)


def test_weights_alone_are_pushed_when_asked(here: Registry, model: str, files: Files, crumb: Crumb) -> None:
    folder = tuned(files.base, crumb.cwd / "tuned", 42)
    pushed = crumb.json("push", folder, model, "-m", "weights", "--weights-only")
    assert pushed["files"] == []
    again = crumb.json("push", folder, model, "-m", "weights")
    assert (again["number"], again["files"]) == (pushed["number"], [])
    assert "the files that came with it stay as they are" in crumb.errors


def test_files_that_a_registry_does_not_take_are_named_and_left_out(
    here: Registry, model: str, files: Files, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.actions.push_tuned.MOST_BYTES", 200)
    folder = tuned(files.base, crumb.cwd / "tuned", 43)
    (folder / "large.txt").write_text("x" * 201)
    (folder / "ü.txt").write_text("x")
    pushed = crumb.json("push", folder, model, "-m", "some")
    assert [file["path"] for file in pushed["files"]] == ["chat_template.jinja", "config.json"]
    assert "does not take them: ü.txt, large.txt." in crumb.errors


def test_from_python_they_are_sent_unless_weights_alone_are_asked_for(
    here: Registry, model: str, files: Files, tmp_path: Path
) -> None:
    from client import push_patch

    folder = tuned(files.base, tmp_path / "tuned", 44)
    pushed = push_patch(folder, model, "python", quiet=True)
    assert [file.path for file in pushed.patch.files or ()] == ["chat_template.jinja", "config.json"]
    assert "chat_template.jinja, config.json" in repr(pushed)
    folder = tuned(files.base, tmp_path / "other", 45)
    assert push_patch(folder, model, "python", weights_only=True, quiet=True).patch.files == []
