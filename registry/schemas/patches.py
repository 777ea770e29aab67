"""Schemas of patches, checks, reviews, comments, and the inbox."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.files.beside import MOST_FILES
from registry.schemas.contents import File, FileRequest
from registry.schemas.evaluations import Evaluation
from registry.schemas.operations import Job
from registry.schemas.threads import Comment, Remark, Review
from registry.schemas.wire import Answer, Card, Hex256, License, Message, Text, WeightsDigest, Wire

CheckState = Literal["checking", "checked", "refused"]
PatchState = Literal[
    "draft", "proposed", "changes_requested", "accepted", "rejected", "withdrawn", "superseded", "yanked"
]

FILES = "uploaded files that belong to it beside the weights, like a config; releases may take them"


class PatchRequest(Wire):
    """Contribute an uploaded patch file to a model."""

    sha256: Hex256
    title: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    message: Message = ""
    task: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}$")] | None = None
    license: License | None = None
    files: list[FileRequest] = Field([], max_length=MOST_FILES, description=FILES)
    propose: bool = Field(False, description="propose it for review at once, instead of leaving it a draft")


class RevisionRequest(Wire):
    """Add a revision to a patch: other bytes, with their title and message."""

    sha256: Hex256
    title: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    message: Message = ""
    license: License | None = None
    files: list[FileRequest] = Field([], max_length=MOST_FILES, description=FILES)


class CardRequest(Wire):
    """Propose another card of a model: the text of its README.md, front matter included."""

    card: Card
    title: Annotated[Text, StringConstraints(min_length=1, max_length=200)] = "Another card"
    message: Message = ""
    accept: bool = Field(False, description="as a maintainer, change the card at once")


class CardDecision(Wire):
    """Make a proposed card that of the model."""

    message: Message = ""
    sha256: Hex256 | None = Field(None, description="of the text that you looked at, which must still be proposed")


class CardProposal(Answer):
    """A card that is or was proposed; its number is one of the model's patches."""

    model: str
    number: int
    state: PatchState
    reason: str | None = Field(description="why it was rejected or withdrawn")
    author: str
    title: str
    message: str
    sha256: Hex256 = Field(description="of its text")
    card: str | None = Field(None, description="its text; null in lists")
    diff: str | None = Field(
        None, description="a unified diff to it from the model's card, as that was when it was accepted; null in lists"
    )
    license: str | None = Field(None, description="what it names, if the model has another licence, which stays")
    created_at: datetime


class CardPage(Answer):
    """Proposed cards, newest first; `next` is the cursor of the page after this one."""

    items: list[CardProposal]
    next: int | None


class KeyChange(Answer):
    """A key in which a JSON file differs from the base's, with shortened values; null where it is missing."""

    key: str
    before: str | None
    after: str | None


class PatchFile(File):
    """A file that came with a patch beside its weights."""

    keys: list[KeyChange] | None = Field(description="for JSON that the base has, too, and once checked: what differs")
    more: int = Field(description="how many other keys differ")


class Push(Answer):
    """What tools of the Hub have sent for a patch, from which its revisions are made here."""

    number: int
    state: Literal["open", "diffing", "done", "failed"]
    author: str
    title: str
    message: str
    error: str | None = Field(description="why no revision could be made of it, or what it waits for")
    job: Job | None = Field(description="the diff, while it is active")
    created_at: datetime


class Affected(Answer):
    """The releases that hold a patch, and the channels that point at them."""

    releases: list[str]
    channels: list[str]


class Origin(Answer):
    """The run of a workflow that pushed a revision by trusted publishing, as the token that its service signed says."""

    kind: Literal["github", "gitlab", "oidc"]
    issuer: str
    claims: dict[str, str]
    url: str | None = Field(description="the page of the run, if the service has one")


