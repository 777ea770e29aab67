"""Deltas for vLLM, whose classes need a GPU: an engine of our own holds checkpoint-shaped tensors in their place."""

import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from client.actions.pulling.deltas import make_delta
from client.live import changes_of
from client.live.serving import plugin, vllm
from client.machine.folders import Source, write_source
from registry.breadcrumbs.deltas.delta_file import open_delta
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.errors import DigestMismatch, InvalidRequest, WrongState
from registry.files.hashing import hash_file
from tests.support import makers, vllm_stand_in
from tests.support.vllm_stand_in import ServedModel


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    return vllm_stand_in.install(monkeypatch)


@pytest.fixture(scope="module")
def revisions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three revisions of a model."""
    folder = tmp_path_factory.mktemp("revisions")
    base = makers.make_checkpoint(folder / "0", dtypes=(torch.bfloat16, torch.float32), shards=2)
    return [pulled(one) for one in (base, *(_moved(base, folder / str(seed), seed) for seed in (1, 2)))]


def pulled(folder: Path, *, complete: bool = True) -> Path:
    """Record a folder as pulled."""
    files = {file.name: [hash_file(file)] for file in folder.iterdir() if file.is_file()}
    with open_checkpoint(folder) as checkpoint:
        write_source(folder, Source("ana/served", "1.0.0", digest_checkpoint(checkpoint), complete, files))
    return folder


def _moved(base: Path, folder: Path, seed: int) -> Path:
    """Write what fine-tuning makes of a model, in the files of the base."""
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + torch.randn(tensor.shape, generator=random).mul(0.01).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in makers.read_weights(base).items()
    }
    makers.write_weights(folder, tensors, 2)
    return folder


def test_vllm_finds_the_plugin_and_loads_little_for_it() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"breadcrumb": f"{plugin.__name__}:register"}
    code = (
        f"import sys, {plugin.__name__}; print(*sorted({{'torch', 'numpy', 'numba', 'httpx2'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def delta(before: Path, after: Path, out: Path) -> Path:
    make_delta(before, after, out, steps=False)
    return out


def served(revision: Path, registered: dict[str, tuple[str, str]]) -> Any:
    """Return an engine as vLLM makes it, by the name under which it was registered."""
    plugin.register()
    plugin.register()  # vLLM calls it in each process, and perhaps twice
    module, name = registered[plugin.BACKEND]
    engine = getattr(import_module(module), name)
    config = SimpleNamespace(model_config=SimpleNamespace(model=str(revision)), parallel_config=None)
    return engine(None, config, torch.device("cpu"), ServedModel(makers.read_weights(revision)))


def holds(engine: Any, revision: Path) -> bool:
    due = makers.read_weights(revision)
    return all(torch.equal(tensor, due[name]) for name, tensor in engine.model.tensors())


def call(engine: Any) -> Any:
    """Return what calls an engine as vLLM's server does."""

    def post(path: str, body: dict[str, Any] | None) -> None:
        if path == "init_weight_transfer_engine":
            assert body is not None
            engine.init_transfer_engine(engine.init_info_cls(**body["init_info"]))
        elif path == "update_weights":
            assert body is not None
            engine.update_weights(body["update_info"])
        elif path.endswith("_weight_update"):
            getattr(engine, path)()

    return post


def test_an_engine_takes_one_delta_after_another(
    registered: dict[str, tuple[str, str]], revisions: list[Path], tmp_path: Path
) -> None:
    engine = served(revisions[0], registered)
    first, second = (delta(revisions[at], revisions[at + 1], tmp_path / f"{at}.safetensors") for at in (0, 1))
    before, after = vllm.update_server("", first, call(engine))
    assert holds(engine, revisions[1]) and engine.holds == after != before
    vllm.update_server("", first, call(engine))  # once more, as after an answer that was lost
    vllm.update_server("", second, call(engine))
    assert holds(engine, revisions[2])
    with pytest.raises(WrongState, match="start the server again"):
        vllm.update_server("", first, call(engine))
    assert holds(engine, revisions[2])


