"""Shapes of recipes, compositions, releases and channels."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from registry.schemas.contents import File
from registry.schemas.operations import Job
from registry.schemas.patches import Evaluation
from registry.schemas.wire import Answer, Decimal, Hex256, Message, WeightsDigest, Wire

ReleaseState = Literal["draft", "building", "candidate", "published", "yanked"]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(-[0-9A-Za-z.-]{1,40})?$")]
Ref = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]


class RecipeItemRequest(Wire):
    """One patch of a recipe."""

    number: int = Field(ge=1, le=2**31 - 1)
    weight: Decimal = "1"
    revision: int | None = Field(None, ge=1, le=2**31 - 1, description="the newest when null")


class RecipeRequest(Wire):
    """Compose base + alpha * sum(weight * patch) over any subset of checked patches."""

    alpha: Decimal = "0.3"
    patches: list[RecipeItemRequest] = Field(max_length=1000)
    allow_yanked: bool = False


class RecipeItem(Answer):
    """One patch of a recipe, by digest; `number` and `revision` are the patch's in this model, 0 when not listed."""

    sha256: Hex256
    weight: str
    number: int
    revision: int
    title: str
    author: str | None
    license: str | None
    state: str | None


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


class Snapshot(Answer):
    """A model that can be pulled: the base, a composed recipe, or a release."""

    model: str
    ref: str = Field(description="'base', the whole recipe digest, or the version of a release")
    release: str | None
    channel: str | None
    fixed: bool = Field(description="whether the files of this ref never change")
    commit: str = Field(description="the Hub's name for these files, 40 hex digits, for ever")
    warnings: list[str] = Field(description="for whoever pulls it")
    weights_digest: WeightsDigest
    recipe: Recipe | None
    files: list[File]


class BuildRequest(Wire):
    """Report that you composed a recipe yourself, and what came out."""

    recipe: Hex256
    weights_digest: WeightsDigest
    device: Annotated[str, StringConstraints(pattern=r"^[a-z0-9:._ -]{1,64}$")] = "cpu"


class Build(Answer):
    """Who composed a recipe, and what came out."""

    builder: str
    weights_digest: WeightsDigest
    device: str
    created_at: datetime


class ReleaseRequest(Wire):
    """Cut a release: these patches, or those of another revision with some more and without some."""

    version: Version
    patches: list[RecipeItemRequest] = Field([], max_length=1000)
    from_ref: Ref | None = Field(None, description="start from the recipe of this revision")
    add: list[RecipeItemRequest] = Field([], max_length=1000, description="also these, or with these weights")
    without: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field([], max_length=1000)
    alpha: Decimal | None = Field(None, description="0.3, or that of from_ref, when null")
    allow_yanked: bool = False


class ReleaseUpdate(Wire):
    """Edit the words of a release before it is published; what is null stays as it is."""

    changelog: Message | None = None
    card: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=2**19)] | None = None


class SignatureRequest(Wire):
    """A signature over the manifest: a Sigstore bundle as OpenSSF model-signing writes it."""

    signature: Annotated[str, StringConstraints(max_length=2**19)]


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
    manifest_digest: Hex256 | None
    signed: bool
    builds: list[Build]
    channels: list[str]
    missing: list[str] = Field(description="what keeps it from being published, a sentence each")
    warnings: list[str]
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
    """Protect a channel; what is null stays as it is."""

    role: Literal["maintainer", "owner"] | None = Field(None, description="least role of who may move it")
    approvals: int | None = Field(None, ge=1, le=10, description="people who must ask for the same move")
    allow_yanked: bool | None = Field(None, description="whether it may point at releases that hold yanked patches")


class Channel(Answer):
    """A name that points at a release."""

    name: str
    release: str | None
    role: str
    approvals: int
    allow_yanked: bool
    asked: dict[str, list[str]] = Field(description="who has asked to move it, by version, while more must ask")
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
    """A patch whose scale alpha * weight is another, as exact decimals."""

    number: int
    title: str
    before: str
    after: str


class ReleaseDiff(Answer):
    """What changed between two revisions."""

    before: str
    after: str
    bump: str = Field(description="the least step of the version: major, minor, patch or none")
    added: list[RecipeItem]
    removed: list[RecipeItem]
    changed: list[RecipeChange]


class Provenance(Answer):
    """Where a release comes from: who contributed, approved, built and signed what."""

    release: Release
    approvals: dict[str, list[str]] = Field(description="who approved, by `number.revision`")
    evaluations: list[Evaluation]
    statement: dict[str, Any] = Field(description="in-toto Statement v1 with SLSA provenance")
