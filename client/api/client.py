"""`Client`: one typed method for each endpoint of a registry.

    with Client("https://crumbs.example.org", token="hf_...") as client:
        for patch in client.patches("acme/llm", task="math"):
            print(patch.number, patch.title)

Every method raises the class of registry.errors that the registry meant, and returns objects of registry.schemas.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from types import TracebackType
from typing import Self

from client.api.admin import Admin
from client.api.calls import name_of, paged, part, valid
from client.api.conflicts import Conflicts
from client.api.http import Body, Connection, content_digest
from client.api.operations import Operations
from client.api.people import People
from client.api.releases import Item, Releases, recipe_items
from client.api.reviews import Reviews, patch_path
from registry import schemas
from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.errors import JobCancelled, JobFailed, Unavailable

COMPLETING = 3600.0  # seconds that a registry may take to hash a whole upload
IDLE = 10.0  # seconds in the queue before somebody is told


class Client(Admin, People, Reviews, Releases, Conflicts, Operations):
    """A registry, spoken to by its HTTP API; may be shared by threads.

    Args:
        url: The registry's address.
        token: `hf_...`; reading models needs none.
        attempts: How often a call is tried when the connection breaks or the registry is busy.
        timeout: Seconds to wait for the next bytes.
    """

    def __init__(self, url: str, token: str | None = None, *, attempts: int = 8, timeout: float = 60.0) -> None:
        self.connection = Connection(url, token, attempts=attempts, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    # Uploads --------------------------------------------------------------------------------------------------

    def announce_upload(self, sha256: str, size: int) -> schemas.Upload:
        """Open an upload session, or return the open one for the same bytes; `done` when nothing need be sent."""
        request = valid(schemas.UploadRequest, sha256=sha256, size=size)
        return self._call(schemas.Upload, "POST", "/uploads", body=request)

    def upload(self, upload: str) -> schemas.Upload:
        """Return the state of an upload session."""
        return self._call(schemas.Upload, "GET", f"/uploads/{part(upload)}")

    def send_part(
        self, upload: str, number: int, body: Body, size: int, sha256: bytes, *, stop: Event | None = None
    ) -> schemas.Part:
        """Send part `number` (from 0) of `size` bytes; `body` yields them anew at each call, `sha256` is 32 bytes."""
        path = f"/api/v1/uploads/{part(upload)}/parts/{number}"
        headers = {
            "Content-Digest": content_digest(sha256),
            "Content-Type": "application/octet-stream",
        }
        return self._read(schemas.Part, self.connection.put(path, body, size, headers, stop), f"PUT {path}")

    def complete_upload(self, upload: str) -> schemas.Upload:
        """Ask the registry to verify the whole and keep it."""
        return self._call(schemas.Upload, "POST", f"/uploads/{part(upload)}/complete", timeout=COMPLETING)

    def abort_upload(self, upload: str) -> None:
        """Throw away an upload session and its parts."""
        self.connection.json("DELETE", f"/api/v1/uploads/{part(upload)}")

    # Models ---------------------------------------------------------------------------------------------------

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
        """Create a model pinned to the base that these uploaded files are: path in the folder -> sha256.

        With a source in place of files, `hf://org/name@revision`, the registry fetches the base; unless it is told to
        copy them, the weights stay there.
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

        def page(after: str | None, count: int) -> tuple[list[schemas.Model], str | None]:
            params = {"search": search, "author": author, "limit": count, "after": after}
            found = self._call(schemas.ModelPage, "GET", "/models", params=params)
            return found.items, found.next

        return paged(page, limit)

    def model(self, name: str) -> schemas.Model:
        """Return a model, with its card."""
        return self._call(schemas.Model, "GET", f"/models/{name_of(name)}")

    # Patches --------------------------------------------------------------------------------------------------

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
    ) -> schemas.Patch:
        """Contribute an uploaded patch file, as a draft unless told otherwise; the same again is the same patch."""
        request = valid(
            schemas.PatchRequest,
            sha256=sha256,
            title=title,
            message=message,
            task=task,
            license=license,
            propose=propose,
        )
        return self._call(schemas.Patch, "POST", f"/models/{name_of(model)}/patches", body=request)

    def revise_patch(
        self, model: str, number: int, sha256: str, title: str, *, message: str = "", license: str | None = None
    ) -> schemas.Patch:
        """Add an uploaded file to your patch as its next revision."""
        request = valid(schemas.RevisionRequest, sha256=sha256, title=title, message=message, license=license)
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
        """Yield the patches of a model, newest first, at most `limit`; densities are parts of all weights, 0 to 1."""
        wanted = {
            "task": task,
            "author": author,
            "state": state,
            "density_min": density_min,
            "density_max": density_max,
            "tensor": tensor,
        }

        def page(before: int | None, count: int) -> tuple[list[schemas.Patch], int | None]:
            params = wanted | {"limit": count, "before": before}
            found = self._call(schemas.PatchPage, "GET", f"/models/{name_of(model)}/patches", params=params)
            return found.items, found.next

        return paged(page, limit)

    def patch(self, model: str, number: int, revision: int | None = None) -> schemas.Patch:
        """Return one patch, at its newest revision unless one is named."""
        return self._call(schemas.Patch, "GET", patch_path(model, number, revision))

    def patch_tensors(self, model: str, number: int, revision: int | None = None) -> list[schemas.TensorStats]:
        """Return what a patch does to each tensor, as the registry computed it."""
        return self._list(schemas.TensorStats, f"{patch_path(model, number, revision)}/tensors")

    # Compositions ---------------------------------------------------------------------------------------------

    def compose(
        self, model: str, patches: Sequence[Item], *, alpha: str = "0.3", allow_yanked: bool = False
    ) -> schemas.Composition:
        """Ask for base + alpha * sum(weight * patch); patches are (number, weight as a decimal[, revision])."""
        request = valid(
            schemas.RecipeRequest,
            alpha=normalise_decimal(alpha, "alpha"),
            patches=recipe_items(patches),
            allow_yanked=allow_yanked,
        )
        return self._call(schemas.Composition, "POST", f"/models/{name_of(model)}/compositions", body=request)

    def snapshot(self, model: str, ref: str = "main") -> schemas.Snapshot:
        """Return what can be pulled as `ref`: `main`, `base`, a version, a channel, or 8 digits of a recipe or more."""
        return self._call(schemas.Snapshot, "GET", f"/models/{name_of(model)}/revisions/{part(ref)}")

    # Jobs -----------------------------------------------------------------------------------------------------

    def job(self, job: str) -> schemas.Job:
        """Return a job."""
        return self._call(schemas.Job, "GET", f"/jobs/{part(job)}")

    def cancel_job(self, job: str) -> schemas.Job:
        """Cancel a job."""
        return self._call(schemas.Job, "POST", f"/jobs/{part(job)}/cancel")

    def wait(
        self,
        job: schemas.Job,
        *,
        progress: Callable[[float], None] | None = None,
        idle: Callable[[], None] | None = None,
        timeout: float | None = None,
    ) -> schemas.Job:
        """Wait until a job has ended, and return it as it ended.

        Args:
            job: The job, as an answer carried it.
            progress: Called with a number from 0 to 1 at every look.
            idle: Called once when no worker has taken it for some seconds.
            timeout: Seconds; None waits for ever.

        Raises:
            JobFailed: It failed, with the registry's sentence.
            JobCancelled: Somebody cancelled it.
            Unavailable: The timeout passed.
        """
        start, pause = time.monotonic(), 0.05
        while job.state in ("queued", "running"):
            if progress is not None:
                progress(min(1.0, max(0.0, job.progress)))
            if timeout is not None and time.monotonic() - start > timeout:
                raise Unavailable(f"Job {job.id} ({job.kind} of {job.model}) is still {job.state}; ask again later.")
            if idle is not None and job.state == "queued" and time.monotonic() - start > IDLE:
                idle()
                idle = None
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            job = self.job(job.id)
        if job.state == "failed":
            raise JobFailed(job.error or f"The {job.kind} of {job.subject} in {job.model} failed without a reason.")
        if job.state == "cancelled":
            raise JobCancelled(f"The {job.kind} of {job.subject} in {job.model} was cancelled.")
        if progress is not None:
            progress(1.0)
        return job
