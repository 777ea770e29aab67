"""`import client` as a notebook uses it, on a real registry."""

import inspect
import re
import shutil
from pathlib import Path

import pytest

import client
from client import Client, apply, compose, diff, pull, push, push_patch, verify
from registry import errors
from tests.support.visitors import Crumb, Files, Registry

MODEL = "ana/library"
FUNCTIONS = (pull, push, push_patch, diff, apply, verify, compose)


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    from client.actions.models import create

    with registry.client() as session:
        create(session, MODEL, files.base, license="mit")
    return MODEL


@pytest.fixture
def logged_in(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CRUMB_URL", registry.url)
    monkeypatch.setenv("CRUMB_TOKEN", registry.token("ana"))
    return registry


def test_a_notebook_goes_from_diff_to_a_verified_model(
    logged_in: Registry, model: str, files: Files, tmp_path: Path
) -> None:
    made = [diff(files.base, files.tuned[place], tmp_path / f"{place}.safetensors") for place in (0, 1)]
    assert made[0].file.read_bytes() == files.patches[0].read_bytes()
    assert 0 < made[0].density == made[0].nnz / made[0].parameters < 1

    pushed = [push(patch.file, model, title=f"<b>{place}</b>") for place, patch in enumerate(made)]
    assert [patch.number for patch in pushed] == [1, 2]
    assert [patch.patch.check for patch in pushed] == ["checked", "checked"]
    assert "&lt;b&gt;0&lt;/b&gt;" in pushed[0]._repr_html_() and "<b>" not in pushed[0]._repr_html_()

    composed = compose(model, [1, (2, 0.5)], alpha=0.3)
    assert composed.address == f"{model}@{composed.composition.recipe.digest}"
    assert compose(model, ["1.1", (2, "0.50", 1)], alpha=0.3).composition == composed.composition
    pulled = pull(composed.address, tmp_path / "merged")
    assert pulled.snapshot.weights_digest == composed.composition.weights_digest
    here = apply(files.base, [made[0].file, (made[1].file, 0.5)], tmp_path / "here", alpha=0.3, device="cpu")
    assert here.weights_digest == composed.composition.weights_digest
    assert (
        apply(str(files.base), [str(made[0].file), f"{made[1].file}:0.5"], str(tmp_path / "again"), alpha="0.30").recipe
        == composed.composition.recipe.digest
    )

    proof = verify(tmp_path / "merged", recompose=True)
    assert proof.ok and proof.recomposed == proof.expected
    assert verify(tmp_path / "here", composed.address).ok
    (tmp_path / "merged" / "config.json").write_text("{}")
    broken = verify(str(tmp_path / "merged"))
    assert not broken.ok and broken.different == ["config.json"]
    for card in (*made, *pushed, composed, pulled, here, proof, broken):
        assert repr(card).startswith(type(card).__name__ + "\n")
        assert card._repr_html_().startswith("<table>")
        assert "sha256" in repr(card) or "weights" in repr(card) or "registry" in repr(card)


def test_patches_are_composed_here_too(logged_in: Registry, model: str, files: Files, tmp_path: Path) -> None:
    push(files.patches[0], model, "one")
    address = compose(model, [1]).address
    pulled = pull(address, tmp_path / "it", as_patches=True, base=files.base, device="cpu", quiet=True)
    assert verify(tmp_path / "it", address).ok
    assert pulled.folder == tmp_path / "it"


def test_a_registry_is_named_by_client_or_address_or_login(registry: Registry, model: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Unauthenticated, match="crumb login"):
        pull(f"{model}@base", tmp_path / "a")
    pull(f"{model}@base", tmp_path / "a", url=registry.url)
    with registry.client() as session:
        pull(f"{model}@base", tmp_path / "b", client=session)
        assert session.whoami().user == "ana"  # it stays open
        with pytest.raises(errors.InvalidRequest, match="not both"):
            pull(f"{model}@base", tmp_path / "c", client=session, url=registry.url)
    with pytest.raises(errors.Unauthenticated):
        compose(model, [1], url=registry.url)
    assert compose(model, [], url=registry.url, token=registry.token("ana")).composition.weights_digest


def test_a_login_is_used_for_its_own_registry_alone(
    registry: Registry, model: str, tmp_path: Path, crumb: Crumb, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.api.client import connect
    from client.machine.config import current

    crumb("login", registry.url, "--token", registry.token("ana"))
    with connect() as session:
        assert session.whoami().user == "ana"
    assert current("http://elsewhere.example").token is None
    monkeypatch.setenv("CRUMB_TOKEN", "hf_ambient")
    assert current("http://elsewhere.example").token is None
    assert current(registry.url + "/").token == "hf_ambient"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pull("ana", "x"), "is not the name of a model"),
        (lambda: pull("ana/llm@Main", "x"), "is not a reference"),
        (lambda: pull("ana/llm", "x", base="y", as_patches=False), "as_patches"),
        (lambda: push("x", "ana", "t", url="http://localhost"), "is not the name of a model"),
        (lambda: verify(".", "ana/llm"), "ana/llm@REF"),
        (lambda: verify(".", "ana/llm@base", base="y"), "recompose"),
        (lambda: verify("none", "ana/llm@base", url="http://127.0.0.1:9"), "no folder none"),
        (lambda: verify("."), "does not say what it was pulled from"),
        (lambda: compose("ana/llm", ["one"]), "'one' is not a patch"),
        (lambda: compose("ana/llm", [(1, float("nan"))], url="http://localhost"), "not a plain decimal"),
        (lambda: apply(".", [], "x"), "no patches"),
        (lambda: diff(".", ".", "."), "is a folder"),
    ],
)
def test_what_cannot_be_is_refused_by_an_error_of_ours_before_anything_is_asked(
    call: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert callable(call)
    with pytest.raises(errors.BreadcrumbError, match=words):
        call()
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []


def test_the_public_place_names_what_it_documents() -> None:
    assert client.__doc__ is not None
    assert set(client.__all__) <= set(dir(client))
    assert client.Client is Client
    for function in FUNCTIONS:
        assert getattr(client, function.__name__) is function
        assert f"{function.__name__}(" in client.__doc__
        text = inspect.getdoc(function) or ""
        sections = text.split("Args:")[1].split("Raises:")
        assert len(sections) == 2, function
        for name in inspect.signature(function).parameters:
            assert re.search(rf"\n    (\*\*)?{name}: ", sections[0]), (function, name)
    with pytest.raises(AttributeError, match="nothing"):
        client.nothing  # noqa: B018


class InMemory:
    """A model that saves itself as those of transformers do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_pretrained(self, save_directory: str) -> None:
        shutil.copytree(self.folder, save_directory)


def test_a_model_in_memory_is_pushed_in_one_call_and_leaves_nothing_behind(
    logged_in: Registry, model: str, files: Files, home: Path, tmp_path: Path
) -> None:
    pushed = push_patch(InMemory(files.tuned[1]), model, title="memory", propose=True, quiet=True)
    assert (pushed.patch.state, pushed.patch.check) == ("proposed", "checked")
    made = diff(files.base, files.tuned[1], tmp_path / "same.safetensors")
    assert pushed.patch.sha256 == made.sha256
    assert push_patch(files.tuned[1], model, "folder", base=files.base, quiet=True).number == pushed.number
    assert [path.name for path in (home / "cache").iterdir() if path.name.startswith("saved-")] == []
    dense = push_patch(files.tuned[1], model, "dense", drop_bottom=0.5, keep=tmp_path / "dense", quiet=True)
    assert dense.number != pushed.number
    assert (tmp_path / "dense").stat().st_size == dense.patch.size
    with pytest.raises(errors.InvalidRequest, match=r"A dict cannot save itself.*save_pretrained"):
        push_patch({}, model, "t")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="drop_botom"):
        push_patch(files.tuned[1], model, "t", drop_botom=0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.*:FutureWarning")  # PEFT asks transformers for it
def test_a_live_model_of_transformers_and_an_adapter_of_peft_are_pushed(
    logged_in: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from client.actions.models import create

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(1)
    live = LlamaForCausalLM(config)
    live.save_pretrained(tmp_path / "base")
    with logged_in.client() as session:
        create(session, "ana/live", tmp_path / "base")
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    assert push_patch(live, "ana/live", "whole", quiet=True).patch.check == "checked"
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(r=4))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    pushed = push_patch(adapted, "ana/live", "adapter", quiet=True)
    assert pushed.patch.check == "checked"
    with logged_in.client() as session:
        assert {tensor.name.rsplit(".", 2)[1] for tensor in session.patch_tensors("ana/live", pushed.number)} == {
            "q_proj",
            "v_proj",
        }
