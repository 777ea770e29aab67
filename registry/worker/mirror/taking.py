"""Taking over: a model of the primary as a whole, or a part of one that is here; one that cannot be is set aside.

part ── read ── fetched ── looked into ── applied, in one transaction
  └── refused, not there, or too large ──> a problem of this model; the others go on (services/mirroring/problems.py)
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from registry.db.tables import Model
from registry.errors import (
    BreadcrumbError,
    DigestMismatch,
    HistoryChanged,
    NotFound,
    StorageFull,
    Unauthenticated,
    Unavailable,
)
from registry.services.mirroring import files, imports, mirrors, problems
from registry.services.mirroring.carried import Part
from registry.services.people.actors import record
from registry.worker.mirror import reading
from registry.worker.mirror.verifying import Verifier
from registry.worker.runner import Stopped, fails_for_all, fails_in_bucket

log = structlog.get_logger()
Result = TypeVar("Result")
CONCERNS_ALL = (HistoryChanged, Unauthenticated, Stopped, OperationalError, InterfaceError)


@dataclass(frozen=True)
class Taken:
    """What was taken over: the key of the model, who may see it at the primary, and channels that are to be read again.

    A channel may lead to a release that comes later; it is read once more when a release was published.
    """

    model: uuid.UUID
    visibility: str
    late: list[Part]


class Taker(Verifier):
    """Takes over models of a primary."""

    listed: float

    def take_whole(self, name: str, key: uuid.UUID | None = None) -> None:
        """Take over a model, part by part, and show it once all of them are here, or set it aside.

        Args:
            name: The full name.
            key: Its key in the list of models, if it is from there.
        """
        self.attempt(name, lambda: self.take_parts(name, key))

    def take_again(self, name: str, part: Part) -> Taken | None:
        """Take over a part of a model that is here; return None if the model was set aside."""
        return self.attempt(name, lambda: self.take(name, part))

    def attempt(self, name: str, work: Callable[[], Result]) -> Result | None:
        """Do something for a model, and return what comes of it; None if the model was set aside instead.

        Raises:
            Exception: No other model would fare better.
        """
        try:
            return work()
        except Exception as why:
            if self.concerns_all(why):
                raise
            log.warning("mirror.set_aside", model=name, error=tell(why), exc_info=None if is_told(why) else why)
            with self.database.write() as session:
                mirrors.require(session)
                problems.set_aside(session, name, tell(why))
            if isinstance(why, NotFound):
                self.listed = float("-inf")  # look at the list of models soon: perhaps it is gone
            return None

    def concerns_all(self, why: Exception) -> bool:
        """Say whether any model would meet an error: the primary, the database or the disk does not work."""
        if isinstance(why, Unavailable):
            try:
                reading.head(self.primary, 0)
            except BreadcrumbError:
                return True
            return False
        broken = fails_for_all(why) and not fails_in_bucket(why, self.store) and not isinstance(why, StorageFull)
        return isinstance(why, CONCERNS_ALL) or broken

    def take_parts(self, name: str, key: uuid.UUID | None) -> None:
        """Take over all parts of a model, and show it; its base comes first, whatever the primary lists."""
        taken = self.take(name, Part("model"))
        models = {taken.model, key or taken.model}
        for part in reading.parts(self.primary, name):
            models |= {self.take(name, part).model} if part.kind != "model" else set()
        if len(models) > 1:
            raise DigestMismatch(f"{self.primary.url} gives parts of several models for {name}.")
        with self.database.write() as session:
            mirrors.require(session)
            row = session.get_one(Model, taken.model)
            imports.complete(session, self.store, row, taken.visibility)
            problems.settle(session, name)
            record(session, None, "model.mirrored", row.full_name, row, after={"primary": self.primary.url})
        log.info("mirror.model", model=name)

    def take(self, name: str, part: Part) -> Taken:
        """Take over a part of a model."""
        self.beating(None)()  # type: ignore[arg-type]
        document = reading.document(self.primary, name, part)
        if f"{document.space.name}/{document.model['name']}" != name:
            raise DigestMismatch(f"{self.primary.url} gives another model for {name}.")
        self.fetch(name, document)
        document = self.check_signatures(document)
        contents = self.look_into(document)
        with self.database.write() as session:
            mirrors.require(session)
            before = imports.count_published(session, document.model["id"])
            model = imports.apply(session, self.store, document, contents)
            late = imports.channels_of(session, model.id) if imports.count_published(session, model.id) > before else []
            return Taken(model.id, document.model["visibility"], late)

    def repair(self) -> None:
        """Fetch damaged files once more that the primary has sent before; whatever fails is tried again later."""
        with self.database.read() as session:
            damaged = files.damaged(session)
        for name, sha256, size in damaged:
            try:
                self.fetch_one(name, sha256, size)
                log.info("mirror.repaired", model=name, sha256=sha256)
            except BreadcrumbError as why:
                log.warning("mirror.not_repaired", model=name, sha256=sha256, error=tell(why))
                if self.concerns_all(why):
                    return


def is_told(why: Exception) -> bool:
    """Say whether an error has a sentence for people."""
    return isinstance(why, BreadcrumbError)


def tell(why: Exception) -> str:
    """Return what went wrong, in a sentence; a primary may have chosen its words."""
    return problems.one_line(str(why) if is_told(why) else f"{type(why).__name__}: {why}")
