"""Models: a pinned base, and the settings of a model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from client.api.calls import Calls, name_of, valid
from registry import schemas


class Models(Calls):
    """Models."""

    def create_model(
        self,
        name: str,
        files: Mapping[str, str] | None = None,
        *,
        source: str | None = None,
        copy: bool = False,
        visibility: str = "public",
        license: str | None = None,
    ) -> schemas.Model:
        """Create a model pinned to a base.

        Args:
            name: NS/NAME.
            files: The base's files, uploaded before: path in the folder -> sha256.
            source: In place of files, `hf://org/name@revision`, which the registry fetches.
            copy: Whether the registry also keeps the weights of the source; else they stay at the Hub.
            visibility: `public` or `private`.
            license: Of the base, as the Hub calls it; that of its card when None.
        """
        request = valid(
            schemas.ModelRequest,
            name=name,
            files=[{"path": path, "sha256": sha256} for path, sha256 in (files or {}).items()],
            source=source,
            by_reference=not copy,
            visibility=visibility,
            license=license,
        )
        return self._call(schemas.Model, "POST", "/models", body=request)

    def models(
        self,
        *,
        search: str | None = None,
        author: str | None = None,
        tags: Sequence[str] = (),
        parameters_min: int | None = None,
        parameters_max: int | None = None,
        sort: str = "name",
        limit: int | None = None,
    ) -> Iterator[schemas.Model]:
        """Yield models by name, at most `limit`.

        Args:
            search: Words that their names contain.
            author: A namespace.
            tags: Tags that they have, such as `text-generation`, `license:mit` or `llama`.
            parameters_min: The least number of weights.
            parameters_max: The greatest.
            sort: `name`; or `downloads` (of thirty days), `created` or `modified`, the greatest first.
            limit: Most models.
        """
        sizes = {"parameters_min": parameters_min, "parameters_max": parameters_max}
        words = {"search": search, "author": author, "tag": list(tags) or None}
        return self._pages(schemas.ModelPage, "/models", "after", limit, sort=sort, **words, **sizes)

    def model(self, name: str) -> schemas.Model:
        """Return a model, with its card."""
        return self._call(schemas.Model, "GET", f"/models/{name_of(name)}")

    def architecture(self, name: str) -> schemas.Architecture:
        """Return what a model is built like, by its config and the headers of its weights."""
        return self._call(schemas.Architecture, "GET", f"/models/{name_of(name)}/architecture")

    def propose_card(
        self, name: str, card: str, title: str, message: str = "", *, accept: bool = False
    ) -> schemas.CardProposal:
        """Propose another card (the text of a README.md) for a model or, as a maintainer, change it at once."""
        request = valid(schemas.CardRequest, card=card, title=title, message=message, accept=accept)
        return self._call(schemas.CardProposal, "POST", f"/models/{name_of(name)}/cards", body=request)

    def cards(self, name: str, *, state: str | None = None, limit: int | None = None) -> Iterator[schemas.CardProposal]:
        """Yield the cards that were proposed for a model, newest first, without their texts."""
        return self._pages(schemas.CardPage, f"/models/{name_of(name)}/cards", "before", limit, state=state)

    def card(self, name: str, number: int) -> schemas.CardProposal:
        """Return a proposed card, with its text, and a diff to it from the model's."""
        return self._call(schemas.CardProposal, "GET", f"/models/{name_of(name)}/cards/{number}")

    def revise_card(self, name: str, number: int, card: str, title: str, message: str = "") -> schemas.CardProposal:
        """Give the card that you proposed another text."""
        request = valid(schemas.CardRequest, card=card, title=title, message=message)
        return self._call(schemas.CardProposal, "PUT", f"/models/{name_of(name)}/cards/{number}", body=request)

    def accept_card(
        self, name: str, number: int, message: str = "", *, sha256: str | None = None
    ) -> schemas.CardProposal:
        """Make a proposed card that of the model, if it still is the text with this digest."""
        request = valid(schemas.CardDecision, message=message, sha256=sha256)
        return self._call(schemas.CardProposal, "POST", f"/models/{name_of(name)}/cards/{number}/accept", body=request)

    def reject_card(self, name: str, number: int, message: str) -> schemas.CardProposal:
        """Reject a proposed card."""
        request = valid(schemas.ReasonNeeded, message=message)
        return self._call(schemas.CardProposal, "POST", f"/models/{name_of(name)}/cards/{number}/reject", body=request)

    def withdraw_card(self, name: str, number: int, message: str = "") -> schemas.CardProposal:
        """Withdraw the card that you proposed."""
        request = valid(schemas.Reason, message=message)
        path = f"/models/{name_of(name)}/cards/{number}/withdraw"
        return self._call(schemas.CardProposal, "POST", path, body=request)

    def update_model(self, name: str, **changes: Any) -> schemas.Model:
        """Change a model's `visibility`, `license`, `min_approvals`, `required_evaluations` or `mask`."""
        request = valid(schemas.ModelUpdate, **changes)
        return self._call(schemas.Model, "PATCH", f"/models/{name_of(name)}", body=request)
