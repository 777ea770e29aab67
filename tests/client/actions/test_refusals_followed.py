"""Refusals end in a line to copy: here it is copied and run, with the programs that it names."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.visitors import Crumb

pytestmark = pytest.mark.slow


def save_all(folder: Path) -> None:
    """Write a base, and one model that was tuned from it in each of the ways in which trainers leave it."""
    import torch.distributed.checkpoint as dcp
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 40}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=False))
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.01)
    shards = folder / "a run/checkpoint-500/pytorch_model_fsdp_0"
    shards.mkdir(parents=True)
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"model": model.state_dict()}, checkpoint_id=str(shards), no_dist=True)
    (folder / "it's pickled").mkdir()
    torch.save(model.state_dict(), folder / "it's pickled/pytorch_model.bin")
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder / "it's pickled")
    model.save_pretrained(folder / "trained/checkpoint-20")
    model.save_pretrained(folder / "trained/checkpoint-9")


def test_shards_of_fsdp_pickles_and_a_run_become_the_same_patch_by_the_lines_that_refuse_them(
    crumb: Crumb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    digests = set()
    for given in ("a run", "it's pickled", "trained"):
        crumb("diff", "base", given, "-o", "p", code=1)
        words = shlex.split(re.findall(r"`([^`]+)`", crumb.errors)[-1])
        tuned = words[0]  # a folder, or a command that makes one
        if len(words) > 1:
            ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
            assert ran.returncode == 0, ran.stderr
            tuned = words[-1] if given == "a run" else f"{given}-safetensors"
        digests.add(crumb.json("diff", "base", tuned, "-o", "p")["sha256"])
    assert tuned == "trained/checkpoint-20"
    assert len(digests) == 1
