"""Trusted publishing: workflows that may push to a model, and the exchange of their identity for a token."""

from collections.abc import Mapping

from client.api.calls import Calls, name_of, part, valid
from registry import schemas


class Publishers(Calls):
    """Workflows that push by the identity that their own service gives them."""

    def publishers(self, model: str) -> list[schemas.Publisher]:
        """Return the workflows that may push to a model, oldest first."""
        return self._list(schemas.Publisher, f"/models/{name_of(model)}/publishers")

    def create_publisher(
        self,
        model: str,
        kind: str,
        user: str,
        *,
        repository: str | None = None,
        workflow: str | None = None,
        environment: str | None = None,
        ref: str | None = None,
        issuer: str | None = None,
        claims: Mapping[str, str] | None = None,
    ) -> schemas.Publisher:
        """Let a workflow push to a model, as a program of this name; `kind` is github, gitlab or oidc."""
        body = valid(
            schemas.PublisherRequest,
            kind=kind,
            user=user,
            repository=repository,
            workflow=workflow,
            environment=environment,
            ref=ref,
            issuer=issuer,
            claims=dict(claims or {}),
        )
        return self._call(schemas.Publisher, "POST", f"/models/{name_of(model)}/publishers", body=body)

    def remove_publisher(self, model: str, publisher: str) -> None:
        """Keep a workflow from pushing to a model, by the publisher's id."""
        self._send("DELETE", f"/models/{name_of(model)}/publishers/{part(publisher)}")

    def exchange_identity(self, model: str, identity: str) -> schemas.PublishingToken:
        """Exchange the identity token of a workflow for a token that may push to a model for an hour."""
        body = valid(schemas.IdentityExchange, model=name_of(model), token=identity)
        return self._call(schemas.PublishingToken, "POST", "/publishing/token", body=body)
