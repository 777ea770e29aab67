"""`Client`: one typed method for each endpoint of a registry.

    with Client("https://crumbs.example.org", token="hf_...") as client:
        for patch in client.patches("acme/llm", task="math"):
            print(patch.number, patch.title)

Every method raises the class of registry.errors that the registry meant, and returns objects of registry.schemas.
"""

from types import TracebackType
from typing import Self

from client.api.endpoints.accounts.joining import Joining
from client.api.endpoints.accounts.mail import MailBox
from client.api.endpoints.accounts.news import Newsreader
from client.api.endpoints.accounts.publishers import Publishers
from client.api.endpoints.accounts.sessions import Sessions
from client.api.endpoints.admin import Admin
from client.api.endpoints.compositions import Compositions
from client.api.endpoints.conflicts import Conflicts
from client.api.endpoints.evaluations import Evaluations
from client.api.endpoints.jobs import Jobs
from client.api.endpoints.models import Models
from client.api.endpoints.operations import Operations
from client.api.endpoints.patches import Patches
from client.api.endpoints.people import People
from client.api.endpoints.releases import Releases
from client.api.endpoints.reviews import Reviews
from client.api.endpoints.uploads import Uploads
from client.api.http import Connection
from client.machine.ci import identity_token
from client.machine.config import current


class Client(
    Models,
    Patches,
    Reviews,
    Evaluations,
    Compositions,
    Conflicts,
    Releases,
    Jobs,
    Uploads,
    People,
    Joining,
    Sessions,
    Publishers,
    Newsreader,
    MailBox,
    Operations,
    Admin,
):
    """A registry, reached by its HTTP API; threads may share one.

    Args:
        url: The registry's address.
        token: `hf_...`; reading public models needs none.
        attempts: How often a call is tried when the connection breaks or the registry is busy.
        timeout: Seconds to wait for the next bytes.
    """

    def __init__(self, url: str, token: str | None = None, *, attempts: int = 8, timeout: float = 60.0) -> None:
        self.connection = Connection(url, token, attempts=attempts, timeout=timeout)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"  # a token never gets into a log or a notebook by accident

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()


def connect(url: str | None = None, token: str | None = None, *, pushing: str | None = None) -> Client:
    """Return a client of a registry, logged in as the commands are.

    Args:
        url: The registry's address; when None the one in use: $CRUMB_URL, else that of `crumb login`.
        token: Of the user; when None the one in use for that address, if any.
        pushing: The model to be pushed to. Without a token, a job of a build service then pushes by its own identity.

    Raises:
        Unauthenticated: No address is given, and no registry is in use.
            The identity of the job is refused.
        InvalidRequest: The address is malformed.
        Unavailable: The registry or the build service does not answer.
    """
    login = current(url)
    known = token or login.token
    if known is None and pushing is not None and (identity := identity_token(login.url)) is not None:
        with Client(login.url) as client:
            known = client.exchange_identity(pushing, identity).token
    return Client(login.url, known)
