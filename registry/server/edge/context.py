"""The parts of an app that its routes use, and where a request finds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request
from pydantic import BaseModel
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import Job
from registry.errors import NotCompared
from registry.server.composers import Composers
from registry.server.edge.counts import Kept, Readings
from registry.server.edge.downloads import Gate
from registry.server.edge.limits import Rate
from registry.server.edge.providers import Providers
from registry.server.threads import Threads
from registry.services.blobs.uploads import UploadLimits
from registry.services.composing import conflicts
from registry.services.operating.measures import Measure
from registry.services.operating.summaries import Summary
from registry.services.people import budgets
from registry.services.people.actors import Actor
from registry.services.queue.limits import JobLimits, require_few
from registry.settings import Settings
from registry.storage.bucket import Bucket
from registry.storage.store import Store


@dataclass(frozen=True)
class Context:
    """The parts of an app."""

    settings: Settings
    database: Database
    store: Store
    upload_limits: UploadLimits
    hashing: CapacityLimiter
    parsing: CapacityLimiter
    keeping: CapacityLimiter
    token_rate: Rate
    gate: Gate
    bucket: Bucket | None
    summary: Kept[Session, Summary]
    measures: Kept[Session, list[Measure]]
    job_limits: JobLimits
    readers: Threads
    composers: Composers
    composing: Gate
    readings: Readings
    stranger_rate: Rate
    asking_rate: Rate
    providers: Providers

    @contextmanager
    def writing(self, actor: Actor, body: BaseModel, entries: int = 1) -> Iterator[Session]:
        """Open a writing transaction that first counts a body of so many entries for what its sender may write a day.

        Raises:
            TooMany: The sender has written too much today.
            NotCompared: Patches have to be compared first; the error has the job that does.
        """
        size = len(body.model_dump_json(exclude_unset=True).encode())
        try:
            with self.database.write() as session:
                budgets.spend(session, actor, size, self.settings.text_bytes, entries)
                yield session
        except NotCompared as why:
            with self.database.write() as session:
                comparing = conflicts.ask_for_missing(session, actor, why, self.job_limits)
            raise comparing from why

    def admit(self, session: Session, job: Job | None) -> None:
        """Refuse a job that a transaction has added if its user or model has too many.

        Raises:
            TooMany: There are too many jobs.
        """
        if job is not None:
            require_few(session, job, self.job_limits)


def get_context(request: Request) -> Context:
    """Return the parts of the app that a request came to."""
    ctx: Context = request.app.state.context
    return ctx


def get_public_url(request: Request) -> str:
    """Return the address at which the caller reaches this registry, without a slash at the end."""
    return (get_context(request).settings.public_url or str(request.base_url)).rstrip("/")


async def depend_on_context(request: Request) -> Context:
    """Return the parts of the app; async, since FastAPI sends any other dependency to a thread and back."""
    return get_context(request)


async def depend_on_public_url(request: Request) -> str:
    """Return the registry's address; async for the same reason."""
    return get_public_url(request)


ContextDep = Annotated[Context, Depends(depend_on_context)]
PublicUrl = Annotated[str, Depends(depend_on_public_url)]
