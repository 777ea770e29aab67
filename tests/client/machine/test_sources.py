from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub import errors as hub

from client.machine.sources import resolve
from registry import errors


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_files_and_folders_are_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    assert resolve(str(file)) == file
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.CKPT"])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(errors.InvalidCheckpoint, match="pickle"):
        resolve(str(tmp_path / name))


@pytest.mark.parametrize("text", ["./none", "/none", "none", "a/b/c", "a b/c", "~/none", "../a/b"])
def test_what_is_neither_path_nor_id_is_told(text: str) -> None:
    with pytest.raises(errors.NotFound, match="Hub id"):
        resolve(text)


def test_offline_a_model_that_is_not_in_the_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(errors.Unavailable, match="HF_HUB_OFFLINE"):
        resolve("org/name@v1")


def test_offline_a_model_in_the_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    taken: dict[str, Any] = {}
    original = huggingface_hub.snapshot_download

    def spy(repo: str, **how: Any) -> str:
        taken.update(how, repo=repo)
        return original(repo, cache_dir=tmp_path, **how)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", spy)
    assert resolve("org/name") == snapshot
    assert taken["local_files_only"] is True
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in taken["allow_patterns"][:4])


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (hub.RepositoryNotFoundError, errors.NotFound),
        (hub.GatedRepoError, errors.Forbidden),
        (hub.RevisionNotFoundError, errors.NotFound),
        (hub.HfHubHTTPError, errors.Unavailable),
    ],
)
def test_what_the_hub_says_becomes_one_sentence(
    monkeypatch: pytest.MonkeyPatch, raised: type[Exception], expected: type[Exception]
) -> None:
    import httpx2

    def fail(*_: Any, **__: Any) -> str:
        raise raised("many\nlines", response=httpx2.Response(404, request=httpx2.Request("GET", "https://hub")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(expected) as caught:
        resolve("org/name")
    assert "\n" not in str(caught.value)
