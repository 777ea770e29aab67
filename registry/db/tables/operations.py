"""Tables of operations: jobs, their parts, workers, abuse reports, audit log, webhooks, policy, id of the registry."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of
from registry.db.tables.people import User

if TYPE_CHECKING:
    from registry.db.tables.contents import Model

ACTIVE_JOBS = ("queued", "running")  # states of jobs that are not over
JOB_KINDS = ("import", "check", "diff", "compose", "rebuild", "conflicts")


class Job(Table):
    """Work for a worker.

    `attempt` counts claims and fences off a worker that lost its lease; `deaths` counts the leases that ran out.
    `shared` says that another user has asked for the same since, so that one user alone can no longer cancel it.
    `not_worker` is the one worker that may not claim it: the worker that composed a recipe does not rebuild it.
    `rank` and `turn` are its place in the queue (services/queue/jobs.py); `passed` counts how often a worker preferred
    another one, whose base it had. `base_digest` is its base, and `bytes` are those of the files that it works on, at
    most; both are None where that is not known.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("kind", *JOB_KINDS),
        one_of("state", "queued", "running", "done", "failed", "cancelled"),
        Index("ix_jobs_state_created_at", "state", "created_at"),
        Index("ix_jobs_state_rank_turn_created_at", "state", "rank", "turn", "created_at"),
        Index("ix_jobs_user_id_state", "user_id", "state"),
        Index("ix_jobs_model_state", "model", "state"),
        Index("ix_jobs_created_at", "created_at"),
        Index("ix_jobs_kind_state", "kind", "state"),
        Index("ix_jobs_kind_created_at", "kind", "created_at"),
        Index("ix_jobs_kind_state_rank_turn_created_at", "kind", "state", "rank", "turn", "created_at"),
        Index("ix_jobs_key", "key"),
        Index(  # it says of a queued job who may do it, without a look at its row
            "ix_jobs_queued",
            *("state", "rank", "turn", "created_at", "kind", "bytes", "not_worker"),
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "uq_jobs_active_key",
            "key",
            unique=True,
            sqlite_where=text("state IN ('queued', 'running')"),
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
    )

    id: Mapped[uuid.UUID] = key()
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16), default="queued")
    model: Mapped[str] = mapped_column(String(193))
    subject: Mapped[str] = mapped_column(String(80))
    payload: Mapped[dict[str, Any]]
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"))
    rank: Mapped[int] = mapped_column(default=0)
    turn: Mapped[int] = mapped_column(BigInteger, default=0)
    progress: Mapped[float] = mapped_column(default=0.0)
    attempt: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    shared: Mapped[bool] = mapped_column(default=False)
    worker: Mapped[str | None] = mapped_column(String(200))
    not_worker: Mapped[str | None] = mapped_column(String(200))
    base_digest: Mapped[str | None] = mapped_column(String(71))
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    passed: Mapped[int] = mapped_column(default=0, server_default="0")
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class JobPart(Table):
    """One result of a part of a job: a weight file of a composition that is under way.

    All results of a part must be the same; two that differ are an alarm. A part that is stored has a `blob_sha256`; of
    others only the digests are known. `tensors` are the sha256 of the file's tensors, `negative` counts variances of
    batch norm that became negative, both by tensor. Rows live as long as their job is not over.
    """

    __tablename__ = "job_parts"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    blob_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    tensors: Mapped[dict[str, Any]]
    negative: Mapped[dict[str, Any]] = mapped_column(default=dict)
    builder: Mapped[str] = mapped_column(String(200))
    device: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Worker(Table):
    """A worker, by the name that its jobs and builds have, and when it was last seen.

    `kinds` are of the jobs that it takes, and `most_bytes` of the files of one; None for all, and for any number.
    """

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    device: Mapped[str] = mapped_column(String(64))
    kinds: Mapped[list[str] | None]
    most_bytes: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Report(Table):
    """An abuse report: a model, or a patch of it (`number`), should not be here; an admin closes it."""

    __tablename__ = "reports"
    __table_args__ = (
        one_of("reason", "malware", "licence", "personal_data", "misleading", "other"),
        Index("ix_reports_closed_at_created_at", "closed_at", "created_at"),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    number: Mapped[int | None]
    reporter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    reason: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
    closed_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    closed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    reporter: Mapped[User] = relationship(lazy="raise", foreign_keys=[reporter_id])
    closed_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[closed_by_id])
    model: Mapped["Model"] = relationship(lazy="raise")


