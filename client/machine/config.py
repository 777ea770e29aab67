"""Logins: the registry and token in use - from the environment, else as `crumb login` stored them.

$CRUMB_URL, $CRUMB_TOKEN   take precedence over the stored login
$CRUMB_HOME                the folder of logins.json and of the cache; by default where the platform keeps such things
logins.json                {"current": url, "logins": {url: {"token": ..., "user": ...}}}, readable by its owner only
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InvalidRequest, StorageFailed, Unauthenticated


@dataclass(frozen=True, slots=True)
class Login:
    """A registry and, when there is one, the token for it."""

    url: str
    token: str | None
    user: str | None = None

    def __repr__(self) -> str:
        return f"Login(url={self.url!r}, user={self.user!r})"  # a token never gets into a log by accident


def home() -> Path:
    """Return the folder of logins.json."""
    if folder := os.environ.get("CRUMB_HOME"):
        return Path(folder).expanduser()
    return _platform_folder("XDG_CONFIG_HOME", ".config", "Application Support", "APPDATA")


def cache() -> Path:
    """Return the folder of downloaded bases and patches; safe to delete at any time."""
    if folder := os.environ.get("CRUMB_HOME"):
        return Path(folder).expanduser() / "cache"
    return _platform_folder("XDG_CACHE_HOME", ".cache", "Caches", "LOCALAPPDATA")


def child_environment(**more: str) -> dict[str, str]:
    """Return the environment for a command of a person's: this one without the token, and with `more`."""
    return {name: value for name, value in os.environ.items() if name != "CRUMB_TOKEN"} | more


def current(url: str | None = None) -> Login:
    """Return the registry in use, or the login for another one.

    Args:
        url: The address of a registry; the one in use when None. $CRUMB_TOKEN is not for any other.

    Raises:
        Unauthenticated: No registry is in use.
        InvalidRequest: The address is malformed.
    """
    stored, in_use = _read(), current_url()
    wanted = in_use if url is None else clean_url(url)
    if wanted is None:
        raise Unauthenticated("No registry is known yet; run `crumb login URL`, or set CRUMB_URL.")
    login = stored["logins"].get(wanted, {})
    ambient = os.environ.get("CRUMB_TOKEN", "").strip() if wanted == in_use or in_use is None else ""
    return Login(wanted, ambient or login.get("token"), login.get("user"))


def current_url() -> str | None:
    """Return the address of the registry in use, if any."""
    if url := os.environ.get("CRUMB_URL", "").strip():
        return clean_url(url)
    stored: str | None = _read()["current"]
    return stored


def save(login: Login) -> None:
    """Store a login and make it the current one."""
    stored = _read()
    stored["logins"][login.url] = {"token": login.token, "user": login.user}
    stored["current"] = login.url
    _write(stored)


def forget() -> str | None:
    """Forget the current login and its token; return its address, or None when there was none."""
    stored = _read()
    url: str | None = stored["current"]
    if url is not None:
        stored["logins"].pop(url, None)
        stored["current"] = None
        _write(stored)
    return url


def trusted_key(model: str) -> Path | None:
    """Return the public key trusted for the releases of a model, if there is one."""
    path = home() / "keys" / f"{model}.pem"
    return path if path.is_file() else None


def _read() -> dict[str, Any]:
    path = home() / "logins.json"
    try:
        stored = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {"current": None, "logins": {}}
    except OSError as why:
        raise StorageFailed(f"{path} cannot be read: {why.strerror}.") from why
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or not isinstance(stored.get("logins"), dict):
        raise InvalidRequest(f"{path} is damaged; delete it and run `crumb login URL` again.")
    return {"current": stored.get("current"), "logins": stored["logins"]}


def _write(stored: dict[str, Any]) -> None:
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".logins.")  # made with mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(stored, file, indent=1, sort_keys=True)
            file.write("\n")
        Path(temporary).replace(folder / "logins.json")
    except OSError as why:
        raise StorageFailed(f"{folder / 'logins.json'} cannot be written: {why.strerror}.") from why


def _platform_folder(variable: str, dotted: str, library: str, windows: str) -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or Path.home()) / "crumb"
    if sys.platform == "darwin":
        return Path.home() / "Library" / library / "crumb"
    return Path(os.environ.get(variable) or Path.home() / dotted) / "crumb"


def clean_url(url: str) -> str:
    """Return the address of a registry without a slash at its end.

    Raises:
        InvalidRequest: The text is not an http or https address, or holds a password, query or fragment.
    """
    import httpx2

    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL as why:
        raise InvalidRequest(f"{url!r} is not an address: {why}", field="url") from why
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(
            f"{url!r} is not an address like https://crumbs.example.org; write it with http:// or https://.",
            field="url",
        )
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InvalidRequest("The address of a registry must not hold a password, query or fragment.", field="url")
    return str(parsed).rstrip("/")
