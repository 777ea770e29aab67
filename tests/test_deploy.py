"""What `deploy/` runs: every command is one that exists, and together they are a registry that works."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from registry.cli import app
from registry.settings import Settings
from tests.support import launcher
from tests.support.databases import Databases
from tests.support.launcher import SERVER
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Registry, person, until
from tests.support.proxies import free_port, listens

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "deploy/compose.yaml").read_text("utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
OURS = [name for name, service in SERVICES.items() if "breadcrumb-" in service["image"]]
PASSWORD = "of-the-bucket"


def commands() -> dict[str, list[str]]:
    """Return the words after `crumb-server` of everything that runs it, by where it is written."""
    starts = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    found = {f"Dockerfile {number}": json.loads(text) for number, text in enumerate(starts)}
    return found | {name: SERVICES[name]["command"] for name in OURS if "command" in SERVICES[name]}


@pytest.mark.parametrize("where", commands())
def test_what_is_run_are_commands_with_options_that_they_take(where: str) -> None:
    name, *words = commands()[where]
    if name != "--help":
        command = typer.main.get_command(app).commands[name]
        command.make_context(name, words)


def test_what_is_set_are_settings() -> None:
    known = {f"REGISTRY_{name.upper()}" for name in Settings.model_fields} | {"DATABASE_URL"}
    assert {name for service in OURS for name in SERVICES[service]["environment"]} <= known


def test_every_variable_of_compose_is_in_its_example_and_no_secret_has_a_default() -> None:
    example = re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy/.env.example").read_text(), re.M)
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) == {name for name, _ in example}
    assert [name for name, value in example if value and re.search("PASSWORD|SECRET", name)] == []
    assert re.findall(r"\$\{\w*(?:PASSWORD|SECRET)\w*:-", COMPOSE) == []


def test_what_an_image_is_built_of_is_let_in_and_what_it_starts_as_is_there() -> None:
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert [name for name in let_in if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M))
    assert {"client", "server", "worker", "worker-gpu"} <= targets
    assert {SERVICES[name]["build"]["target"] for name in OURS} <= targets


# All of compose.yaml that is ours, as processes ---------------------------------------------------------------------


@contextmanager
def bucket_server() -> Iterator[str]:
    """Run moto in place of MinIO; yield its address."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def environment(service: str, values: dict[str, str], replaced: dict[str, str]) -> dict[str, str]:
    """Return what a service of ours is started with: variables filled in, and other services where they are here."""

    def fill(text: str) -> str:
        return re.sub(r"\$\{(\w+)(?::[?-]([^}]*))?\}", lambda found: values.get(found[1], found[2] or ""), text)

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "DATABASE_"))}
    return {**kept, **{name: fill(value) for name, value in SERVICES[service]["environment"].items()}, **replaced}


