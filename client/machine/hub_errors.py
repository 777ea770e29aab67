"""What the Hugging Face Hub's library raises, as the errors that a person can meet here.

A sentence repeats what the Hub says, and never an address: those of uploads are signed, and so are secrets.
"""

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

WORDS = 300  # characters of what the Hub says that are repeated


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Raise what the Hub's library raises about a repository as an error of registry.errors."""
    try:
        yield
    except BreadcrumbError:
        raise
    except Exception as why:
        raise from_hub(why, repo) from why


def from_hub(why: Exception, repo: str) -> BreadcrumbError:
    """Return the error that an exception of the Hub's library stands for.

    Args:
        why: What was raised.
        repo: What it is about, `org/name` or `org/name@revision`.
    """
    import httpx2
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
            return NotFound(f"There is no {repo} on the Hub that you may see; look at its name and at your token.")
        case RevisionNotFoundError():
            return NotFound(f"There is no such revision of {repo} on the Hub.")
        case HFValidationError():
            return InvalidRequest(f"{repo!r} is no repository of the Hub; write it like org/name.")
        case OfflineModeIsEnabled():
            return Unavailable(f"{repo} is on the Hub, and HF_HUB_OFFLINE is set.")
        case HfHubHTTPError():
            said = why.server_message or why.response.reason_phrase
            return _refusal(why.response.status_code, plain(said)[:WORDS].rstrip("."), repo)
        case httpx2.HTTPError():
            return Unavailable(f"The Hub does not answer ({_first(why)}); run the command again, it goes on.")
        case RuntimeError() if isinstance(why.__cause__, Exception):  # a thread that sent a file
            return from_hub(why.__cause__, repo)
        case ValueError() | LookupError() | TypeError():
            return Unavailable(f"What the Hub answers about {repo} makes no sense here: {_first(why)}.")
    return Unavailable(f"The Hub cannot be used for {repo}: {_first(why)}.")


def _refusal(status: int, words: str, repo: str) -> BreadcrumbError:
    match status:
        case 401:
            return Unauthenticated(f"The Hub does not take your token ({words}); run `hf auth login`, or set HF_TOKEN.")
        case 402 | 403:
            return Forbidden(f"Your token for the Hub does not allow this on {repo}: {words}.")
        case 404:
            return NotFound(f"The Hub knows nothing like that about {repo}: {words}.")
        case 409 | 412:
            return WrongState(f"{repo} on the Hub has changed meanwhile ({words}); run the command again.")
        case 413:
            return TooLarge(f"That is more than the Hub takes for {repo}: {words}.")
        case 429:
            return TooMany(f"The Hub asks for a pause ({words}); run the command again later, it goes on.")
    if status >= 500:
        return Unavailable(f"The Hub failed over {repo} ({words}); run the command again, it goes on.")
    return InvalidRequest(f"The Hub refuses this for {repo}: {words}.")


def _first(why: Exception) -> str:
    lines = str(why).strip().splitlines() or [type(why).__name__]
    return plain(lines[0])[:WORDS].rstrip(".")
