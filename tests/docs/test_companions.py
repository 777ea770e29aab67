"""The lines of the guide that load a companion, run as they stand there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from client import apply, diff
from registry.files.beside import COMPANION
from tests.support.hubs import WORDS, make_llama

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "use.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
HEAD, ROWS = (next(block for block in BLOCKS if word in block) for word in ("load_state_dict", "added_rows"))
INPUT = torch.tensor([[1, 5, 7, 2]])


def moved(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    return model


def released(folder: Path, **options: Any) -> None:
    """Do what a release of the patch alone at alpha 1 holds that takes the patch's files."""
    made = diff(folder / "base", folder / "tuned", folder / "p.safetensors", drop_bottom="0", drop_top="0", **options)
    assert made.companion is not None
    apply(folder / "base", [made.file], folder / "merged", alpha="1")
    (folder / "merged" / COMPANION).parent.mkdir()
    shutil.copyfile(made.companion, folder / "merged" / COMPANION)
    shutil.copyfile(folder / "tuned" / "config.json", folder / "merged" / "config.json")


def run(block: str) -> Any:
    names: dict[str, Any] = {}
    exec(block, names)
    return names["model"].eval()


def test_a_head_is_back_with_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSequenceClassification

    base = make_llama(tmp_path / "base", 1, shards=1)
    tuned = moved(AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=0)).eval()
    tuned.save_pretrained(tmp_path / "tuned")
    released(tmp_path, shared_only=True, companion=True)
    monkeypatch.chdir(tmp_path)
    model = run(HEAD)
    assert torch.equal(model.score.weight, tuned.score.weight)
    assert torch.allclose(model(INPUT).logits, tuned(INPUT).logits, atol=1e-5)


def test_added_tokens_are_back_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    base = make_llama(tmp_path / "base", 1, shards=1)
    tuned = AutoModelForCausalLM.from_pretrained(base)
    tuned.resize_token_embeddings(WORDS + 3)
    moved(tuned).eval().save_pretrained(tmp_path / "tuned")
    released(tmp_path, shared_rows=True, companion=True)
    monkeypatch.chdir(tmp_path)
    model = run(ROWS.replace("32000", str(WORDS)))
    assert torch.allclose(model(INPUT).logits, tuned(INPUT).logits, atol=1e-4)
    assert torch.equal(model.lm_head.weight[WORDS:], tuned.lm_head.weight[WORDS:])
