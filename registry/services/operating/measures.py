"""Measures: what operators watch over time, as named numbers. Each is a look at the database, in few queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, distinct, func, select
from sqlalchemy.orm import Session

from registry.db.audit import newest_serial
from registry.db.tables import (
    JOB_KINDS,
    STORED,
    Blob,
    Job,
    Mirror,
    MirrorProblem,
    Namespace,
    Webhook,
    WebhookDelivery,
    now,
)
from registry.services.blobs import bucket_copies, damage
from registry.services.queue import abilities, jobs, workers

Values = Mapping[tuple[str, ...], float]
NEAR_QUOTA = 0.9  # of a namespace's bytes, from which it counts as nearly full


@dataclass(frozen=True)
class Measure:
    """A number, or one for each value of some labels. Sizes are bytes and times are seconds.

    Attributes:
        name: Its name for Prometheus.
        meaning: What it counts.
        values: The number by the values of the labels.
        labels: The names of the labels.
    """

    name: str
    meaning: str
    values: Values
    labels: tuple[str, ...] = ()


def single(name: str, meaning: str, value: float) -> Measure:
    """Return a measure without labels."""
    return Measure(name, meaning, {(): value})


def seconds_since(time: datetime | None) -> float:
    """Return the seconds since a time; 0 for one that is not, or that is still to come."""
    return max(0.0, (now() - time).total_seconds()) if time else 0.0


def read(session: Session, *, quota_bytes: int, bucket_least: int | None) -> list[Measure]:
    """Return all measures.

    Args:
        session: A transaction.
        quota_bytes: The quota of namespaces that have none of their own.
        bucket_least: The smallest blob that is copied into a bucket; None without a bucket that has copies.
    """
    parts = [of_jobs(session), of_workers(session), of_blobs(session), of_quotas(session, quota_bytes)]
    parts += [
        of_mirror(session),
        of_webhooks(session),
        of_bucket(session, bucket_least) if bucket_least is not None else [],
    ]
    return [measure for part in parts for measure in part]


def of_jobs(session: Session) -> list[Measure]:
    """Return how many jobs there are, and how long those that wait have done so."""
    counts: Values = {(kind, state): float(count) for kind, state, count in jobs.count_by_state(session)}
    queued = Job.kind.in_(JOB_KINDS), Job.state == "queued"
    oldest = select(Job.kind, func.min(Job.created_at)).where(*queued).group_by(Job.kind)
    ages: Values = {(kind,): seconds_since(time) for kind, time in session.execute(oldest)}
    unclaimable: Values = {(kind,): count for kind, count in abilities.count_unclaimable(session).items()}
    return [
        Measure("registry_jobs", "Jobs by kind and state", counts, ("kind", "state")),
        Measure("registry_queue_age_seconds", "Age of the oldest queued job of a kind", ages, ("kind",)),
        single("registry_hung_jobs", "Jobs that hung: tried again, or failed", jobs.count_hung(session)),
        Measure("registry_unclaimable_jobs", "Jobs that wait and that no living worker can do", unclaimable, ("kind",)),
        single(
            "registry_waiting_rebuilds",
            "Rebuilds that wait for a builder without a share in the first build",
            jobs.count_waiting_rebuilds(session),
        ),
    ]


def of_workers(session: Session) -> list[Measure]:
    """Return how many workers of the last day are idle, busy, or were not seen for a minute."""
    states: Values = {(state,): count for state, count in workers.count_by_state(session).items()}
    return [Measure("registry_workers", "Workers of the last day by state", states, ("state",))]


def of_blobs(session: Session) -> list[Measure]:
    """Return how many blobs there are, their bytes, and when the one was read that waits longest for a scrub."""
    rows = session.execute(select(Blob.state, func.count(), func.sum(Blob.size)).group_by(Blob.state)).all()
    last = session.scalar(select(func.min(Blob.checked_at)).where(Blob.state.in_(STORED), Blob.damaged_at.is_(None)))
    return [
        Measure("registry_blobs", "Blobs by state", {(state,): count for state, count, _ in rows}, ("state",)),
        Measure(
            "registry_blob_bytes",
            "Bytes of blobs by state; live and doomed ones are stored here",
            {(state,): float(size) for state, _, size in rows},
            ("state",),
        ),
        single("registry_damaged_blobs", "Blobs that are damaged", damage.count(session)),
        single(
            "registry_scrub_age_seconds", "Time since the blob was read that was not for longest", seconds_since(last)
        ),
    ]


def of_bucket(session: Session, least: int) -> list[Measure]:
    """Return what is still to be copied into the bucket."""
    waiting = select(func.count(), func.coalesce(func.sum(Blob.size), 0), func.min(Blob.created_at))
    count, size, oldest = session.execute(waiting.where(*bucket_copies.lacking(least))).one()
    return [
        single("registry_bucket_waiting_blobs", "Blobs that are to be copied into the bucket", count),
        single("registry_bucket_waiting_bytes", "Bytes of those blobs", float(size)),
        single("registry_bucket_waiting_seconds", "Age of the oldest of those blobs", seconds_since(oldest)),
    ]


def of_mirror(session: Session) -> list[Measure]:
    """Return how far this registry is behind the one that it follows; nothing if it follows none."""
    mirror = session.get(Mirror, 1)
    if mirror is None or mirror.promoted_at is not None:
        return []
    behind = max(0, mirror.head - (mirror.cursor or 0))
    current = seconds_since(mirror.current_at or mirror.created_at)
    set_aside = session.scalars(select(func.count()).select_from(MirrorProblem)).one()
    return [
        single("registry_mirror_events_behind", "Events of the primary's log that are not taken over", behind),
        single("registry_mirror_current_seconds", "Time since the log of the primary was here up to its end", current),
        single("registry_mirror_failing", "Whether the last round of the mirror failed", float(bool(mirror.problem))),
        single("registry_mirror_stopped", "Whether the mirror waits for a person", float(mirror.stopped)),
        single("registry_mirror_set_aside", "Models of the primary that could not be taken over", set_aside),
    ]


def of_quotas(session: Session, quota_bytes: int) -> list[Measure]:
    """Return what namespaces use, and how many have nearly used their quota."""
    near = case((Namespace.used_bytes >= NEAR_QUOTA * func.coalesce(Namespace.quota_bytes, quota_bytes), 1), else_=0)
    sums = select(func.coalesce(func.sum(Namespace.used_bytes), 0), func.coalesce(func.sum(near), 0))
    used, full = session.execute(sums).one()
    return [
        single("registry_quota_used_bytes", "Bytes that count against quotas, of all namespaces", float(used)),
        single("registry_quota_nearly_full", "Namespaces that have used nine tenths of their quota", float(full)),
    ]


def of_webhooks(session: Session) -> list[Measure]:
    """Return how many webhooks and deliveries there are, how many fail, and how far their couriers are behind."""
    hooks, states = {True: 0, False: 0}, dict.fromkeys(("pending", "delivered", "failed"), 0)
    for active, count in session.execute(select(Webhook.active, func.count()).group_by(Webhook.active)):
        hooks[active] = count
    for state, count in session.execute(select(WebhookDelivery.state, func.count()).group_by(WebhookDelivery.state)):
        states[state] = count
    # Not a join, for which SQLite would go through all pending deliveries once for each webhook.
    active_ones = WebhookDelivery.webhook_id.in_(select(Webhook.id).where(Webhook.active))
    of_active = select(
        func.min(WebhookDelivery.due_at),
        func.count(distinct(case((WebhookDelivery.attempts > 0, WebhookDelivery.webhook_id)))),
    ).where(WebhookDelivery.state == "pending", active_ones)
    due, failing = session.execute(of_active).one()
    cursor = session.scalar(select(func.min(Webhook.cursor)).where(Webhook.active))
    behind = 0 if cursor is None else max(0, newest_serial(session) - cursor)
    return [
        Measure(
            "registry_webhooks",
            "Webhooks by state",
            {("on",): hooks[True], ("off",): hooks[False]},
            ("state",),
        ),
        Measure(
            "registry_webhook_deliveries",
            "Deliveries of the last thirty days by state",
            {(state,): count for state, count in states.items()},
            ("state",),
        ),
        single(
            "registry_webhooks_failing", "Webhooks with a delivery that was tried and is to be tried again", failing
        ),
        single(
            "registry_webhook_late_seconds", "Time since the delivery was due that waits longest", seconds_since(due)
        ),
        single("registry_webhook_events_behind", "Events of the log that a webhook was not compared with yet", behind),
    ]
