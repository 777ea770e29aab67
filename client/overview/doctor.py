"""Doctor: what is installed, reachable, signed in and cached, and what would help where something is amiss."""

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

from client.api.client import Client
from client.api.http import Again
from client.api.problems import bounded
from client.machine.config import Login, cache, current, home
from client.terminal.console import plain, size
from registry import version
from registry.errors import BreadcrumbError, Unavailable
from registry.extras import missing_extras

LEAST_ROOM = 10 * 10**9  # bytes free: a small model, its base and a patch
MOST_SKEW = timedelta(minutes=1)  # between two clocks
EXPIRES_SOON = timedelta(days=7)
HEALTH_BYTES = 65536  # of the answer about a registry's health
PATIENCE = 10.0  # seconds for an answer of the registry
HELPED = {  # what the client cannot do without an extra
    "local": "diff, push of a model, apply, show FILE and --recompose",
    "sign": "crumb key, and signatures of releases",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: What it is.
        state: Whether it is as it should be.
        text: What was found.
        remedy: What would help, a whole sentence; None if all is well.
    """

    name: str
    state: Literal["ok", "warn"]
    text: str
    remedy: str | None = None


def examine() -> list[Finding]:
    """Look at this installation, the registry in use, the cache and the disk."""
    return [_installed(), *_extras(), *_registry(), _cache(), *_disk()]


def _installed() -> Finding:
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("huggingface_hub", "httpx2"))
    return Finding("crumb", "ok", f"{version()}, Python {platform.python_version()}, {libraries}")


def _extras() -> list[Finding]:
    missing = missing_extras()
    found = []
    for extra, use in HELPED.items():
        if extra not in missing:
            found.append(Finding(extra, "ok", "installed"))
        else:
            remedy = f"For {use}: pip install 'breadcrumb-registry[{extra}]'"
            found.append(Finding(extra, "warn" if extra == "local" else "ok", "not installed", remedy))
    return found


def _registry() -> list[Finding]:
    try:
        login = current()
    except BreadcrumbError as why:
        return [Finding("registry", "warn", "none is in use", plain(str(why)))]
    with Client(login.url, attempts=1, timeout=PATIENCE) as anybody:  # a token that is not valid is another matter
        try:
            found, date = _health(anybody)
        except BreadcrumbError as why:
            remedy = "Check the address and your network, or run `crumb login URL` for another registry."
            return [Finding("registry", "warn", plain(str(why)), remedy)]
    return [_version_of(login, found), _clock(date), _signed_in(login)]


def _health(client: Client) -> tuple[str, str | None]:
    """Return the registry's version and what time it tells."""
    try:
        with client.connection.stream("GET", "/healthz") as response:
            document = json.loads(bounded(response, HEALTH_BYTES, client.url))
            return str(document["version"]), response.headers.get("date")
    except Again as why:
        raise why.error from why
    except (ValueError, KeyError, TypeError) as why:
        raise Unavailable(f"What answers at {client.url} is not a registry.") from why


def _version_of(login: Login, found: str) -> Finding:
    ours = version()
    text = f"{login.url}, version {plain(found)}"
    if _generation(found) == _generation(ours):
        return Finding("registry", "ok", text)
    older = "this crumb" if _generation(ours) < _generation(found) else "the registry"
    return Finding("registry", "warn", f"{text}; this crumb is {ours}", f"Upgrade {older}.")


def _generation(text: str) -> list[int]:
    """Return what of a version must agree: major and minor number."""
    return [int(part) for part in text.split(".")[:2] if part.isdecimal()]


def _clock(date: str | None) -> Finding:
    try:
        skew = datetime.now(UTC) - parsedate_to_datetime(date or "")
    except (ValueError, TypeError):
        return Finding("clock", "ok", "the registry does not tell its time")
    if abs(skew) <= MOST_SKEW:
        return Finding("clock", "ok", "agrees with the registry's")
    side = "ahead of" if skew > timedelta(0) else "behind"
    text = f"{abs(skew).total_seconds():.0f} seconds {side} the registry's"
    return Finding("clock", "warn", text, "Set the clock of the machine that is wrong; tokens expire by it.")


def _signed_in(login: Login) -> Finding:
    if not login.token:
        remedy = f"To push or review: crumb login {login.url}"
        return Finding("login", "warn", "not signed in; public models can be read", remedy)
    try:
        with Client(login.url, login.token, attempts=1, timeout=PATIENCE) as client:
            me = client.whoami()
    except BreadcrumbError as why:
        return Finding("login", "warn", plain(str(why)), f"Get a new token: crumb login {login.url}")
    text = f"{plain(me.user)}, scopes {plain(', '.join(me.scopes))}"
    if me.expires_at is not None:
        text += f", until {me.expires_at.astimezone():%Y-%m-%d}"
        if me.expires_at - datetime.now(UTC) < EXPIRES_SOON:
            return Finding("login", "warn", text, "The token expires soon; make another with `crumb token create`.")
    return Finding("login", "ok", text)


def _cache() -> Finding:
    folder, total = cache(), 0
    for where, _, names in os.walk(folder):
        for name in names:
            file = Path(where, name)
            total += file.stat().st_size if file.is_file() and not file.is_symlink() else 0
    remedy = f"To free it: rm -r {folder}" if total else None
    return Finding("cache", "ok", f"{folder}, {size(total)}", remedy)


def _disk() -> list[Finding]:
    found = []
    for name, folder in (("disk (cache)", cache()), ("disk (here)", Path.cwd())):
        place = _there(folder)
        free = shutil.disk_usage(place).free
        text, state = f"{size(free)} free in {place}", free >= LEAST_ROOM
        remedy = None if state else "Free some space, or set CRUMB_HOME to a folder on a larger disk."
        found.append(Finding(name, "ok" if state else "warn", text, remedy))
    if not os.access(place := _there(home()), os.W_OK):
        remedy = "Set CRUMB_HOME to a folder that you may write to."
        found.append(Finding("settings", "warn", f"{place} cannot be written", remedy))
    return found


def _there(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
