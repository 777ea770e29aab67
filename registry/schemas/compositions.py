"""Schemas of recipes, compositions, builds, releases and channels."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from registry.schemas.contents import File
from registry.schemas.evaluations import Evaluation
from registry.schemas.operations import Job
from registry.schemas.wire import Answer, Card, Decimal, Hex256, Message, WeightsDigest, Wire

ReleaseState = Literal["draft", "building", "candidate", "published", "yanked"]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(-[0-9A-Za-z.-]{1,40})?$")]
Alpha = Annotated[str, StringConstraints(pattern=r"^(auto|-?[0-9]{1,20}(\.[0-9]{1,20})?)$")]
Method = Literal["sum", "ties", "mean"]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Ref = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]


class RecipeItemRequest(Wire):
    """One patch of a recipe. The first glob of `where` that matches a tensor's name gives a factor of its weight."""

    number: int = Field(ge=1, le=2**31 - 1)
    weight: Decimal = "1"
    revision: int | None = Field(None, ge=1, le=2**31 - 1, description="the newest if null")
    where: list[tuple[Glob, Decimal]] = Field([], max_length=100, description="[glob of tensor names, factor]")


class RecipeRequest(Wire):
    """Compose base + alpha * (patches combined by a method) over any subset of checked patches."""

    alpha: Alpha = Field("auto", description="a decimal, or auto for the one that the patches give; recipes have that")
    method: Method = "sum"
    patches: list[RecipeItemRequest] = Field(max_length=1000)
    allow_yanked: bool = False


class RecipeItem(Answer):
    """One patch of a recipe, by digest; `number` and `revision` are those in this model, 0 if not listed."""

    sha256: Hex256
    weight: str
    where: list[tuple[str, str]] = Field([], description="factors of the weight by tensor: [glob, factor]")
    number: int
    revision: int
    title: str
    author: str | None
    license: str | None
    state: str | None


class Recipe(Answer):
    """What to compose; the digest is over its canonical form."""

    digest: Hex256
    base: WeightsDigest
    alpha: str
    method: str = "sum"
    patches: list[RecipeItem]


class Composition(Answer):
    """A recipe and, once it is composed, its result."""

    recipe: Recipe
    weights_digest: WeightsDigest | None
    device: str | None
    seconds: float | None
    held: bool = Field(True, description="whether its weights are on the server's disk, or composed when they are read")
    warnings: list[str] = Field([], description="what to know before using the result, a sentence each")
    alpha_rule: str | None = Field(None, description="the rule that gave alpha, if it was asked for as auto")
    left_out: list[str] = Field(
        [], description="files of the base with other copies of its weights, which the result does not have"
    )
    job: Job | None


class Snapshot(Answer):
    """A model that can be pulled: the base, a composed recipe, or a release."""

    model: str
    ref: str = Field(description="'base', a whole recipe digest, or the version of a release")
    release: str | None
    channel: str | None
    fixed: bool = Field(description="whether the files of this ref never change")
    commit: str = Field(description="the Hub's name for these files, 40 hex digits, which never changes")
    warnings: list[str] = Field(description="what to know before using it, a sentence each")
    weights_digest: WeightsDigest
    recipe: Recipe | None
    files: list[File]


class BuildRequest(Wire):
    """Attest that you composed a recipe yourself, with the result."""

    recipe: Hex256
    weights_digest: WeightsDigest
    device: Annotated[str, StringConstraints(pattern=r"^[a-z0-9:._ -]{1,64}$")] = "cpu"


class Build(Answer):
    """One builder's result of a recipe."""

    builder: str
    weights_digest: WeightsDigest
    device: str
    created_at: datetime


class ReleaseRequest(Wire):
    """Cut a release: of these patches, or of those of another ref with some added and some left out."""

    version: Version
    patches: list[RecipeItemRequest] = Field([], max_length=1000)
    from_ref: Ref | None = Field(None, description="start from the recipe of this ref")
    add: list[RecipeItemRequest] = Field([], max_length=1000, description="patches to add, or to give another weight")
    without: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field([], max_length=1000)
    alpha: Alpha | None = Field(None, description="if null, that of from_ref, or auto")
    method: Method | None = Field(None, description="if null, that of from_ref, or sum")
    allow_yanked: bool = False
    files_of: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] | None = Field(
        None, max_length=100, description="its patches whose files it takes; if null, what from_ref took of its patches"
    )


