"""CI: the identity token that a build service gives to its jobs, if this is one.

$CRUMB_ID_TOKEN                      at GitLab, by `id_tokens`; at any other service, whatever it calls its token
$ACTIONS_ID_TOKEN_REQUEST_URL, ..._TOKEN   at GitHub, for jobs with `permissions: {id-token: write}`
"""

import json
import os

from registry.errors import Unavailable

MOST_READ = 64 * 2**10  # bytes of GitHub's answer
SECONDS = 30.0


def identity_token(audience: str) -> str | None:
    """Return the identity token of the job that this is, for a registry's address; None if it is none.

    Raises:
        Unavailable: GitHub gives none.
    """
    if given := os.environ.get("CRUMB_ID_TOKEN", "").strip():
        return given
    url, secret = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}", "") for name in ("URL", "TOKEN"))
    return _ask(url, secret, audience) if url and secret else None


def _ask(url: str, secret: str, audience: str) -> str:
    import httpx2

    headers = {"Authorization": f"Bearer {secret}", "Accept": "application/json"}
    try:
        address = httpx2.URL(url).copy_merge_params({"audience": audience})
        with httpx2.Client(timeout=SECONDS) as client, client.stream("GET", address, headers=headers) as answer:
            raw = bytearray()
            for chunk in answer.iter_bytes():
                raw += chunk
                if len(raw) > MOST_READ:
                    raise ValueError(f"its answer has more than {MOST_READ} bytes")
        found = json.loads(raw) if answer.status_code == 200 else None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as why:
        raise Unavailable(f"GitHub gives this job no identity token: {why}.") from why
    token = found.get("value") if isinstance(found, dict) else None
    if not isinstance(token, str):
        raise Unavailable("GitHub gives this job no identity token; the job needs `permissions: {id-token: write}`.")
    return token
