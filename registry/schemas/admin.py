"""Schemas of administration: abuse reports, workers, all jobs, quotas, the policy, server statistics."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.contents import REPOSITORY
from registry.schemas.operations import Job
from registry.schemas.patches import Patch
from registry.schemas.wire import Answer, Decimal, License, Text, Wire

ReportReason = Literal["malware", "licence", "personal_data", "misleading", "other"]
Words = Annotated[Text, StringConstraints(min_length=1, max_length=4000)]


class ReportRequest(Wire):
    """Report that a model, or a patch of it, should not be here."""

    number: int | None = Field(None, ge=1, le=2**31 - 1, description="the patch's number; null for the model")
    reason: ReportReason
    message: Words


class ReportAnswer(Wire):
    """Close a report with an answer."""

    answer: Words


class Report(Answer):
    """A report that a model or patch should not be here; open until an admin closes it."""

    id: str
    model: str
    number: int | None = Field(description="the patch's number; null for the model")
    reason: ReportReason
    message: str
    reporter: str
    created_at: datetime
    answer: str | None = Field(description="the answer of the admin who closed it")
    closed_by: str | None
    closed_at: datetime | None


class ReportPage(Answer):
    """Reports, newest first; `next` is the `before` of the next page."""

    items: list[Report]
    next: str | None


class Worker(Answer):
    """A worker; one that was not seen for a minute is not alive."""

    name: str
    device: str
    started_at: datetime
    seen_at: datetime
    alive: bool
    kinds: list[str] | None = Field(None, description="the kinds of jobs that it takes; null for all")
    most_bytes: int | None = Field(None, description="most bytes of files of a job of it; null for any number")
    job: Job | None = Field(description="the job that it runs")


class AdminJob(Job):
    """A job, with the user who asked for it and the worker that has or had it."""

    user: str
    worker: str | None


class AdminJobPage(Answer):
    """Jobs of all models, newest first; `next` is the `before` of the next page."""

    items: list[AdminJob]
    next: str | None


class QuarantinePage(Answer):
    """Quarantined patches of all models, the latest first; `next` is the `before` of the next page."""

    items: list[Patch]
    next: str | None


class QuotaRequest(Wire):
    """Give a namespace quotas of its own, or (null) the server's; a field that is left out stays."""

    bytes: int | None = Field(None, ge=0, le=2**63 - 1)
    uploads: int | None = Field(None, ge=0, le=2**31 - 1, description="open uploads at a time")


class NamespaceUsage(Answer):
    """The quotas of a namespace and how much of them it uses, in bytes."""

    name: str
    kind: Literal["user", "organisation"]
    quota_bytes: int
    quota_uploads: int
    own_bytes: int | None = Field(description="its own quota; null if it has the server's")
    own_uploads: int | None
    used_bytes: int
    reserved_bytes: int = Field(description="bytes of announced uploads that are not used yet")
    open_uploads: int


class NamespaceUsagePage(Answer):
    """Namespaces by name; `next` is the `after` of the next page."""

    items: list[NamespaceUsage]
    next: str | None


HubPattern = Annotated[
    str, StringConstraints(pattern=rf"^{REPOSITORY}/({REPOSITORY}|\*)$", max_length=193)
]  # a model of the Hub, or all of somebody's there
Registration = Literal["closed", "invitation", "open"]
Share = Annotated[Decimal, StringConstraints(pattern=r"^[0-9]")]


class PolicyRequest(Wire):
    """Change what is asked of everybody from now on; a field that is left out stays, and null asks for nothing."""

    registration: Registration | None = Field(None, description="how people join, if stricter than the setting")
    licenses: list[License] | None = Field(
        None, min_length=1, max_length=200, description="of which each base and each patch has to state one"
    )
    min_drop_bottom: Share | None = Field(None, description="least share of the smallest changes a patch leaves out")
    min_drop_top: Share | None = Field(None, description="least share of the largest changes a patch leaves out")
    hub_models: list[HubPattern] | None = Field(
        None, max_length=1000, description="`org/name` or `org/*` at the Hub that may be a base; none if it is empty"
    )


class Policy(Answer):
    """What this registry asks of everybody; null asks for nothing."""

    registration: Registration = Field(description="how people join, by the operator's setting and the policy")
    own_registration: Registration | None = Field(description="the policy's; null if the setting decides alone")
    licenses: list[str] | None
    min_drop_bottom: str | None
    min_drop_top: str | None
    hub_models: list[str] | None


class Setting(Answer):
    """A limit that the operator sets."""

    name: str = Field(description="the environment variable")
    group: str
    value: str
    meaning: str


class Summary(Answer):
    """Server statistics: patches and jobs by state, blobs without those that stay at a Hub."""

    users: int
    models: int
    patches: dict[str, int]
    blobs: int
    blob_bytes: int
    damaged_blobs: int = Field(description="not served until they are repaired; `crumb-server check` lists them")
    jobs: dict[str, int]
    unclaimable_jobs: dict[str, int] = Field({}, description="jobs that wait and that no living worker can do, by kind")
    open_reports: int