class Patch(Answer):
    """A patch at one revision: the newest, unless another was asked for."""

    model: str
    number: int
    revision: int
    newest: int = Field(description="number of the newest revision")
    state: PatchState
    reason: str | None = Field(description="why it was rejected, withdrawn or yanked")
    superseded_by: int | None
    quarantined: str | None = Field(description="why it is quarantined, if it is")
    check: CheckState
    refusal: str | None = Field(description="one sentence, if it was refused")
    author: str
    title: str
    message: str
    task: str | None
    license: str | None
    base: WeightsDigest
    sha256: Hex256
    size: int
    nnz: int | None = Field(description="weights the patch changes; null until checked")
    density: float | None = Field(description="nnz over all weights of the base")
    drop_bottom: str | None
    drop_top: str | None
    granularity: str | None
    value_dtype: str | None
    norm: float | None = Field(None, description="L2 norm of its values; null until checked")
    rounding: float | None = Field(
        None, description="share of its values that rounding to 16 bits explains; null if that was not measured"
    )
    base_norm: float | None = Field(
        None, description="L2 norm of the base's weights in the tensors it touches; null if that was not measured"
    )
    files: list[PatchFile] | None = Field(
        None, description="files that came with it beside the weights; null in lists of patches"
    )
    origin: Origin | None = Field(None, description="what pushed it, if that was a workflow by trusted publishing")
    job: Job | None = None
    affected: Affected | None = Field(None, description="what a yank affects")
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


class PatchPage(Answer):
    """Patches, newest first; `next` is the cursor of the page after this one."""

    items: list[Patch]
    next: int | None


class Reason(Wire):
    """The reason, if there is one to give."""

    message: Message = ""


class ReasonNeeded(Wire):
    """The reason, which is required."""

    message: Annotated[Message, StringConstraints(min_length=1)]


class AcceptRequest(Wire):
    """Accept a patch; it may supersede older ones."""

    message: Message = ""
    revision: int | None = Field(None, ge=1, le=2**31 - 1, description="the revision that you looked at")
    supersedes: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field([], max_length=100)


class QuarantineRequest(Wire):
    """Quarantine a patch, or (null) end its quarantine."""

    reason: Annotated[Message, StringConstraints(min_length=1)] | None


class Check(Answer):
    """The result of one check of a revision."""

    name: str
    required: bool
    status: Literal["pass", "warn", "fail"]
    summary: str


class Hint(Answer):
    """Advice from numbers alone, which forbids nothing: a sentence with a remedy."""

    kind: Literal["norm", "cancelling", "alpha", "rounding"]
    sentence: str


class Discussion(Answer):
    """A patch with its revisions, checks, reviews, comments and evaluations."""

    patch: Patch
    revisions: list[Patch] = Field(description="the newest")
    checks: list[Check] = Field(description="of the newest revision")
    reviews: list[Review] = Field(description="the newest, oldest first")
    earlier_reviews: str | None = Field(description="cursor of the reviews before these, if there are any")
    comments: list[Comment] = Field(description="the newest, oldest first")
    earlier_comments: str | None = Field(description="cursor of the comments before these, if there are any")
    evaluations: list[Evaluation] = Field(description="of the newest revision, the newest")
    affected: Affected
    missing: list[str] = Field(description="what keeps it from being accepted, a sentence each")
    hints: list[Hint] = Field([], description="what its numbers say against it")
    remarks: list[Remark] = Field([], description="the newest 50 comments and reviews that refer to tensors")


class WaitingModel(Answer):
    """A model in which something waits for you, and how much."""

    model: str
    proposed: int = Field(description="patches and cards of others that you may review, accept or reject")
    mine: int = Field(description="your own, not decided yet")
    candidates: int = Field(description="releases to publish")


class WaitingModelPage(Answer):
    """A page of the models in which something waits for you, by name."""

    items: list[WaitingModel]
    next: str | None


class Inbox(Answer):
    """A page of what waits for you in a model; releases and recipes are on the first page."""

    review: list[Patch] = Field(description="proposed by others, without a verdict of yours on the newest revision")
    accept: list[Patch] = Field(description="approved, for you to accept or reject")
    mine: list[Patch] = Field(description="your own, not decided yet")
    cards: list[CardProposal] = Field(
        [], description="cards that are proposed: those of others to a reviewer, and yours"
    )
    candidates: list[str] = Field(description="releases to publish")
    alarms: list[str] = Field(description="recipes that were composed to different results")
    next: int | None = Field(None, description="the `after` of the next page of patches")
