"""Who people are elsewhere: the provider that they sign in by, and the issuers of identity tokens.

Libraries for tokens are loaded by the first use, since most servers need none.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry.db.session import Database
from registry.errors import NotFound, TooMany, WrongState
from registry.outside.person import Person
from registry.services.people import access
from registry.services.people.actors import Actor
from registry.services.people.joining import identities
from registry.services.people.joining.identities import Policy
from registry.settings import Settings

if TYPE_CHECKING:
    from registry.outside.issuers import Issuers
    from registry.outside.provider import Provider

HUGGING_FACE = "https://huggingface.co"  # the provider, whatever the Hub of bases is
AT_ONCE = 8  # calls to the provider, and to issuers; a slow one must not take all threads of the server


def provider_access(settings: Settings) -> dict[str, str] | None:
    """Return how to reach the provider that people sign in by, including its secret; None if there is none."""
    if not settings.oidc_issuer:
        return None
    preset = settings.oidc_issuer == "huggingface"
    return {
        "issuer": HUGGING_FACE if preset else settings.oidc_issuer,
        "client_id": settings.oidc_client_id,
        "client_secret": settings.oidc_client_secret.get_secret_value(),
        "scopes": settings.oidc_scopes,
        "groups_claim": settings.oidc_groups_claim or ("orgs" if preset else "groups"),
    }


def group_roles(text: str) -> list[tuple[str, str, str]]:
    """Return the roles of groups at the provider, (group, organisation, role), as the setting writes them."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return [(group.strip(), *place.partition(":")[::2]) for group, _, place in pairs]


@contextmanager
def calling(places: threading.BoundedSemaphore) -> Iterator[None]:
    """Hold a place for a call to a provider or an issuer.

    Raises:
        TooMany: All places are taken.
    """
    if not places.acquire(blocking=False):
        raise TooMany("Too many people sign in at this moment; try again in a few seconds.", retry_after=5)
    try:
        yield
    finally:
        places.release()


class Providers:
    """The provider and the issuers of a server.

    Args:
        settings: The settings of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Owners of models choose issuers; a slow one of theirs must keep nobody from signing in.
        self.sign_ins, self.exchanges = (threading.BoundedSemaphore(AT_ONCE) for _ in range(2))

    @cached_property
    def issuers(self) -> "Issuers":
        """What is known of issuers."""
        from registry.outside.issuers import Issuers

        return Issuers([issuer.strip() for issuer in self.settings.private_issuers.split(",") if issuer.strip()])

    @cached_property
    def provider(self) -> "Provider":
        """The provider that people sign in by.

        Raises:
            NotFound: There is none.
        """
        from registry.outside.provider import Access, Provider

        access = provider_access(self.settings)
        if access is None:
            raise NotFound("This registry has no provider to sign in by; sign in with a token.")
        return Provider(self.issuers, Access(**access))

    @property
    def policy(self) -> Policy:
        """What is set of sign-in by the provider."""
        settings = self.settings
        return Policy(settings.oidc_title, settings.oidc_join, settings.oidc_hours, group_roles(settings.oidc_groups))

    def begin(self, secret: str, redirect_uri: str) -> str:
        """Return the address to which a browser goes to sign in.

        Raises:
            NotFound: There is no provider.
            Unavailable, TooMany: It cannot be reached at the moment.
        """
        with calling(self.sign_ins):
            return self.provider.start(secret, redirect_uri)

    def finish(self, secret: str, redirect_uri: str, code: str) -> Person:
        """Return who signed in at the provider.

        Raises:
            Unauthenticated: The provider or a check refuses it.
            Unavailable, TooMany: It cannot be reached at the moment.
        """
        with calling(self.sign_ins):
            return self.provider.finish(secret, redirect_uri, code)

    def verify(self, token: str, issuer: str, asked_at: str) -> dict[str, Any]:
        """Return the claims of an identity token that an issuer signed for this registry.

        Args:
            token: The identity token.
            issuer: Who is said to have signed it.
            asked_at: The address at which the caller reached this server.

        Raises:
            WrongState: The server does not know its own address.
            Unauthenticated: A check refuses it.
            Unavailable, TooMany: The issuer cannot be reached at the moment.
        """
        audience = self.audience(asked_at)
        with calling(self.exchanges):
            claims, _ = self.issuers.verify(token, issuer, audience)
        return claims

    def audience(self, asked_at: str) -> str:
        """Return the audience of identity tokens: this registry's address, which no caller may choose.

        A caller says by which name they reached the server. If that counted, a token for another service would be good
        here. Only an address of this machine itself is taken from them.

        Raises:
            WrongState: The server does not know its own address.
        """
        if self.settings.public_url:
            return self.settings.public_url.rstrip("/")
        if urlsplit(asked_at).hostname in ("127.0.0.1", "::1", "localhost"):
            return asked_at
        raise WrongState("Trusted publishing needs the registry's own address: its operator sets REGISTRY_PUBLIC_URL.")

    def check_issuer(self, issuer: str) -> None:
        """Refuse an issuer that this server would never call.

        Raises:
            InvalidRequest: It is at http:// or at an address that is not public, and the operator has not named it.
        """
        self.issuers.check(issuer)

    @staticmethod
    def peek(token: str) -> dict[str, Any]:
        """Return what an identity token says, its issuer among it, of which nothing has been checked.

        Raises:
            Unauthenticated: It is not such a token.
        """
        from registry.outside.issuers import peek

        return peek(token)[1]

    def sign_in(self, database: Database, person: Person, request_id: str, agent: str) -> str:
        """Sign somebody in whom the provider knows; return the secret of their browser.

        Raises:
            Forbidden: They have no account here, and get none by that.
            Unauthenticated: Their account is disabled.
        """
        with database.write() as session:
            secret, _ = identities.sign_in(session, person, self.policy, request_id, agent)
        return secret

    def link(self, database: Database, actor: Actor, person: Person) -> None:
        """Let somebody sign in by an account at the provider from now on.

        Raises:
            Forbidden: The token that they signed in with may not manage their account.
            WrongState: Another user does, or too many accounts are linked.
        """
        with database.write() as session:
            access.admit(session, actor, "account.manage", {})
            identities.link(session, actor, person)
