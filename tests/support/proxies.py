"""nginx and Caddy in front of a registry, with the configuration files of docs/guides/operate."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import certify
from tests.support.processes import until

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "operate"
NAME, DATA = "crumbs.example.org", "/srv/crumbs/registry-data"  # in the configuration files
NGINX = """
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/files;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/registry.conf;
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n"


@contextmanager
def open_proxy(
    kind: str, folder: Path, url: str, data: Path | None = None, user: str = "root"
) -> Iterator[tuple[str, Path]]:
    """Put a proxy in front of a registry; lend its https address, and the certificate to trust.

    Args:
        kind: nginx or caddy.
        folder: Where its files go.
        url: Where the registry is.
        data: The registry's data folder, if nginx is to send its blobs.
        user: The user, and maybe the group, of nginx's processes.
    """
    program = shutil.which(kind)
    if program is None:
        pytest.skip(f"{kind} is not installed")
    certificate, key = certify(folder, "localhost")
    backend, port = url.removeprefix("http://"), free_port()
    if kind == "nginx":
        text = (GUIDE / "nginx.conf").read_text().replace("listen 443", f"listen 127.0.0.1:{port}")
        text = text.replace("/etc/ssl/crumbs/fullchain.pem", str(certificate)).replace(
            "/etc/ssl/crumbs/key.pem", str(key)
        )
        if data is not None:
            (folder / "blobs.conf").write_text((GUIDE / "nginx-blobs.conf").read_text().replace(DATA, str(data)))
            text = text.replace("    location / {", f"    include {folder}/blobs.conf;\n\n    location / {{")
        (folder / "registry.conf").write_text(text.replace("127.0.0.1:8000", backend).replace(NAME, "localhost"))
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    else:
        text = (GUIDE / "Caddyfile").read_text().replace("127.0.0.1:8000", backend)
        text = text.replace(f"{NAME} {{", f"https://localhost:{port} {{\n\ttls {certificate} {key}\n\tbind 127.0.0.1")
        (folder / "Caddyfile").write_text(CADDY.format() + text)
        command = [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with (folder / "proxy.log").open("w") as log:
        environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        until(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None, re.sub(r"\s+", " ", (folder / "proxy.log").read_text())
        yield f"https://localhost:{port}", certificate
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listens(port: int) -> bool:
    """Say whether somebody accepts connections at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
