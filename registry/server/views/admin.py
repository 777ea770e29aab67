"""Views for admins: reports, workers, jobs, quarantine, quotas, the policy and limits, counts."""

from pydantic import ByteSize
from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Job, Namespace, Policy, Report
from registry.files.sizes import exact
from registry.server.views import jobs as job_views
from registry.server.views import patches as patch_views
from registry.services.blobs import quotas
from registry.services.blobs.quotas import Usage
from registry.services.blobs.uploads import UploadLimits
from registry.services.curation import reviews
from registry.services.operating import reports
from registry.services.operating.summaries import Summary
from registry.services.people import namespaces, policies
from registry.services.queue import jobs, workers
from registry.services.queue.workers import Seen
from registry.settings import Settings

LIMITS = {  # what admins may want to know and only the operator can change
    "joining": ("registration", "oidc_issuer", "oidc_join", "oidc_hours", "rate_strangers", "rate_asking"),
    "quotas": ("quota_bytes", "quota_uploads", "upload_bytes", "text_bytes", "json_bytes", "upload_hours"),
    "rates": ("rate_address", "rate_token", "downloads_at_once", "downloads_each", "user_jobs", "model_jobs"),
    "bases from the Hub": ("hub_endpoint", "hub_hosts", "cache_bytes"),
    "disk": ("store", "composed_bytes", "reserve_bytes", "scrub_days"),
}


def report(row: Report) -> schemas.Report:
    """Return the shape of a report."""
    same = ("number", "reason", "message", "created_at", "answer", "closed_at")
    return schemas.Report.model_validate(
        {
            "id": str(row.id),
            "model": row.model.full_name,
            "reporter": row.reporter.name,
            "closed_by": row.closed_by.name if row.closed_by else None,
            **{name: getattr(row, name) for name in same},
        }
    )


def worker(seen: Seen) -> schemas.Worker:
    """Return the shape of a worker, with its job."""
    row = seen.worker
    return schemas.Worker(
        name=row.name,
        device=row.device,
        started_at=row.started_at,
        seen_at=row.seen_at,
        alive=seen.alive,
        kinds=row.kinds,
        most_bytes=row.most_bytes,
        job=job_views.job(seen.job) if seen.job else None,
    )


def job(row: Job, user: str) -> schemas.AdminJob:
    """Return the shape of a job, with who asked for it and its worker."""
    return schemas.AdminJob(user=user, worker=row.worker, **job_views.job(row).model_dump())


def namespace(row: Namespace, usage: Usage) -> schemas.NamespaceUsage:
    """Return the quota of a namespace, and its usage."""
    return schemas.NamespaceUsage(
        name=row.name,
        kind="user" if row.kind == "user" else "organisation",
        own_bytes=row.quota_bytes,
        own_uploads=row.quota_uploads,
        **vars(usage),
    )


def summary(counts: Summary) -> schemas.Summary:
    """Return the shape of counts of everything on the server."""
    return schemas.Summary.model_validate(counts)


def worker_list(session: Session) -> list[schemas.Worker]:
    """Return the workers of the last day, with their jobs."""
    return [worker(seen) for seen in workers.listing(session)]


def job_page(
    session: Session, *, state: str | None, kind: str | None, before: str | None, limit: int
) -> schemas.AdminJobPage:
    """Return a page of the jobs of all models, newest first."""
    rows, cursor = jobs.listing(session, state=state, kind=kind, before=before, limit=limit)
    return schemas.AdminJobPage(items=[job(*row) for row in rows], next=cursor)


def quarantine_page(session: Session, before: str | None, limit: int) -> schemas.QuarantinePage:
    """Return a page of the patches in quarantine, of all models, the last quarantined first."""
    rows, cursor = reviews.quarantined(session, before, limit)
    items = [patch_views.patch(row.patch.model.full_name, row) for row in rows]
    return schemas.QuarantinePage(items=items, next=cursor)


def namespace_page(
    session: Session, limits: UploadLimits, search: str | None, after: str | None, limit: int
) -> schemas.NamespaceUsagePage:
    """Return a page of the quotas of namespaces and their usage, by name."""
    spaces, cursor = namespaces.listing(session, search, after, limit)
    usages = quotas.usages(session, spaces, limits.quota_bytes, limits.quota_uploads)
    items = [namespace(*row) for row in zip(spaces, usages, strict=True)]
    return schemas.NamespaceUsagePage(items=items, next=cursor)


def report_page(session: Session, *, is_open: bool, before: str | None, limit: int) -> schemas.ReportPage:
    """Return a page of the open reports, or of the closed ones, newest first."""
    rows, cursor = reports.listing(session, is_open=is_open, before=before, limit=limit)
    return schemas.ReportPage(items=[report(row) for row in rows], next=cursor)


def policy(row: Policy, setting: str) -> schemas.Policy:
    """Return the shape of the policy; `setting` is how people join by the operator's setting."""
    same = ("licenses", "min_drop_bottom", "min_drop_top", "hub_models")
    return schemas.Policy(
        registration=policies.stricter(row, setting),
        own_registration=row.registration,
        **{name: getattr(row, name) for name in same},
    )


def policy_now(session: Session, setting: str) -> schemas.Policy:
    """Return the policy that holds."""
    return policy(policies.read(session), setting)


def settings(known: Settings) -> list[schemas.Setting]:
    """Return the limits that the operator sets."""
    return [
        schemas.Setting(
            name=f"REGISTRY_{name.upper()}",
            group=group,
            value=limit(getattr(known, name)),
            meaning=Settings.model_fields[name].description or "",
        )
        for group, names in LIMITS.items()
        for name in names
    ]


def limit(value: object) -> str:
    """Return the value of a setting for people."""
    if isinstance(value, ByteSize):
        return exact(value)
    return f"{value:g}" if isinstance(value, float) else str(value or ("unset" if value is None else "none"))
