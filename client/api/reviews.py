"""What people say and decide about patches, and what they measured."""

from collections.abc import Iterator, Sequence

from client.api.calls import Calls, name_of, paged, valid
from registry import schemas


class Reviews(Calls):
    """Patches on their way to being accepted, or not."""

    def discussion(self, model: str, number: int, revision: int | None = None) -> schemas.Discussion:
        """Return all that was said and found of a patch."""
        return self._call(schemas.Discussion, "GET", f"{patch_path(model, number, revision)}/discussion")

    def inbox(self, model: str) -> schemas.Inbox:
        """Return what waits for you in a model."""
        return self._call(schemas.Inbox, "GET", f"/models/{name_of(model)}/inbox")

    def propose(self, model: str, number: int) -> schemas.Patch:
        """Ask for review of your patch."""
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/propose")

    def withdraw(self, model: str, number: int, message: str = "") -> schemas.Patch:
        """Take your patch back."""
        return self._step(model, number, "withdraw", message)

    def review(self, model: str, number: int, verdict: str, revision: int, message: str = "") -> schemas.Patch:
        """`approve` or `request_changes` of the revision you have looked at, which must still be the newest."""
        request = valid(schemas.ReviewRequest, verdict=verdict, revision=revision, message=message)
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/reviews", body=request)

    def accept(
        self,
        model: str,
        number: int,
        message: str = "",
        *,
        revision: int | None = None,
        supersedes: Sequence[int] = (),
    ) -> schemas.Patch:
        """Accept a patch, once nothing is missing; it may take the place of older ones."""
        request = valid(schemas.AcceptRequest, message=message, revision=revision, supersedes=list(supersedes))
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/accept", body=request)

    def reject(self, model: str, number: int, message: str) -> schemas.Patch:
        """Reject a patch."""
        return self._step(model, number, "reject", message)

    def yank(self, model: str, number: int, message: str) -> schemas.Patch:
        """Yank an accepted patch; `affected` names the releases and channels that hold it."""
        return self._step(model, number, "yank", message)

    def unyank(self, model: str, number: int, message: str = "") -> schemas.Patch:
        """Undo a yank."""
        return self._step(model, number, "unyank", message)

    def quarantine(self, model: str, number: int, reason: str | None) -> schemas.Patch:
        """Quarantine a patch, or (None) end that; for admins of the registry."""
        request = valid(schemas.QuarantineRequest, reason=reason)
        return self._call(schemas.Patch, "PUT", f"{patch_path(model, number)}/quarantine", body=request)

    def comment(self, model: str, number: int, message: str, revision: int | None = None) -> schemas.Comment:
        """Say something about a patch, or about one revision of it."""
        request = valid(schemas.CommentRequest, message=message, revision=revision)
        return self._call(schemas.Comment, "POST", f"{patch_path(model, number)}/comments", body=request)

    def add_evaluation(
        self,
        model: str,
        ref: str,
        *,
        task: str,
        dataset: str,
        metric: str,
        value: float,
        higher_is_better: bool = True,
        source: str | None = None,
        command: str | None = None,
    ) -> schemas.Evaluation:
        """Record a measured number of `base`, a patch (`#12`, `#12.2`), a version or a channel, as yours."""
        request = valid(
            schemas.EvaluationRequest,
            ref=ref,
            task=task,
            dataset=dataset,
            metric=metric,
            value=value,
            higher_is_better=higher_is_better,
            source=source,
            command=command,
        )
        return self._call(schemas.Evaluation, "POST", f"/models/{name_of(model)}/evaluations", body=request)

    def evaluations(self, model: str, ref: str | None = None) -> Iterator[schemas.Evaluation]:
        """Yield what was measured of one thing, or of all of a model."""

        def page(after: str | None, count: int) -> tuple[list[schemas.Evaluation], str | None]:
            params = {"ref": ref, "after": after, "limit": count}
            found = self._call(schemas.EvaluationPage, "GET", f"/models/{name_of(model)}/evaluations", params=params)
            return found.items, found.next

        return paged(page, None)

    def _step(self, model: str, number: int, verb: str, message: str) -> schemas.Patch:
        shape = schemas.Reason if verb in ("withdraw", "unyank") else schemas.ReasonNeeded
        request = valid(shape, message=message)
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/{verb}", body=request)


def patch_path(model: str, number: int, revision: int | None = None) -> str:
    """Return where a patch is, at its newest revision unless one is named."""
    dot = "" if revision is None else f".{revision:d}"
    return f"/models/{name_of(model)}/patches/{number:d}{dot}"
