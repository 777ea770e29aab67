"""Sources of models: a safetensors file, a model folder, or a Hub id `org/name[@revision]`."""

import os
import re
from pathlib import Path

from client.machine.hub_errors import connection_error, from_hub
from registry.errors import (
    BreadcrumbError,
    InvalidCheckpoint,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
)
from registry.files.folders import HUB_PATTERNS, is_pickle

_HUB = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([\w./-]+))?", re.ASCII)


def resolve(source: str | Path, *, quiet: bool = False) -> Path:
    """Return the file or folder of a model on this machine, downloading a Hub model into the Hub's own cache first.

    Args:
        source: A file, a folder, or (as text) a Hub id `org/name[@revision]`.
        quiet: Whether to show no progress.

    Raises:
        NotFound: There is no such file, folder or Hub model.
        InvalidCheckpoint: The file is in a format that is never opened.
        Unavailable: The Hub is out of reach and the model is not in its cache.
    """
    path, text = Path(source).expanduser(), str(source)
    if path.is_dir():
        return path
    if path.is_file():
        if is_pickle(path.name):
            raise InvalidCheckpoint(
                f"{text} may be a pickle, which is never opened; save the model as .safetensors and give that."
            )
        return path
    match = None if isinstance(source, Path) else _HUB.fullmatch(text)
    if path.is_absolute() or text.startswith((".", "~")) or not match or "/" not in text.partition("@")[0]:
        raise NotFound(f"There is no {text!r}: give a .safetensors file, a model folder, or a Hub id like org/name.")
    return _from_hub(match[1], match[2], quiet)


def _from_hub(repo: str, revision: str | None, quiet: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if quiet:
        disable_progress_bars()
    name = repo if revision is None else f"{repo}@{revision}"
    offline = bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in (
        "1",
        "TRUE",
        "YES",
        "ON",
    )
    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(HUB_PATTERNS), local_files_only=offline)
    except BreadcrumbError:
        raise
    except GatedRepoError as why:
        raise from_hub(why, name) from why
    except RepositoryNotFoundError as why:
        raise NotFound(
            f"There is no file or folder {name!r} here, and no model of that name on the Hub that you may see."
        ) from why
    except RevisionNotFoundError as why:
        raise NotFound(f"{repo} on the Hub has no revision {revision!r}.") from why
    except HFValidationError as why:
        raise InvalidRequest(f"{name!r} is neither a file, a folder nor a Hub id.") from why
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as why:
        reason = "and HF_HUB_OFFLINE is set" if offline else "and the Hub does not answer"
        raise Unavailable(
            f"There is no file or folder {name!r} here; as a Hub id it is not in the Hub's cache, {reason}."
        ) from why
    except (HfHubHTTPError, connection_error(), OSError) as why:
        first = (str(why).strip().splitlines() or [type(why).__name__])[0][:200]
        raise Unavailable(f"{name} could not be downloaded from the Hub: {first}") from why
    return Path(folder)


def read_text(path: Path, most: int) -> str:
    """Return the text of a file of at most `most` bytes.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: The file cannot be read, or is not UTF-8.
        TooLarge: The file is longer.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except FileNotFoundError as why:
        raise NotFound(f"There is no file {path}.") from why
    except OSError as why:
        raise InvalidRequest(f"{path} cannot be read: {why.strerror}.") from why
    if len(raw) > most:
        raise TooLarge(f"{path} is longer than the {most} bytes that it may have.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as why:
        raise InvalidRequest(f"{path} is not UTF-8 text.") from why
