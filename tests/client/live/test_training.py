"""The Trainer's callback: a patch at the end of a training, and its revisions on the way."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

import client
from client.live import PushPatch
from registry.errors import InvalidRequest, NotFound, Unavailable
from tests.support.live_makers import load, make_llama
from tests.support.visitors import Registry

MODEL = "ana/trained"


@pytest.fixture(scope="module")
def base(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from client.actions.models import create

    folder = make_llama(tmp_path_factory.mktemp("trained") / "base", dtype=torch.float32)
    with registry.client() as session:
        create(session, MODEL, folder)
    return folder


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about each other
        yield


def train(model: Any, callback: PushPatch, folder: Path, seed: int = 0) -> None:
    rows = [{"input_ids": torch.arange(8) + at, "labels": torch.arange(8) + at} for at in range(8)]
    arguments = TrainingArguments(
        str(folder), max_steps=3, learning_rate=0.01, lr_scheduler_type="constant", use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", seed=seed,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()


def test_a_training_ends_in_a_patch_with_a_revision_for_every_few_steps(
    here: Registry, base: Path, tmp_path: Path
) -> None:
    module: PreTrainedModel = load(base)
    callback = PushPatch(MODEL, "Counts", every=1, message="To eight.", task="math", propose=True, quiet=True)
    train(module, callback, tmp_path / "work")
    assert callback.patch is not None
    with here.client() as session:
        patch = session.patch(MODEL, callback.patch.number)
        assert (patch.revision, patch.state, patch.check, patch.task) == (3, "proposed", "checked", "math")
        assert patch.title == "Counts"
        messages = [session.patch(MODEL, patch.number, revision).message for revision in (1, 2, 3)]
    assert messages == [f"To eight.\n\nAfter {step} steps." for step in (1, 2, 3)]
    module.save_pretrained(tmp_path / "tuned")
    assert client.diff(base, tmp_path / "tuned", tmp_path / "due.safetensors").sha256 == patch.sha256


def test_an_adapter_that_is_trained_is_pushed_too(here: Registry, base: Path, tmp_path: Path) -> None:
    import peft

    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    module = peft.get_peft_model(load(base), settings)
    callback = PushPatch(MODEL, "Counts, by LoRA", base=base, quiet=True)
    train(module, callback, tmp_path / "work", seed=1)
    module.save_pretrained(tmp_path / "adapter")
    due = client.diff(base, tmp_path / "adapter", tmp_path / "due.safetensors")
    assert callback.patch is not None and callback.patch.sha256 == due.sha256


def test_a_push_on_the_way_that_fails_does_not_end_the_training(
    here: Registry, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import client.live.training as training

    pushed = []
    push = training.push_to

    def failing(*arguments: Any, **options: Any) -> Any:
        pushed.append(options["message"])
        if len(pushed) == 1:
            raise Unavailable("The registry rests.")
        return push(*arguments, **options)

    monkeypatch.setattr(training, "push_to", failing)
    callback = PushPatch(MODEL, "Counts again", every=2)
    train(load(base), callback, tmp_path / "work", seed=2)
    assert [message.split()[1] for message in pushed] == ["2", "3"]
    assert callback.patch is not None and callback.patch.revision == 1
    assert "Step 2 was not pushed: The registry rests." in capsys.readouterr().err


def test_what_prevents_a_push_is_told_before_the_training(here: Registry, base: Path, tmp_path: Path) -> None:
    module = load(base)
    before = module.model.norm.weight.clone()
    with pytest.raises(NotFound):
        train(module, PushPatch("ana/nothing-here", "Counts", quiet=True), tmp_path / "work")
    assert torch.equal(module.model.norm.weight, before)
    with pytest.raises(InvalidRequest, match="1 or more"):
        PushPatch(MODEL, "Counts", every=0)
