"""Where patches meet, and what a recipe would be."""

from collections.abc import Sequence

from client.api.calls import Calls, name_of, valid
from client.api.releases import Item, recipe_items
from client.api.reviews import patch_path
from registry import schemas
from registry.breadcrumbs.formats.recipe import normalise_decimal

Choice = tuple[int, int | None]
"""A patch's number, and its revision; its newest when None."""


class Conflicts(Calls):
    """Looking before one composes."""

    def ask_conflicts(self, model: str, patches: Sequence[Choice] = ()) -> schemas.Conflicts:
        """Have patches compared, each with each; those of the newest release, or the accepted ones, if none are named.

        There is a `job` to wait for unless all is known.
        """
        named = [{"number": number, "revision": revision} for number, revision in patches]
        request = valid(schemas.ConflictRequest, patches=named)
        return self._call(schemas.Conflicts, "POST", f"/models/{name_of(model)}/conflicts", body=request)

    def conflicts(self, model: str, patches: Sequence[Choice] = ()) -> schemas.Conflicts:
        """Return what is known of where patches meet; of those of the newest release, if none are named."""
        params = {"patch": [_written(patch) for patch in patches]}
        return self._call(schemas.Conflicts, "GET", f"/models/{name_of(model)}/conflicts", params=params)

    def conflict(self, model: str, first: Choice, second: Choice) -> schemas.ConflictPair:
        """Return where two patches meet, tensor by tensor, once that has been computed."""
        path = f"/models/{name_of(model)}/conflicts/{_written(first)}/{_written(second)}"
        return self._call(schemas.ConflictPair, "GET", path)

    def patch_conflicts(
        self, model: str, number: int, revision: int | None = None, *, limit: int = 50
    ) -> list[schemas.ConflictPair]:
        """Return what is known of where a patch meets others of its model, the newest first."""
        path = f"{patch_path(model, number, revision)}/conflicts"
        return self._list(schemas.ConflictPair, path, params={"limit": limit})

    def preview(
        self, model: str, patches: Sequence[Item], *, alpha: str = "0.3", allow_yanked: bool = False
    ) -> schemas.Preview:
        """Say what base + alpha * sum(weight * patch) would be; composes nothing."""
        request = valid(
            schemas.RecipeRequest,
            alpha=normalise_decimal(alpha, "alpha"),
            patches=recipe_items(patches),
            allow_yanked=allow_yanked,
        )
        return self._call(schemas.Preview, "POST", f"/models/{name_of(model)}/preview", body=request)


def _written(patch: Choice) -> str:
    number, revision = patch
    return f"{number:d}" if revision is None else f"{number:d}.{revision:d}"
