"""`hf crumb`: this `crumb` as an extension of the Hub's own command.

    ~/.local/share/hf/extensions/hf-crumb/manifest.json    executable_path -> the `crumb` of this environment

`hf` runs whatever such a manifest names, and passes arguments and exit code on. Its own installer knows GitHub alone,
where it also looks for updates and would run what it finds: so the owner that the manifest names is none that can be
there. GitHub's names have no dots.
"""

import contextlib
import json
import os
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

from registry.errors import NotFound, StorageFailed, WrongState
from registry.files.durable import new_files

OWNER = "crumb.local"
NAME = "crumb"
MOST_BYTES = 2**16
ABOUT = "Sparse patches of fine-tuned models: make them, push them, compose any subset, pull the merged model."


def add_to_hf() -> Path:
    """Let `hf crumb` run the `crumb` of this environment; again, it changes nothing.

    Returns:
        The manifest.

    Raises:
        NotFound: This environment has no `crumb`, or its `hf` has no extensions.
        WrongState: An extension of that name is there that is not ours.
    """
    crumb, folder = find_crumb(), _folder()
    known = _ours(folder)
    manifest = folder / "manifest.json"
    wanted = {
        "owner": OWNER,
        "repo": f"hf-{NAME}",
        "repo_id": f"{OWNER}/hf-{NAME}",
        "short_name": NAME,
        "executable_path": str(crumb),
        "type": "binary",
        "description": ABOUT,
        "commit_sha": None,
    }
    if known is not None and {key: known.get(key) for key in wanted} == wanted:
        return manifest
    text = json.dumps({**wanted, "installed_at": datetime.now(UTC).isoformat()}, indent=2, sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise StorageFailed(f"{folder} cannot be made: {why.strerror or why}.") from why
    with new_files([manifest]) as (file,):
        file.write(text.encode("utf-8"))
    return manifest


def remove_from_hf() -> bool:
    """Take `hf crumb` away again, and say whether it was there.

    Raises:
        WrongState: An extension of that name is there that is not ours.
    """
    folder = _folder()
    if _ours(folder) is None:
        return False
    try:
        for name in ("manifest.json", ".latest_commit"):  # the second is what hf found out about updates
            (folder / name).unlink(missing_ok=True)
    except OSError as why:
        raise StorageFailed(f"{folder} cannot be emptied: {why.strerror or why}.") from why
    with contextlib.suppress(OSError):  # somebody put something there
        folder.rmdir()
    return True


def find_crumb() -> Path:
    """Return the `crumb` command of this environment.

    Raises:
        NotFound: It has none.
    """
    name = f"{NAME}.exe" if os.name == "nt" else NAME
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    for scheme in schemes:
        path = Path(sysconfig.get_path("scripts", scheme)) / name
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise NotFound(f"The Python at {sys.prefix} has no command {name}; install the package there with pip.")


def _folder() -> Path:
    try:
        from huggingface_hub.cli.extensions import EXTENSIONS_ROOT
    except ImportError as why:
        raise NotFound("This huggingface_hub has no extensions of `hf`; install 2.4 or newer.") from why
    return Path(EXTENSIONS_ROOT).expanduser() / f"hf-{NAME}"


def _ours(folder: Path) -> dict[str, object] | None:
    """Return our manifest in the folder, None when nothing is there.

    Raises:
        WrongState: There is something else.
    """
    if not folder.is_symlink() and (not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))):
        return None
    try:
        with (folder / "manifest.json").open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and found.get("owner") == OWNER and not folder.is_symlink():
        return found
    raise WrongState(f"{folder} is another extension; `hf extensions remove {NAME}` removes it.")
