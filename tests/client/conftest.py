"""A real registry in its own process, and small models and patches to send there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import client.api.http
from tests.support import makers
from tests.support.visitors import Crumb, Files, Registry, create_token, serving


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """`crumb-server serve` with a worker, on a free port."""
    folder = tmp_path_factory.mktemp("registry")
    data = folder / "data"

    tokens: dict[str, str] = {}
    with serving(data) as url:
        yield Registry(url, data, lambda user: tokens.get(user) or tokens.setdefault(user, create_token(data, user)))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    base = makers.make_checkpoint(folder / "base", shards=2)
    tuned = (makers.fine_tuned(base, folder / "one", 1), makers.fine_tuned(base, folder / "two", 2))
    patches = (folder / "one.safetensors", folder / "two.safetensors")
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    for model, patch in zip(tuned, patches, strict=True):
        makers.make_patch(base, model, patch)
    return Files(base, tuned, patches)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees a person's logins, proxies or Hub, or a job's identity."""
    for name in ("CRUMB_URL", "CRUMB_TOKEN", "CRUMB_DEBUG", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CRUMB_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"):
        monkeypatch.delenv(name, raising=False)  # which the tests' own build service may give
    monkeypatch.setenv("CRUMB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "home"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts are written down and not waited for."""
    waited: list[float] = []
    monkeypatch.setattr(client.api.http.time, "sleep", waited.append)
    return waited


@pytest.fixture
def crumb(tmp_path: Path) -> Crumb:
    return Crumb(tmp_path)


@pytest.fixture
def here(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry, with ana logged in by the environment."""
    monkeypatch.setenv("CRUMB_URL", registry.url)
    monkeypatch.setenv("CRUMB_TOKEN", registry.token("ana"))
    return registry
