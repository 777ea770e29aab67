"""Releases: their builds, manifests and signatures, and the channels that point at them."""

from collections.abc import Iterator, Sequence
from typing import Any

from client.api.calls import Calls, Item, alpha_of, name_of, part, recipe_items, valid
from registry import schemas


class Releases(Calls):
    """Builds, releases and channels."""

    def report_build(self, model: str, recipe: str, weights_digest: str, device: str = "cpu") -> schemas.Build:
        """Report the weights digest of a recipe that you composed yourself; for maintainers."""
        request = valid(schemas.BuildRequest, recipe=recipe, weights_digest=weights_digest, device=device)
        return self._call(schemas.Build, "POST", f"/models/{name_of(model)}/builds", body=request)

    def cut_release(
        self,
        model: str,
        version: str,
        patches: Sequence[Item] = (),
        *,
        from_ref: str | None = None,
        add: Sequence[Item] = (),
        without: Sequence[int] = (),
        alpha: str | None = None,
        method: str | None = None,
        allow_yanked: bool = False,
        files_of: Sequence[int] | None = None,
    ) -> schemas.Release:
        """Cut a release candidate.

        Args:
            model: NS/NAME.
            version: Like 1.2.0.
            patches: The patches of the release; none with `from_ref`.
            from_ref: Start from the recipe of this reference.
            add: Patches added to that recipe.
            without: Numbers of patches removed from it.
            alpha: Scale of the whole, a decimal or `auto`; when None that of `from_ref`, or `auto`.
            method: sum, ties or mean; when None that of `from_ref`, or sum.
            allow_yanked: Whether patches may be yanked ones.
            files_of: Numbers of its patches whose files it takes; when None what `from_ref` took of its patches.
        """
        request = valid(
            schemas.ReleaseRequest,
            version=version,
            patches=recipe_items(patches),
            from_ref=from_ref,
            add=recipe_items(add),
            without=list(without),
            alpha=None if alpha is None else alpha_of(alpha),
            method=method,
            allow_yanked=allow_yanked,
            files_of=None if files_of is None else list(files_of),
        )
        return self._call(schemas.Release, "POST", f"/models/{name_of(model)}/releases", body=request)

    def release(self, model: str, version: str) -> schemas.Release:
        """Return a release."""
        return self._call(schemas.Release, "GET", _path(model, version))

    def releases(self, model: str, *, limit: int | None = None) -> Iterator[schemas.Release]:
        """Yield the releases of a model, newest version first."""
        return self._pages(schemas.ReleasePage, f"/models/{name_of(model)}/releases", "before", limit)

    def edit_release(
        self, model: str, version: str, *, changelog: str | None = None, card: str | None = None
    ) -> schemas.Release:
        """Edit the changelog or the card of a release that is not published yet."""
        request = valid(schemas.ReleaseUpdate, changelog=changelog, card=card)
        return self._call(schemas.Release, "PATCH", _path(model, version), body=request)

    def release_card(self, model: str, version: str) -> str:
        """Return the card of a release: as published or edited, else as the registry would generate it now."""
        return self._raw(f"{_path(model, version)}/card").decode("utf-8", "replace")

    def publish_release(self, model: str, version: str) -> schemas.Release:
        """Publish a candidate; this cannot be undone."""
        return self._call(schemas.Release, "POST", f"{_path(model, version)}/publish")

    def yank_release(self, model: str, version: str, message: str) -> schemas.Release:
        """Yank a published release: its version can still be pulled, with a warning."""
        request = valid(schemas.ReasonNeeded, message=message)
        return self._call(schemas.Release, "POST", f"{_path(model, version)}/yank", body=request)

    def pin_release(self, model: str, version: str, *, pinned: bool = True) -> schemas.Release:
        """Keep the weights of a release on the server's disk, or no longer: then they are composed when read."""
        return self._call(schemas.Release, "PUT" if pinned else "DELETE", f"{_path(model, version)}/pin")

    def manifest(self, model: str, version: str) -> bytes:
        """Return the manifest of a published release: the bytes that a signature is over."""
        return self._raw(f"{_path(model, version)}/manifest")

    def signature(self, model: str, version: str) -> str:
        """Return the signature over the manifest of a release."""
        return self._raw(f"{_path(model, version)}/signature").decode("utf-8", "replace")

    def sign_release(self, model: str, version: str, signature: str) -> schemas.Release:
        """Store the signature over the manifest of a release, once."""
        request = valid(schemas.SignatureRequest, signature=signature)
        return self._call(schemas.Release, "PUT", f"{_path(model, version)}/signature", body=request)

    def provenance(self, model: str, version: str) -> schemas.Provenance:
        """Return the provenance of a published release."""
        return self._call(schemas.Provenance, "GET", f"{_path(model, version)}/provenance")

    def compare(self, model: str, before: str, after: str) -> schemas.ReleaseDiff:
        """Return what changed between the recipes of two snapshots."""
        params = {"before": before, "after": after}
        return self._call(schemas.ReleaseDiff, "GET", f"/models/{name_of(model)}/compare", params=params)

    def channels(self, model: str) -> list[schemas.Channel]:
        """Return the channels of a model."""
        return self._list(schemas.Channel, f"/models/{name_of(model)}/channels")

    def move_channel(self, model: str, channel: str, version: str, reason: str = "") -> schemas.Channel:
        """Point a channel at a release, or approve that where the channel needs several approvals."""
        request = valid(schemas.ChannelRequest, version=version, reason=reason)
        return self._call(schemas.Channel, "PUT", _channel(model, channel), body=request)

    def rollback_channel(self, model: str, channel: str, reason: str = "") -> schemas.Channel:
        """Point a channel at its previous release."""
        request = valid(schemas.Reason, message=reason)
        return self._call(schemas.Channel, "POST", f"{_channel(model, channel)}/rollback", body=request)

    def channel_history(self, model: str, channel: str) -> list[schemas.ChannelMove]:
        """Return the moves of a channel, oldest first."""
        return self._list(schemas.ChannelMove, f"{_channel(model, channel)}/history")

    def protect_channel(self, model: str, channel: str, **rule: Any) -> schemas.Channel:
        """Change a channel's rule: `role`, `approvals`, `allow_yanked`."""
        request = valid(schemas.ChannelRule, **rule)
        return self._call(schemas.Channel, "PUT", f"{_channel(model, channel)}/protection", body=request)


def _path(model: str, version: str) -> str:
    return f"/models/{name_of(model)}/releases/{part(version)}"


def _channel(model: str, channel: str) -> str:
    return f"/models/{name_of(model)}/channels/{part(channel)}"