class ReleaseUpdate(Wire):
    """Edit the texts of a release before it is published; a field that is null stays."""

    changelog: Message | None = None
    card: Card | None = None


class SignatureRequest(Wire):
    """A signature over the manifest: a Sigstore bundle as OpenSSF model-signing writes it."""

    signature: Annotated[str, StringConstraints(max_length=2**19)]


class TakenFile(File):
    """A file that a release takes from a patch, in place of the base's or beside them."""

    patch: int
    revision: int


class Release(Answer):
    """A version of a model."""

    model: str
    version: str
    state: ReleaseState
    previous: str | None
    recipe: Recipe
    weights_digest: WeightsDigest | None
    changelog: str
    card: str | None
    creator: str
    created_at: datetime
    publisher: str | None
    published_at: datetime | None
    yank_reason: str | None
    yanked_at: datetime | None
    pinned: bool = Field(False, description="whether its weights stay on the server's disk")
    manifest_digest: Hex256 | None
    signed: bool
    builds: list[Build]
    channels: list[str]
    missing: list[str] = Field(description="what keeps it from being published, a sentence each")
    warnings: list[str]
    taken_files: list[TakenFile] = Field([], description="files that it takes from its patches")
    alpha_rule: str | None = Field(None, description="the rule that gave alpha, if the release was just cut with auto")
    job: Job | None = None


class ReleasePage(Answer):
    """Releases, newest version first; `next` is the cursor of the page after this one."""

    items: list[Release]
    next: str | None


class ChannelRequest(Wire):
    """Point a channel at a release."""

    version: Version
    reason: Message = ""


class ChannelRule(Wire):
    """Change a channel's rule; a field that is null stays."""

    role: Literal["maintainer", "owner"] | None = Field(None, description="the least role that may move it")
    approvals: int | None = Field(None, ge=1, le=10, description="how many users must ask for the same move")
    allow_yanked: bool | None = Field(None, description="whether it may point at releases that hold yanked patches")


class Channel(Answer):
    """A name that points at a release."""

    name: str
    release: str | None
    role: str
    approvals: int
    allow_yanked: bool
    asked: dict[str, list[str]] = Field(description="users who have asked to move it, by version, while more must ask")
    warnings: list[str]


class ChannelMove(Answer):
    """One step of a channel's history."""

    number: int
    kind: Literal["move", "rollback"]
    release: str
    user: str
    reason: str
    created_at: datetime


class RecipeChange(Answer):
    """A patch whose scale alpha * weight changed, as exact decimals, or whose weights by tensor did."""

    number: int
    title: str
    before: str
    after: str


class ChangedFile(Answer):
    """A file beside the weights that two refs have otherwise; null where it is missing."""

    path: str
    before: Hex256 | None
    after: Hex256 | None


class TouchedTensor(Answer):
    """A tensor that patches in which two refs differ touch: how many of them do, and how many weights they change."""

    name: str
    patches: int
    nnz: int


class ReleaseDiff(Answer):
    """How the recipes of two refs differ, and their files beside the weights but for the card."""

    before: str
    after: str
    bump: str = Field(description="the least step of the version that this needs: major, minor, patch or none")
    added: list[RecipeItem]
    removed: list[RecipeItem]
    changed: list[RecipeChange]
    files: list[ChangedFile] = Field([])
    tensors: list[TouchedTensor] = Field([], description="that may differ, the first 100 by how many weights do")
    touched: int | None = Field(None, description="how many such tensors there are; null if too many patches differ")


class Provenance(Answer):
    """The provenance of a release: who contributed, approved, measured, built and signed."""

    release: Release
    approvals: dict[str, list[str]] = Field(description="users who approved each patch, by `number.revision`")
    evaluations: list[Evaluation]
    statement: dict[str, Any] = Field(description="in-toto Statement v1 with SLSA provenance")
