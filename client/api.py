"""`Client`: one typed method for each endpoint of a registry.

    with Client("https://crumbs.example.org", token="hf_...") as client:
        for patch in client.patches("acme/llm", task="math"):
            print(patch.number, patch.title)

Every method raises the class of registry.errors that the registry meant, and returns objects of registry.schemas.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from client import transfers
from client.http import Body, Connection
from registry import schemas
from registry.breadcrumbs.recipe import normalise_decimal
from registry.errors import InvalidRequest, JobCancelled, JobFailed, Unavailable

T = TypeVar("T", bound=BaseModel)
Progress = transfers.Progress
PAGE = 100
COMPLETING = 3600.0  # seconds that a registry may take to hash a whole upload
IDLE = 10.0  # seconds in the queue before somebody is told
RULES = {  # patterns of registry.schemas, in words
    "task": "write it like math or code/python, in up to 64 lowercase letters, digits, dots, dashes and slashes",
    "name": "write NS/NAME in lowercase letters, digits, dots and dashes",
    "title": "it holds a NUL character",
    "message": "it holds a NUL character",
}
_STATS: TypeAdapter[list[schemas.TensorStats]] = TypeAdapter(list[schemas.TensorStats])


class Client:
    """A registry, spoken to by its HTTP API; may be shared by threads.

    Args:
        url: The registry's address.
        token: `hf_...`; reading models needs none.
        attempts: How often a call is tried when the connection breaks or the registry is busy.
        timeout: Seconds to wait for the next bytes.
    """

    def __init__(self, url: str, token: str | None = None, *, attempts: int = 8, timeout: float = 60.0) -> None:
        self.connection = Connection(url, token, attempts=attempts, timeout=timeout)

    @property
    def url(self) -> str:
        """The registry's address."""
        return self.connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    # Who ------------------------------------------------------------------------------------------------------

    def whoami(self) -> schemas.Whoami:
        """Return who the token speaks for."""
        return self._call(schemas.Whoami, "GET", "/whoami")

    # Uploads --------------------------------------------------------------------------------------------------

    def announce_upload(self, sha256: str, size: int) -> schemas.Upload:
        """Open an upload session, or return the open one for the same bytes; `done` when nothing need be sent."""
        request = _valid(schemas.UploadRequest, sha256=sha256, size=size)
        return self._call(schemas.Upload, "POST", "/uploads", body=request)

    def upload(self, upload: str) -> schemas.Upload:
        """Return the state of an upload session."""
        return self._call(schemas.Upload, "GET", f"/uploads/{_part(upload)}")

    def send_part(
        self, upload: str, number: int, body: Body, size: int, sha256: bytes, *, stop: Event | None = None
    ) -> schemas.Part:
        """Send part `number` (from 0) of `size` bytes; `body` yields them anew at each call, `sha256` is 32 bytes."""
        path = f"/api/v1/uploads/{_part(upload)}/parts/{number}"
        headers = {
            "Content-Digest": transfers.content_digest(sha256),
            "Content-Type": "application/octet-stream",
        }
        return self._read(schemas.Part, self.connection.put(path, body, size, headers, stop), f"PUT {path}")

    def complete_upload(self, upload: str) -> schemas.Upload:
        """Ask the registry to verify the whole and keep it."""
        return self._call(schemas.Upload, "POST", f"/uploads/{_part(upload)}/complete", timeout=COMPLETING)

    def abort_upload(self, upload: str) -> None:
        """Throw away an upload session and its parts."""
        self.connection.json("DELETE", f"/api/v1/uploads/{_part(upload)}")

    def upload_file(
        self, path: Path, *, progress: Progress | None = None, hashing: Progress | None = None
    ) -> tuple[str, int]:
        """Bring a file's bytes to the registry and return its sha256 and size; see `transfers.upload`."""
        return transfers.upload(self, path, progress=progress, hashing=hashing)

    # Models ---------------------------------------------------------------------------------------------------

    def create_model(self, name: str, files: Mapping[str, str]) -> schemas.Model:
        """Create a model pinned to the base that these uploaded files are: path in the folder -> sha256."""
        named = [{"path": path, "sha256": sha256} for path, sha256 in files.items()]
        request = _valid(schemas.ModelRequest, name=name, files=named)
        return self._call(schemas.Model, "POST", "/models", body=request)

    def models(
        self, *, search: str | None = None, author: str | None = None, limit: int | None = None
    ) -> Iterator[schemas.Model]:
        """Yield models by name, at most `limit`."""
        left, after = limit, None
        while left is None or left > 0:
            params = {"search": search, "author": author, "limit": _page(left), "after": after}
            page = self._call(schemas.ModelPage, "GET", "/models", params=params)
            yield from page.items if left is None else page.items[:left]
            left = None if left is None else left - len(page.items)
            if page.next is None or page.next == after or not page.items:
                return
            after = page.next

    def model(self, name: str) -> schemas.Model:
        """Return a model, with its card."""
        return self._call(schemas.Model, "GET", f"/models/{_name(name)}")

    # Patches --------------------------------------------------------------------------------------------------

    def create_patch(
        self, model: str, sha256: str, title: str, *, message: str = "", task: str | None = None
    ) -> schemas.Patch:
        """Contribute an uploaded patch file; the same file again answers with the same patch."""
        request = _valid(schemas.PatchRequest, sha256=sha256, title=title, message=message, task=task)
        return self._call(schemas.Patch, "POST", f"/models/{_name(model)}/patches", body=request)

    def patches(
        self, model: str, *, task: str | None = None, author: str | None = None, limit: int | None = None
    ) -> Iterator[schemas.Patch]:
        """Yield the patches of a model, newest first, at most `limit`."""
        left, before = limit, None
        while left is None or left > 0:
            params = {"task": task, "author": author, "limit": _page(left), "before": before}
            page = self._call(schemas.PatchPage, "GET", f"/models/{_name(model)}/patches", params=params)
            yield from page.items if left is None else page.items[:left]
            left = None if left is None else left - len(page.items)
            if page.next is None or (before is not None and page.next >= before) or not page.items:
                return
            before = page.next

    def patch(self, model: str, number: int) -> schemas.Patch:
        """Return one patch."""
        return self._call(schemas.Patch, "GET", f"/models/{_name(model)}/patches/{number:d}")

    def patch_tensors(self, model: str, number: int) -> list[schemas.TensorStats]:
        """Return what a patch does to each tensor, as the registry computed it."""
        path = f"/api/v1/models/{_name(model)}/patches/{number:d}/tensors"
        try:
            return _STATS.validate_json(self.connection.json("GET", path))
        except ValidationError as why:
            raise self._strange(f"GET {path}") from why

    def download_patch(self, patch: schemas.Patch, target: Path, *, progress: Progress | None = None) -> None:
        """Download a patch's file, verified, going on where an earlier run stopped."""
        source = f"/api/v1/models/{_name(patch.model)}/patches/{patch.number:d}/file"
        wanted = transfers.Wanted(source, target, patch.sha256, patch.size)
        transfers.download_all(self.connection, [wanted], progress=progress)

    # Compositions ---------------------------------------------------------------------------------------------

    def compose(self, model: str, patches: Sequence[tuple[int, str]], *, alpha: str = "0.3") -> schemas.Composition:
        """Ask for base + alpha * sum(weight * patch); patches are (number, weight as a decimal)."""
        items = [{"number": number, "weight": normalise_decimal(weight, "weight")} for number, weight in patches]
        request = _valid(schemas.RecipeRequest, alpha=normalise_decimal(alpha, "alpha"), patches=items)
        return self._call(schemas.Composition, "POST", f"/models/{_name(model)}/compositions", body=request)

    def revision(self, model: str, ref: str = "base") -> schemas.Revision:
        """Return what can be pulled as `ref`: `base`, a recipe digest, or a unique prefix of 8 or more."""
        return self._call(schemas.Revision, "GET", f"/models/{_name(model)}/revisions/{_part(ref)}")

    def download_revision(
        self,
        revision: schemas.Revision,
        folder: Path,
        *,
        paths: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Download a revision's files (or only these paths) into a folder, in parallel, each verified."""
        from client.folders import inside

        files = [file for file in revision.files if paths is None or file.path in paths]
        targets = inside(folder, [file.path for file in files])
        source = f"/api/v1/models/{_name(revision.model)}/revisions/{_part(revision.ref)}/files/"
        wanted = [
            transfers.Wanted(source + quote(file.path), target, file.sha256, file.size)
            for file, target in zip(files, targets, strict=True)
        ]
        transfers.download_all(self.connection, wanted, progress=progress)

    # Jobs -----------------------------------------------------------------------------------------------------

    def job(self, job: str) -> schemas.Job:
        """Return a job."""
        return self._call(schemas.Job, "GET", f"/jobs/{_part(job)}")

    def cancel_job(self, job: str) -> schemas.Job:
        """Cancel a job."""
        return self._call(schemas.Job, "POST", f"/jobs/{_part(job)}/cancel")

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

    # ----------------------------------------------------------------------------------------------------------

    def _call(
        self,
        shape: type[T],
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: BaseModel | None = None,
        timeout: float | None = None,
    ) -> T:
        path = f"/api/v1{path}"
        document = None if body is None else body.model_dump(mode="json")
        answer = self.connection.json(method, path, params=params, body=document, timeout=timeout)
        return self._read(shape, answer, f"{method} {path}")

    def _read(self, shape: type[T], answer: bytes, call: str) -> T:
        try:
            return shape.model_validate_json(answer)
        except ValidationError as why:
            raise self._strange(call) from why

    def _strange(self, call: str) -> Unavailable:
        return Unavailable(
            f"What answers at {self.url} is no registry that this crumb understands ({call}); "
            "check the address, or upgrade crumb."
        )


def _valid(shape: type[T], **values: Any) -> T:
    try:
        return shape(**values)
    except ValidationError as why:
        first = why.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        words = RULES.get(field, first["msg"]) if first["type"] == "string_pattern_mismatch" else first["msg"]
        raise InvalidRequest(f"{field}: {words} (given: {str(first['input'])[:80]!r}).", field=field) from why


def _page(left: int | None) -> int:
    return PAGE if left is None else min(left, PAGE)


def _part(text: str) -> str:
    if text in ("", ".", ".."):
        raise InvalidRequest(f"{text!r} names nothing.")
    return quote(text, safe="")


def _name(model: str) -> str:
    from client.addresses import check_model

    return check_model(model)
