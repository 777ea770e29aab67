"""Shapes for those who watch over the server: reports, workers, jobs of everybody, quotas; and of a report's sender."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.operations import Job
from registry.schemas.patches import Patch
from registry.schemas.wire import Answer, Text, Wire

ReportReason = Literal["malware", "licence", "personal_data", "misleading", "other"]
Words = Annotated[Text, StringConstraints(min_length=1, max_length=4000)]


class ReportRequest(Wire):
    """Say that a model, or a patch of it, should not be here."""

    number: int | None = Field(None, ge=1, le=2**31 - 1, description="of the patch; null for the model")
    reason: ReportReason
    message: Words


class ReportAnswer(Wire):
    """Close a report with what came of it."""

    answer: Words


class Report(Answer):
    """What somebody says should not be here; open until it is closed."""

    id: str
    model: str
    number: int | None = Field(description="of the patch; null for the model")
    reason: ReportReason
    message: str
    reporter: str
    created_at: datetime
    answer: str | None = Field(description="what came of it, once closed")
    closed_by: str | None
    closed_at: datetime | None


class ReportPage(Answer):
    """Reports, newest first; `next` is the `before` of the next page."""

    items: list[Report]
    next: str | None


class Worker(Answer):
    """A worker; one that is not alive has said nothing for a minute."""

    name: str
    device: str
    started_at: datetime
    seen_at: datetime
    alive: bool
    job: Job | None = Field(description="in its hands")


class AdminJob(Job):
    """A job, with who asked for it and which worker has or had it."""

    user: str
    worker: str | None


class AdminJobPage(Answer):
    """Jobs of all models, newest first; `next` is the `before` of the next page."""

    items: list[AdminJob]
    next: str | None


class QuarantinePage(Answer):
    """Patches of all models, the last that came into quarantine first; `next` is the `before` of the next page."""

    items: list[Patch]
    next: str | None


class QuotaRequest(Wire):
    """Give a namespace quotas of its own, or (null) the server's; what is left out stays."""

    bytes: int | None = Field(None, ge=0, le=2**63 - 1)
    uploads: int | None = Field(None, ge=0, le=2**31 - 1, description="open at a time")


class NamespaceUsage(Answer):
    """What a namespace may hold and what it holds, in bytes."""

    name: str
    kind: Literal["user", "organisation"]
    quota_bytes: int
    quota_uploads: int
    own_bytes: int | None = Field(description="the quota that it was given; null where it has the server's")
    own_uploads: int | None
    used_bytes: int
    reserved_bytes: int = Field(description="announced in uploads that nothing refers to yet")
    open_uploads: int


class NamespaceUsagePage(Answer):
    """Namespaces by name; `next` is the `after` of the next page."""

    items: list[NamespaceUsage]
    next: str | None


class Summary(Answer):
    """How many there are of everything; patches and jobs by state, blobs without those that are at a Hub."""

    users: int
    models: int
    patches: dict[str, int]
    blobs: int
    blob_bytes: int
    jobs: dict[str, int]
    open_reports: int