class AuditEvent(Table):
    """Who did what to what, written in the transaction that did it, in commit order, each hashed over the one before.

    No foreign keys: the log outlives its subjects. db/audit.py defines the hash.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_model_id_serial", "model_id", "serial"),
        Index("ix_audit_events_model_id_user_name_serial", "model_id", "user_name", "serial"),
        Index("ix_audit_events_model_id_action_serial", "model_id", "action", "serial"),
        Index("ix_audit_events_user_name_serial", "user_name", "serial"),
        Index("ix_audit_events_action_serial", "action", "serial"),
    )

    serial: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    user_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    user_name: Mapped[str | None] = mapped_column(String(96))
    token_prefix: Mapped[str | None] = mapped_column(String(16))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(300), index=True)
    model_id: Mapped[uuid.UUID | None]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    request_id: Mapped[str | None] = mapped_column(String(64))
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHead(Table):
    """The one row that a transaction that appends to the log locks, just before its commit."""

    __tablename__ = "audit_heads"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    serial: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(64))


class RegistryId(Table):
    """The one row that says which registry this is, as the data folder and the bucket do, and where its blobs are."""

    __tablename__ = "registry_ids"
    __table_args__ = (one_of("storage", "disk", "bucket"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    registry_id: Mapped[uuid.UUID]
    storage: Mapped[str] = mapped_column(String(16), default="disk", server_default="disk")
    created_at: Mapped[datetime] = mapped_column(default=now)


class Policy(Table):
    """The one row with what admins ask of everybody; a column that is null asks for nothing.

    `registration` is how people join, if stricter than the setting. Bases and patches have one of `licenses`, and
    patches leave out at least the shares `min_drop_bottom` and `min_drop_top`. `hub_models`, `org/name` or `org/*`, may
    be bases.
    """

    __tablename__ = "policies"
    __table_args__ = (one_of("registration", "closed", "invitation", "open"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    registration: Mapped[str | None] = mapped_column(String(16))
    licenses: Mapped[list[str] | None]
    min_drop_bottom: Mapped[str | None] = mapped_column(String(42))
    min_drop_top: Mapped[str | None] = mapped_column(String(42))
    hub_models: Mapped[list[str] | None]
    changed_at: Mapped[datetime] = mapped_column(default=now)


class Webhook(Table):
    """An address that gets a model's events. Its secret signs, so it is stored in clear; `cursor` is the last event."""

    __tablename__ = "webhooks"

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    creator_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    url: Mapped[str] = mapped_column(String(2000))
    secret: Mapped[str] = mapped_column(String(64))
    events: Mapped[list[str]]
    active: Mapped[bool] = mapped_column(default=True)
    cursor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class WebhookDelivery(Table):
    """One event on its way to one webhook; `replay` is 0 for the first delivery, then counts repeats."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_serial", "replay"),
        one_of("state", "pending", "delivered", "failed"),
        Index("ix_webhook_deliveries_state_due_at", "state", "due_at"),
    )

    id: Mapped[uuid.UUID] = key()
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_serial: Mapped[int] = mapped_column(ForeignKey("audit_events.serial", ondelete="RESTRICT"), index=True)
    replay: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(default=now)
    status: Mapped[int | None]
    answer: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    delivered_at: Mapped[datetime | None]

    webhook: Mapped[Webhook] = relationship(lazy="raise")
    event: Mapped[AuditEvent] = relationship(lazy="raise")
