"""Models: a pinned base, and the settings of a model."""

from collections.abc import Iterator, Mapping
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
        self, *, search: str | None = None, author: str | None = None, limit: int | None = None
    ) -> Iterator[schemas.Model]:
        """Yield models by name, at most `limit`."""
        return self._pages(schemas.ModelPage, "/models", "after", limit, search=search, author=author)

    def model(self, name: str) -> schemas.Model:
        """Return a model, with its card."""
        return self._call(schemas.Model, "GET", f"/models/{name_of(name)}")

    def update_model(self, name: str, **changes: Any) -> schemas.Model:
        """Change a model's `visibility`, `license`, `min_approvals`, `required_evaluations` or `mask`."""
        request = valid(schemas.ModelUpdate, **changes)
        return self._call(schemas.Model, "PATCH", f"/models/{name_of(name)}", body=request)
