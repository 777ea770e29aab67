"""Schemas of uploads, files and models."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from registry.files.names import NAME
from registry.schemas.operations import Job
from registry.schemas.wire import Answer, Decimal, FilePath, Hex256, License, ModelName, WeightsDigest, Wire

Visibility = Literal["public", "private"]
ModelState = Literal["empty", "importing", "ready"]
RequiredEvaluation = Annotated[str, StringConstraints(pattern=r"^[^:\x00]{1,200}:[^:\x00]{1,100}$")]
"""An evaluation that patches and releases must have, `dataset:metric`."""

REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HubSource = Annotated[
    str,
    StringConstraints(
        pattern=rf"^hf://{REPOSITORY}/{REPOSITORY}(@[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*)?$",
        max_length=300,
    ),
]
"""A base at a Hub, `hf://org/name@revision`."""


class UploadRequest(Wire):
    """Announce bytes; asking again with the same digest returns the same open session."""

    sha256: Hex256
    size: int = Field(ge=0, le=2**53)
    namespace: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")] | None = Field(
        None, description="the namespace whose quota the bytes count against; your own if null"
    )


class Upload(Answer):
    """An upload session: `open` until completed, then `done`."""

    id: str
    state: Literal["open", "done"]
    sha256: Hex256
    size: int
    part_size: int
    missing: list[int] = Field(description="numbers of the parts still to be sent, from 0")
    expires_at: datetime | None


class Part(Answer):
    """One part that is durably stored."""

    number: int
    size: int
    sha256: Hex256


class FileRequest(Wire):
    """A file of a base model: its place in the folder, and the digest of uploaded bytes."""

    path: FilePath
    sha256: Hex256


class File(Answer):
    """A file that can be downloaded."""

    path: str
    size: int
    sha256: Hex256


class ModelRequest(Wire):
    """Create a model pinned to a base: these files, or a source at a Hub."""

    name: ModelName
    files: list[FileRequest] = Field([], max_length=2000)
    source: HubSource | None = Field(
        None, description="instead of files, `hf://org/name@revision`; the revision is main if left out"
    )
    by_reference: bool = Field(True, description="whether the weights of a source stay at the Hub, or are copied")
    visibility: Visibility = "public"
    license: License | None = None

    @model_validator(mode="after")
    def one_base(self) -> Self:
        """Refuse a request with both files and a source, or with neither."""
        if bool(self.files) == (self.source is not None):
            raise PydanticCustomError("base", "give either the files of the base or its source at a Hub, not both")
        return self


ModelOrder = Literal["name", "downloads", "created", "modified"]


class MaskRequest(Wire):
    """How patches of a model are made where their authors do not say; the general defaults hold for a field of null."""

    drop_bottom: Decimal | None = Field(None, description="share of the smallest changes that is left out")
    drop_top: Decimal | None = Field(None, description="share of the largest changes that is left out")
    granularity: Literal["tensor", "row"] | None = Field(None, description="what the shares are of")
    value_dtype: Literal["auto", "BF16", "F16", "F32"] | None = Field(None, description="type of the stored changes")


class ModelUpdate(Wire):
    """Change a model; a field that is null stays."""

    visibility: Visibility | None = None
    license: License | None = None
    min_approvals: int | None = Field(
        None, ge=0, le=10, description="approvals that a patch needs before it can be accepted"
    )
    required_evaluations: list[RequiredEvaluation] | None = Field(None, max_length=50)
    mask: MaskRequest | None = Field(None, description="in place of all that was set before")


class Model(Answer):
    """A model: a name pinned to one base. `base` is null until the base's files are checked."""

    name: str
    creator: str
    visibility: Visibility
    license: str | None
    min_approvals: int
    required_evaluations: list[str]
    mask: dict[str, str] = Field({}, description="how patches are made where their authors do not say")
    state: ModelState
    base: WeightsDigest | None
    source: str | None = Field(None, description="where the base came from: `hf://org/name@<commit>` once imported")
    by_reference: bool = Field(False, description="whether its weights stay there, and are fetched when needed")
    parameters: int | None
    size: int = Field(description="bytes of all files of the base")
    patches: int
    role: str | None = Field(None, description="your role on it")
    primary: str | None = Field(
        None, description="address of the registry that it is mirrored from, where alone it can be changed"
    )
    card: str | None = None
    tags: list[str] | None = Field(None, description="words by which it is found; null but in lists")
    downloads: int = Field(0, description="in the last thirty days, as counted last")
    job: Job | None = Field(None, description="the import, while it is active")
    created_at: datetime


class Architecture(Answer):
    """What a model is built like, by its config.json and the headers of its weights; null is what they do not say."""

    names: list[str] = Field(description="classes of the model, such as LlamaForCausalLM")
    model_type: str | None
    layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    experts: int | None = None
    vocabulary: int | None = None
    context: int | None = Field(None, description="the longest input, in tokens")
    tensors: int
    dtypes: dict[str, int] = Field(description="the number of weights by dtype")


class ModelPage(Answer):
    """Models by name, or as they were sorted; `next` is the cursor of the page after this one."""

    items: list[Model]
    next: str | None
