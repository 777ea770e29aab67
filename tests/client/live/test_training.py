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
from client.live.diffing import check_diff
from registry.errors import CheckpointMismatch, InvalidRequest, NotFound, Unavailable, WrongState
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


def train(model: Any, callback: PushPatch, folder: Path, seed: int = 0, **more: Any) -> None:
    rows = [{"input_ids": torch.arange(8) + at, "labels": torch.arange(8) + at} for at in range(8)]
    resume = more.pop("resume", None)
    options = {"max_steps": 3, "learning_rate": 0.01, "save_strategy": "no", **more}
    arguments = TrainingArguments(
        str(folder),
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **options,
    )
    Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback]).train(resume)


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


def test_a_best_model_that_was_pushed_on_the_way_is_told(
    here: Registry, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = PushPatch(MODEL, "Best", every=1, quiet=True)
    each = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    train(load(base), callback, tmp_path / "work", seed=3, **each, **best)
    assert callback.patch is not None and isinstance(callback.failed, WrongState)
    assert "1 steps, the best of 3 was not pushed" in capsys.readouterr().err
    assert not (tmp_path / "work" / "crumb-patch.safetensors").exists()


class Down(PushPatch):
    """The registry is down from the first step on."""

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        self._url, self._token = "http://127.0.0.1:9", "hf_" + "x" * 34


def test_the_patch_of_a_last_push_that_fails_is_kept(
    here: Registry, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, callback = load(base), Down(MODEL, "Counts", quiet=True)
    train(module, callback, tmp_path / "work", seed=4)
    kept = tmp_path / "work" / "crumb-patch.safetensors"
    assert str(kept) in capsys.readouterr().err and isinstance(callback.failed, Unavailable)
    module.save_pretrained(tmp_path / "tuned")
    client.diff(base, tmp_path / "tuned", tmp_path / "due.safetensors")
    assert kept.read_bytes() == (tmp_path / "due.safetensors").read_bytes()


def test_a_training_that_is_resumed_goes_on_with_its_patch(here: Registry, base: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    first = PushPatch(MODEL, "Resumed", quiet=True)
    train(load(base), first, tmp_path / "work", seed=5, max_steps=2, **saving)
    second = PushPatch(MODEL, "Resumed", quiet=True)
    train(load(base), second, tmp_path / "work", seed=5, max_steps=4, resume=True, **saving)
    third = PushPatch(MODEL, "Another", quiet=True)
    train(load(base), third, tmp_path / "work", seed=6)
    assert first.patch is not None and second.patch is not None and third.patch is not None
    assert (second.patch.number, second.patch.revision) == (first.patch.number, 2)
    assert third.patch.number != first.patch.number
    fourth = PushPatch(MODEL, "Resumed", quiet=True, update=first.patch.number)
    train(load(base), fourth, tmp_path / "work", seed=7)
    assert fourth.patch is not None and (fourth.patch.number, fourth.patch.revision) == (first.patch.number, 3)


class FullyShardedDataParallel(torch.nn.Module):
    """A model as FSDP wraps it: on one process alone, its state_dict would wait for the others."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError


def test_a_model_whose_patch_cannot_be_made_is_refused_before_the_training(
    here: Registry, base: Path, tmp_path: Path
) -> None:
    larger = load(base)
    larger.resize_token_embeddings(48)
    with pytest.raises(CheckpointMismatch):
        train(larger, PushPatch(MODEL, "Larger", quiet=True), tmp_path / "work")
    with pytest.raises(InvalidRequest, match="cut up by FSDP"):
        check_diff(FullyShardedDataParallel(load(base)), base)
    cut = load(base)
    cut.model.norm.weight.ds_id = 1
    with pytest.raises(InvalidRequest, match="ZeRO-3"):
        check_diff(cut, base)
    check_diff(larger, base, shared_rows=True, drop_top="0")


def test_what_prevents_a_push_is_told_before_the_training(here: Registry, base: Path, tmp_path: Path) -> None:
    module = load(base)
    before = module.model.norm.weight.clone()
    with pytest.raises(NotFound):
        train(module, PushPatch("ana/nothing-here", "Counts", quiet=True), tmp_path / "work")
    assert torch.equal(module.model.norm.weight, before)
    with pytest.raises(InvalidRequest, match="1 or more"):
        PushPatch(MODEL, "Counts", every=0)
