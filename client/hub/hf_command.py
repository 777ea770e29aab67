"""`hf crumb`: this crumb as an extension of the Hub's own command.

    ~/.local/share/hf/extensions/hf-crumb/manifest.json    executable_path -> the `crumb` of this environment

`hf` runs the executable that such a manifest names, and passes arguments and exit code on. Its own installer knows only
GitHub, where it also looks for updates and would run what it finds: so the manifest names an owner that cannot exist
there, since GitHub's names have no dots.
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
    """Let `hf crumb` run the crumb of this environment; a second call changes nothing.

    Returns:
        Path of the manifest.

    Raises:
        NotFound: This environment has no crumb, or its `hf` has no extensions.
        WrongState: There is another extension of that name.
        StorageFailed: The folder cannot be made.
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
    """Remove `hf crumb`, and return whether it was there.

    Raises:
        WrongState: There is another extension of that name.
    """
    folder = _folder()
    if _ours(folder) is None:
        return False
    try:
        for name in ("manifest.json", ".latest_commit"):  # the second is hf's note on updates
            (folder / name).unlink(missing_ok=True)
    except OSError as why:
        raise StorageFailed(f"{folder} cannot be emptied: {why.strerror or why}.") from why
    with contextlib.suppress(OSError):  # another file is there
        folder.rmdir()
    return True


def find_crumb() -> Path:
    """Return the `crumb` command of this environment.

    Raises:
        NotFound: This environment has no such command.
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
    """Return our manifest in the folder; None if nothing is there.

    Raises:
        WrongState: Something else is there.
    """
    if not folder.is_symlink() and (not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))):
        return None
    try:
        with (folder / "manifest.json").open("rb") as file:
            manifest = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        manifest = None
    if isinstance(manifest, dict) and manifest.get("owner") == OWNER and not folder.is_symlink():
        return manifest
    raise WrongState(f"{folder} is another extension; `hf extensions remove {NAME}` removes it.")
