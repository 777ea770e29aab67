"""The JSON shapes on the wire, shared by server and client.

Sizes are bytes, times are UTC, digests are sha256: 64 lowercase hex, except a *weights digest*, which is
written `sha256:<hex>`. Decimals travel as strings so that nobody rounds them.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
WeightsDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Decimal = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$")]
NAME = r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?"
ModelName = Annotated[str, StringConstraints(pattern=rf"^{NAME}/{NAME}$", max_length=193)]
PATH = r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_. +=@-]*(/[A-Za-z0-9_][A-Za-z0-9_. +=@-]*)*"
FilePath = Annotated[str, Field(max_length=255)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\x00]*$")]

PatchState = Literal["checking", "checked", "refused"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JobKind = Literal["import", "check", "compose"]


class Wire(BaseModel):
    """One JSON object; unknown fields in a request are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class Answer(Wire):
    """One JSON object that a server sends; a client ignores fields it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True)


class Problem(Answer):
    """RFC 9457 problem details; `type` is `urn:breadcrumb:problem:<slug of the error class>`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="the request id, as in the server's log")
    field: str | None = Field(None, description="the field, tensor or entry at fault")


class Whoami(Answer):
    """Who a token speaks for."""

    user: str
    admin: bool
    scopes: list[str]
    token: str = Field(description="the token's visible prefix")
    expires_at: datetime | None


class UploadRequest(Wire):
    """Announce bytes; asking again with the same digest returns the same open session."""

    sha256: Hex256
    size: int = Field(ge=0, le=2**53)


class Upload(Answer):
    """An upload session: `open` until completed, then `done`."""

    id: str
    state: Literal["open", "done"]
    sha256: Hex256
    size: int
    part_size: int
    missing: list[int] = Field(description="numbers of the parts still to send, from 0")
    expires_at: datetime | None


class Part(Answer):
    """One part that the server has durably stored."""

    number: int
    size: int
    sha256: Hex256


class FileRequest(Wire):
    """A file of a base model: its place in the folder, and the digest of uploaded bytes."""

    path: FilePath
    sha256: Hex256


class ModelRequest(Wire):
    """Create a model pinned to the base that these files are."""

    name: ModelName
    files: list[FileRequest] = Field(min_length=1, max_length=2000)


class Job(Answer):
    """Work for a worker; `progress` goes from 0 to 1."""

    id: str
    kind: JobKind
    state: JobState
    progress: float
    attempt: int
    error: str | None = Field(description="one sentence, when failed")
    model: str
    subject: str = Field(description="what the job is about: a patch '#3', a recipe digest, or 'base'")
    created_at: datetime
    finished_at: datetime | None


class Model(Answer):
    """A model: a name pinned to one base. `base` is null until its files are checked."""

    name: str
    owner: str
    state: Literal["importing", "ready"]
    base: WeightsDigest | None
    parameters: int | None
    size: int = Field(description="bytes of all files of the base")
    patches: int
    card: str | None = None
    job: Job | None = Field(None, description="the import, while it is under way")
    created_at: datetime


class PatchRequest(Wire):
    """Contribute an uploaded patch file to a model."""

    sha256: Hex256
    title: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    message: Annotated[Text, StringConstraints(max_length=65536)] = ""
    task: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}$")] | None = None


class Patch(Answer):
    """A patch at its newest revision, like a commit."""

    model: str
    number: int
    revision: int
    state: PatchState
    refusal: str | None = Field(description="one sentence, when refused")
    author: str
    title: str
    message: str
    task: str | None
    base: WeightsDigest
    sha256: Hex256
    size: int
    nnz: int | None = Field(description="weights the patch changes; null until checked")
    density: float | None = Field(description="nnz over all weights of the base")
    drop_bottom: str | None
    drop_top: str | None
    granularity: str | None
    value_dtype: str | None
    job: Job | None = None
    created_at: datetime


class TensorStats(Answer):
    """What a patch does to one tensor, recomputed by the server."""

    name: str
    shape: list[int]
    dtype: str
    nnz: int
    density: float
    l1: float
    l2: float
    linf: float


class RecipeItemRequest(Wire):
    """One patch of a recipe."""

    number: int = Field(ge=1, le=2**31 - 1)
    weight: Decimal = "1"


class RecipeRequest(Wire):
    """Compose base + alpha * sum(weight * patch) over any subset of checked patches."""

    alpha: Decimal = "0.3"
    patches: list[RecipeItemRequest] = Field(max_length=1000)


class RecipeItem(Answer):
    """One patch of a recipe, by digest; `number` is the patch's in this model."""

    sha256: Hex256
    weight: str
    number: int
    title: str


class File(Answer):
    """A file that can be downloaded."""

    path: str
    size: int
    sha256: Hex256


class Recipe(Answer):
    """What is composed; the digest is over its canonical form."""

    digest: Hex256
    base: WeightsDigest
    alpha: str
    patches: list[RecipeItem]


class Composition(Answer):
    """A recipe and, once composed, its result."""

    recipe: Recipe
    weights_digest: WeightsDigest | None
    device: str | None
    seconds: float | None
    job: Job | None


class Revision(Answer):
    """A model that can be pulled: the base, or a composed recipe."""

    model: str
    ref: str = Field(description="'base' or the whole recipe digest")
    weights_digest: WeightsDigest
    recipe: Recipe | None
    files: list[File]


class ModelPage(Answer):
    """Models by name; `next` is the cursor of the page after this one."""

    items: list[Model]
    next: str | None


class PatchPage(Answer):
    """Patches, newest first; `next` is the cursor of the page after this one."""

    items: list[Patch]
    next: int | None
