"""People: who a token speaks for, tokens, organisations and members."""

from collections.abc import Sequence

from client.api.calls import Calls, name_of, part, valid
from registry import schemas


class People(Calls):
    """Users, organisations, members and tokens."""

    def whoami(self) -> schemas.Whoami:
        """Return the user that the token belongs to."""
        return self._call(schemas.Whoami, "GET", "/whoami")

    def tokens(self) -> list[schemas.Token]:
        """Return your tokens, without their secrets."""
        return self._list(schemas.Token, "/tokens")

    def create_token(
        self, scopes: Sequence[str], *, label: str = "", expires_days: float = 90, model: str | None = None
    ) -> schemas.NewToken:
        """Make a token with at most the rights of the one in use; only this answer holds its secret."""
        request = valid(schemas.TokenRequest, scopes=list(scopes), label=label, expires_days=expires_days, model=model)
        return self._call(schemas.NewToken, "POST", "/tokens", body=request)

    def revoke_token(self, token: str) -> None:
        """Revoke one of your tokens, by its id."""
        self._send("DELETE", f"/tokens/{part(token)}")

    def create_organisation(self, name: str) -> schemas.Namespace:
        """Make an organisation that you own."""
        return self._call(schemas.Namespace, "POST", "/namespaces", body=valid(schemas.NamespaceRequest, name=name))

    def namespace(self, name: str) -> schemas.Namespace:
        """Return a user's or an organisation's namespace, with members and quota."""
        return self._call(schemas.Namespace, "GET", f"/namespaces/{part(name)}")

    def members(self, subject: str) -> list[schemas.Member]:
        """Return the members of a model (NS/NAME) or a namespace (NS), with their roles."""
        if "/" in subject:
            return self._list(schemas.Member, f"/models/{name_of(subject)}/members")
        return self.namespace(subject).members

    def add_member(self, subject: str, user: str, role: str) -> None:
        """Give a user a role on a model (NS/NAME) or on all models of a namespace (NS)."""
        self._send("PUT", f"{_holder(subject)}/members/{part(user)}", valid(schemas.MemberRequest, role=role))

    def remove_member(self, subject: str, user: str) -> None:
        """Take away a user's role on a model (NS/NAME) or in a namespace (NS)."""
        self._send("DELETE", f"{_holder(subject)}/members/{part(user)}")


def _holder(subject: str) -> str:
    return f"/models/{name_of(subject)}" if "/" in subject else f"/namespaces/{part(subject)}"
