"""Conflicts: where patches change the same weights, as the registry computed it."""

from collections.abc import Sequence

from client.api.calls import Calls, Choice, name_of, valid
from registry import schemas


class Conflicts(Calls):
    """Conflicts between patches of a model."""

    def ask_conflicts(self, model: str, patches: Sequence[Choice] = ()) -> schemas.Conflicts:
        """Have patches compared pair by pair; there is a `job` to wait for unless every pair is known.

        Without patches: those of the newest release, else the accepted ones.
        """
        choices = [{"number": number, "revision": revision} for number, revision in patches]
        request = valid(schemas.ConflictRequest, patches=choices)
        return self._call(schemas.Conflicts, "POST", f"/models/{name_of(model)}/conflicts", body=request)

    def conflicts(self, model: str, patches: Sequence[Choice] = ()) -> schemas.Conflicts:
        """Return the known conflicts between patches; without patches, those of the newest release."""
        params = {"patch": [_written(patch) for patch in patches]}
        return self._call(schemas.Conflicts, "GET", f"/models/{name_of(model)}/conflicts", params=params)

    def conflict(self, model: str, first: Choice, second: Choice) -> schemas.ConflictPair:
        """Return the conflicts between two patches, tensor by tensor, once they are computed."""
        path = f"/models/{name_of(model)}/conflicts/{_written(first)}/{_written(second)}"
        return self._call(schemas.ConflictPair, "GET", path)


def _written(patch: Choice) -> str:
    number, revision = patch
    return f"{number:d}" if revision is None else f"{number:d}.{revision:d}"
