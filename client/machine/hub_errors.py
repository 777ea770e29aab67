"""Errors of the Hugging Face Hub's library, as errors of registry.errors.

A message repeats the Hub's words, but never an address: those of uploads are signed, and so are secrets.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from client.terminal.console import plain
from registry.errors import (
    BreadcrumbError,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    WrongState,
)

WORDS = 300  # characters of the Hub's words that are repeated


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn exceptions of the Hub's library about a repository into errors of registry.errors."""
    try:
        yield
    except BreadcrumbError:
        raise
    except Exception as why:
        raise from_hub(why, repo) from why


def from_hub(why: Exception, repo: str) -> BreadcrumbError:
    """Return the error that an exception of the Hub's library stands for.

    Args:
        why: The exception.
        repo: The repository that it is about, `org/name` or `org/name@revision`.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match why:
        case GatedRepoError():
            return Forbidden(f"{repo} on the Hub is gated: accept its terms there, then run `hf auth login`.")
        case RepositoryNotFoundError():
            return NotFound(f"There is no {repo} on the Hub that you may see; check its name and your token.")
        case RevisionNotFoundError():
            return NotFound(f"There is no such revision of {repo} on the Hub.")
        case HFValidationError():
            return InvalidRequest(f"{repo!r} is not a repository of the Hub; write it like org/name.")
        case OfflineModeIsEnabled():
            return Unavailable(f"{repo} is on the Hub, and HF_HUB_OFFLINE is set.")
        case HfHubHTTPError():
            words = why.server_message or _reason(why.response)
            return _refusal(why.response.status_code, plain(words)[:WORDS].rstrip("."), repo)
        case _ if isinstance(why, connection_error()):
            why_not = _first(_innermost(why))
            return Unavailable(f"The Hub does not answer ({why_not}); run the command again, it resumes.")
        case RuntimeError() if isinstance(why.__cause__, Exception):  # a thread that sent a file
            return from_hub(why.__cause__, repo)
        case ValueError() | LookupError() | TypeError():
            return Unavailable(f"The Hub's answer about {repo} was not understood: {_first(why)}.")
    return Unavailable(f"The Hub cannot be used for {repo}: {_first(why)}.")


def connection_error() -> type[Exception]:
    """Return what the Hub's library raises when a connection fails: its HTTP library's own error.

    That is requests before huggingface_hub 1, then httpx, and httpx2 from 2 on.
    """
    import huggingface_hub

    match huggingface_hub.__version__.partition(".")[0]:
        case "0":
            return _class("requests", "RequestException")
        case "1":
            return _class("httpx", "HTTPError")
    return _class("httpx2", "HTTPError")


def _class(module: str, name: str) -> type[Exception]:
    found: type[Exception] = getattr(importlib.import_module(module), name)
    return found


def _innermost(why: BaseException) -> BaseException:
    """Return what an exception was raised about in the end: requests puts the whole address into its own words."""
    while (inner := why.__cause__ or why.__context__) is not None:
        why = inner
    return why


def _reason(response: object) -> str:
    """Return the words of a status line, `Not Found`, in whichever library's response."""
    return str(getattr(response, "reason_phrase", None) or getattr(response, "reason", ""))


def _refusal(status: int, words: str, repo: str) -> BreadcrumbError:
    match status:
        case 401:
            return Unauthenticated(f"The Hub does not take your token ({words}); run `hf auth login`, or set HF_TOKEN.")
        case 402 | 403:
            return Forbidden(f"Your token for the Hub does not allow this on {repo}: {words}.")
        case 404:
            return NotFound(f"The Hub did not find that in {repo}: {words}.")
        case 409 | 412:
            return WrongState(f"{repo} on the Hub has changed in the meantime ({words}); run the command again.")
        case 413:
            return TooLarge(f"That is larger than the Hub allows for {repo}: {words}.")
        case 429:
            return TooMany(f"The Hub asks for a pause ({words}); run the command again later, it resumes.")
    if status >= 500:
        return Unavailable(f"The Hub failed over {repo} ({words}); run the command again, it resumes.")
    return InvalidRequest(f"The Hub refuses this for {repo}: {words}.")


def _first(why: BaseException) -> str:
    lines = str(why).strip().splitlines() or [type(why).__name__]
    return plain(lines[0])[:WORDS].rstrip(".")