def test_a_server_that_was_started_again_knows_what_it_was_loaded_from(
    registered: dict[str, tuple[str, str]], revisions: list[Path], tmp_path: Path
) -> None:
    second = delta(revisions[1], revisions[2], tmp_path / "d.safetensors")
    with pytest.raises(WrongState, match="start the server again"):
        vllm.update_server("", second, call(served(revisions[0], registered)))  # the delta is not from there
    again = served(revisions[2], registered)
    vllm.update_server("", second, call(again))  # it was loaded from there
    assert holds(again, revisions[2])
    unknown = makers.make_checkpoint(tmp_path / "unknown", dtypes=(torch.bfloat16, torch.float32), shards=2)
    for record in (lambda: None, lambda: pulled(unknown, complete=False)):
        record()
        engine = served(unknown, registered)
        with pytest.raises(WrongState, match="of no known revision"):
            vllm.update_server("", delta(revisions[0], revisions[1], tmp_path / "e.safetensors"), call(engine))
        assert holds(engine, unknown)


def test_an_engine_takes_no_other_file_than_was_announced(
    registered: dict[str, tuple[str, str]], revisions: list[Path], tmp_path: Path
) -> None:
    engine = served(revisions[0], registered)
    file = delta(revisions[0], revisions[1], tmp_path / "d.safetensors")
    with pytest.raises(DigestMismatch):
        engine.update_weights({"path": str(file), "sha256": "0" * 64})
    assert holds(engine, revisions[0])


def test_a_change_that_fails_in_the_middle_is_not_built_upon(
    registered: dict[str, tuple[str, str]], revisions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = served(revisions[0], registered)
    file = delta(revisions[0], revisions[1], tmp_path / "d.safetensors")

    def fail(weights: object) -> None:
        raise RuntimeError("The device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "load_weights", fail)
        with pytest.raises(RuntimeError, match="gone"):
            vllm.update_server("", file, call(engine))
    with pytest.raises(WrongState, match="of no known revision"):
        vllm.update_server("", file, call(engine))


def test_what_vllm_cannot_tell_from_unchanged_is_refused_before_anything_changes(
    registered: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    base = makers.make_checkpoint(tmp_path / "base")

    def spoil(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.full_like(tensor, torch.nan) if name == "scale" else tensor

    file = delta(base, makers.changed(base, tmp_path / "nan", spoil), tmp_path / "d.safetensors")
    engine = served(pulled(base), registered)
    with pytest.raises(InvalidRequest, match="becomes NaN"):
        vllm.update_server("", file, call(engine))
    assert holds(engine, base)


def test_a_trainers_engine_gets_patches_of_its_own_class(
    registered: dict[str, tuple[str, str]], revisions: list[Path], tmp_path: Path
) -> None:
    tensors = makers.read_weights(revisions[0])
    with open_delta(delta(revisions[0], revisions[1], tmp_path / "d.safetensors")) as opened:
        for patch in vllm.sparse_patches(changes_of(opened)):
            assert isinstance(patch, vllm_stand_in.SparseWeightPatch)
            assert patch.indices.dtype == torch.int32 and patch.values.dtype == tensors[patch.name].dtype
            assert patch.full_shape == tuple(tensors[patch.name].shape)
            tensors[patch.name].view(-1)[patch.indices.long()] = patch.values
    due = makers.read_weights(revisions[1])
    assert all(torch.equal(tensors[name], due[name]) for name in due)


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, Any]], dict[str, int]]]:
    """A server with vLLM's routes; what it was asked, and the code of its answer by path."""
    asked: list[tuple[str, Any]] = []
    codes: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked.append((self.path, json.loads(self.rfile.read(length)) if length else None))
            self.send_response(codes.get(self.path, 200))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as held:
        thread = threading.Thread(target=held.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{held.server_port}", asked, codes
        held.shutdown()
        thread.join()


def test_the_command_drives_a_server_by_its_routes(
    server: tuple[str, list[tuple[str, Any]], dict[str, int]],
    revisions: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, asked, codes = server
    file = delta(revisions[0], revisions[1], tmp_path / "d.safetensors")
    assert vllm.main([url, str(file)]) == 0
    assert "sha256:" in capsys.readouterr().out
    assert [path for path, _ in asked] == [
        "/init_weight_transfer_engine",
        "/pause?mode=wait",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/resume",
    ]
    assert asked[3][1]["update_info"]["path"] == str(file.resolve())
    codes["/update_weights"] = 500
    assert vllm.main([url, str(file)]) == 1
    assert "answers 500" in capsys.readouterr().err
    assert vllm.main([url, str(tmp_path / "nothing")]) == 1
    assert vllm.main([]) == 2
    assert sys.modules.get("vllm") is None  # the command does without it
