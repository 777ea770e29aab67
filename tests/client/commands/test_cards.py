"""`crumb card`, and a companion that is pushed with a patch."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.files.beside import COMPANION
from tests.support.visitors import Crumb, Files, Registry

MODEL = "ana/cards"


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    from client.actions.models import create

    with registry.client() as client:
        create(client, MODEL, files.base)
    return MODEL


def test_a_card_is_proposed_shown_and_accepted(here: Registry, crumb: Crumb, model: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Better\n\nIt adds.\n")
    done = crumb.json("card", "propose", model, "README.md", "-m", "Say more")
    number = str(done["number"])
    assert (done["state"], done["title"]) == ("proposed", "Say more")
    assert "+It adds." in crumb("card", "show", model, number)
    (tmp_path / "README.md").write_text("# Best\n")
    crumb.json("card", "propose", model, "README.md", "-m", "Say less", "--update", number)
    assert [card["title"] for card in crumb.json("card", "list", model)] == ["Say less"]
    assert f"#{number}: Say less" in crumb("inbox", model)
    assert crumb.json("card", "accept", model, number)["state"] == "accepted"
    assert crumb.json("card", "show", model)["card"] == "# Best\n"
    (tmp_path / "README.md").write_text("# Last\n")
    assert crumb.json("card", "propose", model, "README.md", "-m", "At once", "--accept")["state"] == "accepted"
    crumb("card", "propose", model, "README.md", "-m", "Again", code=1)
    assert "already" in crumb.errors


def test_a_companion_is_pushed_with_a_patch_and_pulled(
    here: Registry, crumb: Crumb, model: str, files: Files, tmp_path: Path
) -> None:
    tuned = shutil.copytree(files.tuned[0], tmp_path / "headed")
    shard = next(tuned.glob("*.safetensors"))
    index = tuned / "model.safetensors.index.json"
    weights = {name: tensor for file in tuned.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for file in (*tuned.glob("*.safetensors"), *([index] if index.is_file() else [])):
        file.unlink()
    save_file({**weights, "score.weight": torch.ones(2, 3)}, shard.with_name("model.safetensors"), {"format": "pt"})
    made = crumb.json("diff", files.base, tuned, "-o", "p.safetensors", "--shared-only", "--companion")
    assert (made["companion"], made["only_tuned"]) == ("p.companion.safetensors", {"score.weight": "F32 [2, 3]"})
    (tmp_path / "taken.companion.safetensors").write_bytes(b"mine")
    crumb("diff", files.base, tuned, "-o", "taken.safetensors", "--shared-only", "--companion", code=1)
    assert "taken.companion.safetensors is there" in crumb.errors
    pushed = crumb.json("push", "p.safetensors", model, "-m", "A head", "--companion")
    assert [file["path"] for file in pushed["files"]] == [COMPANION]
    crumb.json("show", f"{model}#{pushed['number']}", "--files", "came")
    assert torch.equal(load_file(tmp_path / "came" / COMPANION)["score.weight"], torch.ones(2, 3))
    (tmp_path / "p.companion.safetensors").unlink()
    crumb("push", "p.safetensors", model, "-m", "x", "--companion", code=1)
    assert "crumb diff --companion" in crumb.errors