@pytest.mark.slow
@pytest.mark.timeout(900)  # two servers of two processes, two workers and PostgreSQL start
@pytest.mark.skipif(not shutil.which("caddy"), reason="caddy is not installed")
def test_what_compose_starts_takes_a_push_and_serves_what_comes_of_it(databases: Databases, tmp_path: Path) -> None:
    site, downloads = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    values = {"REGISTRY_HOST": site, "BUCKET_HOST": downloads, "BUCKET_SECRET": PASSWORD, "POSTGRES_PASSWORD": "x"}
    with ExitStack() as stack:
        url = stack.enter_context(databases.lent())
        s3 = stack.enter_context(bucket_server())
        here = {  # no container, no network of Docker's, no certificate and no Valkey
            "DATABASE_URL": url,
            "REGISTRY_BUCKET_ENDPOINT": s3,
            "REGISTRY_BUCKET_PUBLIC_ENDPOINT": f"http://{downloads}",
            "REGISTRY_PUBLIC_URL": f"http://{site}",
            "REGISTRY_PROXIES": "127.0.0.1",
            "REGISTRY_LIMITS_STORAGE": "memory://",
            "REGISTRY_POLL_SECONDS": "0.2",
            "REGISTRY_BUCKET_LEAST": "1",
            "OMP_NUM_THREADS": "1",
        }

        def words(service: str, folder: Path, port: int = 0) -> list[str]:
            given = [str(word).replace("/data/registry", str(folder)) for word in SERVICES[service]["command"]]
            given = [word.replace("0.0.0.0", "127.0.0.1") for word in given]
            return [*given, "--port", str(port)] if given[0] == "serve" else given

        made = SERVICES["make-bucket"]
        assert made["entrypoint"][:1] == ["python"]
        for _ in range(2):  # the second time it is there
            subprocess.run(
                [sys.executable, str(ROOT / "deploy/make_bucket.py")],
                env=environment("make-bucket", values, here),
                check=True,
            )
        settings = environment("migrate", values, here)
        launcher.run(SERVER, *words("migrate", tmp_path / "migrate"), environment=settings, check=True)
        ports, running = [free_port(), free_port()], []
        for number, port in enumerate(ports):
            log = stack.enter_context((tmp_path / f"server-{number}.log").open("w"))
            command = words("server", tmp_path / f"server-{number}", port)
            settings = environment("server", values, here)
            running.append(launcher.start(SERVER, command, settings, stdout=log.fileno(), stderr=log.fileno()))
        for number in range(SERVICES["worker"]["deploy"]["replicas"]):
            log = stack.enter_context((tmp_path / f"worker-{number}.log").open("w"))
            command, settings = words("worker", tmp_path / f"worker-{number}"), environment("worker", values, here)
            running.append(launcher.start(SERVER, command, settings, stdout=log.fileno(), stderr=log.fileno()))
        stack.callback(lambda: [process.kill() for process in running])
        health = json.loads(re.findall(r"^    CMD (\[.*\])$", DOCKERFILE, re.M)[0])
        for port in ports:  # as Docker does, again and again
            asked = [sys.executable, *health[1:-1], health[-1].replace(":8000", f":{port}")]
            until(lambda asked=asked: subprocess.run(asked, capture_output=True).returncode == 0, 300)

        text = (ROOT / "deploy/Caddyfile").read_text().replace("bucket:9000", s3.removeprefix("http://"))
        both = " ".join(f"127.0.0.1:{port}" for port in ports)
        text, found = re.subn(r"dynamic a server 8000 \{[^}]*\}", f"to {both}", text)
        assert found == 1
        (tmp_path / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
        names = {"REGISTRY_HOST": f"http://{site}", "BUCKET_HOST": f"http://{downloads}", "HOME": str(tmp_path)}
        log = stack.enter_context((tmp_path / "caddy.log").open("w"))
        caddy = ["caddy", "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
        process = subprocess.Popen(caddy, env={**os.environ, **names}, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        until(lambda: listens(int(site.rpartition(":")[2])))

        registry = Registry(tmp_path / "registry", environment("server", values, here), f"http://{site}")
        registry.folder.mkdir()
        crumb = person(registry, "alice").crumb
        base = make_checkpoint(tmp_path / "base")
        make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
        crumb("model", "create", "alice/m", "--base", str(base))
        crumb("push", str(tmp_path / "patch.safetensors"), "alice/m", "-m", "a patch")
        recipe = crumb("compose", "alice/m", "1", "-q").split()[0]
        crumb("pull", f"alice/m@{recipe}", "-o", str(tmp_path / "merged"))
        crumb("verify", str(tmp_path / "merged"))
        weights = f"http://{site}/alice/m/resolve/{recipe}/model.safetensors"
        with urllib.request.urlopen(weights) as answer:  # through Caddy, twice: to a server, and to the bucket
            assert answer.url.startswith(f"http://{downloads}/registry/")
            assert answer.read() == (tmp_path / "merged/model.safetensors").read_bytes()
