"""`Client`: one typed method for each endpoint of a registry.

    with Client("https://crumbs.example.org", token="hf_...") as client:
        for patch in client.patches("acme/llm", task="math"):
            print(patch.number, patch.title)

Every method raises the class of registry.errors that the registry meant, and returns objects of registry.schemas.
"""

from types import TracebackType
from typing import Self

from client.api.endpoints.admin import Admin
from client.api.endpoints.compositions import Compositions
from client.api.endpoints.conflicts import Conflicts
from client.api.endpoints.evaluations import Evaluations
from client.api.endpoints.jobs import Jobs
from client.api.endpoints.joining import Joining
from client.api.endpoints.models import Models
from client.api.endpoints.operations import Operations
from client.api.endpoints.patches import Patches
from client.api.endpoints.people import People
from client.api.endpoints.releases import Releases
from client.api.endpoints.reviews import Reviews
from client.api.endpoints.sessions import Sessions
from client.api.endpoints.uploads import Uploads
from client.api.http import Connection
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


def connect(url: str | None = None, token: str | None = None) -> Client:
    """Return a client of a registry, logged in as the commands are.

    Args:
        url: The registry's address; when None the one in use: $CRUMB_URL, else that of `crumb login`.
        token: Of the user; when None the one in use for that address, if any.

    Raises:
        Unauthenticated: No address is given, and no registry is in use.
        InvalidRequest: The address is malformed.
    """
    login = current(url)
    return Client(login.url, token or login.token)
