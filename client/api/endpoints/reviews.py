"""Reviews: comments, verdicts and decisions on patches."""

from collections.abc import Iterator, Sequence

from client.api.calls import Calls, name_of, part, patch_path, valid
from registry import schemas


class Reviews(Calls):
    """Reviews and decisions."""

    def discussion(self, model: str, number: int, revision: int | None = None) -> schemas.Discussion:
        """Return the checks, evaluations, and all reviews and comments of a patch."""
        newest = self._call(schemas.Discussion, "GET", f"{patch_path(model, number, revision)}/discussion")
        reviews, comments = newest.reviews, newest.comments
        if newest.earlier_reviews:
            reviews = [*list(self.reviews(model, number, newest.earlier_reviews))[::-1], *reviews]
        if newest.earlier_comments:
            comments = [*list(self.comments(model, number, newest.earlier_comments))[::-1], *comments]
        whole = {"reviews": reviews, "comments": comments, "earlier_reviews": None, "earlier_comments": None}
        return newest.model_copy(update=whole)

    def comments(self, model: str, number: int, before: str | None = None) -> Iterator[schemas.Comment]:
        """Yield the comments on a patch, newest first, or those before a cursor."""
        return self._pages(schemas.CommentPage, f"{patch_path(model, number)}/comments", "before", start=before)

    def reviews(self, model: str, number: int, before: str | None = None) -> Iterator[schemas.Review]:
        """Yield the verdicts on a patch, newest first, or those before a cursor."""
        return self._pages(schemas.ReviewPage, f"{patch_path(model, number)}/reviews", "before", start=before)

    def waiting_models(self, limit: int | None = None) -> Iterator[schemas.WaitingModel]:
        """Yield the models in which something waits for you, by name."""
        return self._pages(schemas.WaitingModelPage, "/inbox", "after", limit)

    def inbox(self, model: str) -> schemas.Inbox:
        """Return all that is waiting for you in a model."""
        path, after = f"/models/{name_of(model)}/inbox", 0
        pages = [self._call(schemas.Inbox, "GET", path)]
        while (following := pages[-1].next) is not None and following > after:
            after = following
            pages.append(self._call(schemas.Inbox, "GET", path, params={"after": after}))
        kinds = ("review", "accept", "mine")
        patches = {kind: [patch for page in pages for patch in getattr(page, kind)] for kind in kinds}
        return pages[0].model_copy(update={**patches, "next": None})

    def propose(self, model: str, number: int) -> schemas.Patch:
        """Ask for review of your patch."""
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/propose")

    def withdraw(self, model: str, number: int, message: str = "") -> schemas.Patch:
        """Withdraw your patch."""
        return self._step(model, number, "withdraw", message)

    def review(
        self, model: str, number: int, verdict: str, revision: int, message: str = "", about: Sequence[str] = ()
    ) -> schemas.Patch:
        """Give the verdict `approve` or `request_changes` on a revision, which must still be the newest.

        Args:
            model: The model.
            number: The patch.
            verdict: `approve` or `request_changes`.
            revision: The revision that you looked at.
            message: The reasons.
            about: Tensors that the reasons refer to: names or globs.
        """
        request = valid(schemas.ReviewRequest, verdict=verdict, revision=revision, message=message, about=list(about))
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
        """Accept a patch that meets all requirements; it may supersede older ones."""
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
        """Quarantine a patch for a reason, or end its quarantine (None); for admins of the registry."""
        request = valid(schemas.QuarantineRequest, reason=reason)
        return self._call(schemas.Patch, "PUT", f"{patch_path(model, number)}/quarantine", body=request)

    def comment(
        self, model: str, number: int, message: str, revision: int | None = None, about: Sequence[str] = ()
    ) -> schemas.Comment:
        """Comment on a patch, on one revision of it, or on tensors of one, given as names or globs."""
        request = valid(schemas.CommentRequest, message=message, revision=revision, about=list(about))
        return self._call(schemas.Comment, "POST", f"{patch_path(model, number)}/comments", body=request)

    def edit_comment(self, model: str, number: int, comment: str, message: str) -> schemas.Comment:
        """Give your comment another text; the one before is kept."""
        request = valid(schemas.CommentEditRequest, message=message)
        return self._call(schemas.Comment, "PUT", f"{patch_path(model, number)}/comments/{part(comment)}", body=request)

    def comment_history(self, model: str, number: int, comment: str) -> schemas.CommentHistory:
        """Return all texts of a comment, oldest first."""
        path = f"{patch_path(model, number)}/comments/{part(comment)}/history"
        return self._call(schemas.CommentHistory, "GET", path)

    def delete_comment(self, model: str, number: int, comment: str, message: str = "") -> schemas.Comment:
        """Delete your comment or, as a maintainer who says why, anybody's; who, when and why stay."""
        request = valid(schemas.Reason, message=message)
        path = f"{patch_path(model, number)}/comments/{part(comment)}/delete"
        return self._call(schemas.Comment, "POST", path, body=request)

    def hide_comment(self, model: str, number: int, comment: str, reason: str | None) -> schemas.Comment:
        """Hide a comment from all but maintainers for a reason, or show it again (None); for maintainers."""
        request = valid(schemas.HideRequest, reason=reason)
        path = f"{patch_path(model, number)}/comments/{part(comment)}/hidden"
        return self._call(schemas.Comment, "PUT", path, body=request)

    def _step(self, model: str, number: int, verb: str, message: str) -> schemas.Patch:
        shape = schemas.Reason if verb in ("withdraw", "unyank") else schemas.ReasonNeeded
        request = valid(shape, message=message)
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/{verb}", body=request)
