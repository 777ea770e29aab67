"""Patches: contributions to a model, and their revisions."""

from collections.abc import Iterator, Mapping

from client.api.calls import Calls, name_of, patch_path, valid
from registry import schemas


class Patches(Calls):
    """Patches of a model."""

    def create_patch(
        self,
        model: str,
        sha256: str,
        title: str,
        *,
        message: str = "",
        task: str | None = None,
        license: str | None = None,
        propose: bool = False,
        files: Mapping[str, str] | None = None,
    ) -> schemas.Patch:
        """Contribute an uploaded patch file, as a draft unless `propose`; the same file again is the same patch.

        `files` are uploaded files that belong to it beside the weights: path -> sha256.
        """
        request = valid(
            schemas.PatchRequest,
            sha256=sha256,
            title=title,
            message=message,
            task=task,
            license=license,
            propose=propose,
            files=_files(files),
        )
        return self._call(schemas.Patch, "POST", f"/models/{name_of(model)}/patches", body=request)

    def revise_patch(
        self,
        model: str,
        number: int,
        sha256: str,
        title: str,
        *,
        message: str = "",
        license: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> schemas.Patch:
        """Add an uploaded file to your patch as its next revision; `files` are as of `create_patch`."""
        request = valid(
            schemas.RevisionRequest,
            sha256=sha256,
            title=title,
            message=message,
            license=license,
            files=_files(files),
        )
        return self._call(schemas.Patch, "POST", f"{patch_path(model, number)}/revisions", body=request)

    def patches(
        self,
        model: str,
        *,
        task: str | None = None,
        author: str | None = None,
        state: str | None = None,
        density_min: float | None = None,
        density_max: float | None = None,
        tensor: str | None = None,
        limit: int | None = None,
    ) -> Iterator[schemas.Patch]:
        """Yield the patches of a model, newest first, at most `limit`.

        Args:
            model: NS/NAME.
            task: Only for this task.
            author: Only by this user.
            state: Only in this state.
            density_min: Only if they change at least this share of all weights, 0 to 1.
            density_max: Only if they change at most this share.
            tensor: Only if they change a tensor whose name contains this.
            limit: Most patches; None for all.
        """
        filters = {
            "task": task,
            "author": author,
            "state": state,
            "density_min": density_min,
            "density_max": density_max,
            "tensor": tensor,
        }

        return self._pages(schemas.PatchPage, f"/models/{name_of(model)}/patches", "before", limit, **filters)

    def patch(self, model: str, number: int, revision: int | None = None) -> schemas.Patch:
        """Return one patch, at its newest revision unless another is given."""
        return self._call(schemas.Patch, "GET", patch_path(model, number, revision))

    def patch_tensors(self, model: str, number: int, revision: int | None = None) -> list[schemas.TensorStats]:
        """Return what a patch does to each tensor, as the registry computed it."""
        return self._list(schemas.TensorStats, f"{patch_path(model, number, revision)}/tensors")


def _files(files: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"path": path, "sha256": sha256} for path, sha256 in (files or {}).items()]
