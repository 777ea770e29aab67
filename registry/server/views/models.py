"""Views of models: as a list, one by one, their members, and how a model came about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Job, Model
from registry.schemas.contents import ModelOrder, ModelState
from registry.server.views import jobs as job_views
from registry.server.views import people as people_views
from registry.server.views import releases as release_views
from registry.services.catalog import architecture, models, tags
from registry.services.catalog.search import Filters as Filters
from registry.services.composing import snapshots
from registry.services.hub import downloads, listings
from registry.services.people import access
from registry.services.people.actors import Actor
from registry.services.people.rules import Role
from registry.services.releasing import lineage
from registry.services.releasing.lineage import Contributor, Lineage
from registry.storage.store import Store

ORDERS = {"downloads": "downloads_30d", "created": "created_at", "modified": "modified_at"}


def model(
    row: Model,
    job_row: Job | None = None,
    *,
    card: bool = True,
    role: Role | None = None,
    known: Sequence[str] | None = None,
) -> schemas.Model:
    """Return the shape of a model, with the caller's role on it, and its tags if they are `known`."""
    return schemas.Model(
        name=row.full_name,
        creator=row.creator,
        visibility="public" if row.visibility == "public" else "private",
        license=row.license,
        min_approvals=row.min_approvals,
        required_evaluations=row.required_evaluations,
        mask=row.mask,
        state=cast(ModelState, row.state),
        base=row.base_digest,
        source=row.source,
        by_reference=row.by_reference,
        parameters=row.parameters,
        size=row.size,
        patches=row.patch_count,
        role=role.word if role is not None else None,
        primary=row.primary,
        card=row.card if card else None,
        tags=known,
        downloads=row.downloads_30d,
        job=job_views.job(job_row) if job_row else None,
        created_at=row.created_at,
    )


def find(session: Session, name: str) -> Model:
    """Return the row of a model, for other views; the caller has been admitted to it.

    Raises:
        NotFound: No such model exists.
    """
    return models.find(session, name)


def find_ready(session: Session, name: str) -> Model:
    """Return what `find` does, of a model whose base has been checked.

    Raises:
        NotFound: No such model exists.
        WrongState: The base is still being checked.
    """
    return models.ready(session, name)


def show(session: Session, actor: Actor | None, row: Model) -> schemas.Model:
    """Return a model, with the job that imports it, the caller's role on it, and where it is mirrored from."""
    role = access.role_on(session, actor, row)
    if row.primary is not None:
        role = min(role, Role.CONTRIBUTOR)  # whatever somebody is at the primary, here they read
    return model(row, models.import_job(session, row), role=role)


def listing(
    session: Session,
    actor: Actor | None,
    wanted: Filters,
    sort: ModelOrder = "name",
    *,
    after: str | None = None,
    limit: int,
) -> schemas.ModelPage:
    """Return a page of the models that the caller may see, by name, or those with a base by numbers, greatest first."""
    rows: Sequence[Model]
    if sort == "name":
        rows, cursor = models.listing(session, actor, wanted, after, limit)
    else:
        ordered = listings.Listing(wanted, ORDERS[sort])
        rows, cursor = listings.page(session, actor, ordered, after or None, limit)
    named = tags.of_models(session, rows)
    return schemas.ModelPage(items=[model(row, card=False, known=named[row.id]) for row in rows], next=cursor)


def built_like(session: Session, store: Store, row: Model) -> schemas.Architecture:
    """Return what a model is built like.

    Raises:
        BlobDamaged, StorageFailed, TooMany: Its config cannot be read, or not yet.
    """
    found = architecture.of_model(session, store, row)
    config = found.config
    return schemas.Architecture(
        names=list(config.names),
        model_type=config.model_type,
        tensors=found.tensors,
        dtypes=found.dtypes,
        **config.numbers,
    )


def members(session: Session, row: Model) -> list[schemas.Member]:
    """Return the members of a model and of its namespace."""
    return [people_views.member(found, via) for found, via in models.members(session, row)]


@dataclass(frozen=True)
class Overview:
    """How a model came about.

    Args:
        lineage: Its newest releases, their patches and channels.
        contributors: Who pushed patches to it.
        latest: Its newest published release.
        tags: Its tags, as at the Hub.
        downloads: In the last month, and in all.
        main: The version that is pulled unless another is named, and whether that is by the channel `stable`.
    """

    lineage: Lineage
    contributors: Sequence[Contributor]
    latest: schemas.Release | None
    tags: Sequence[str]
    downloads: tuple[int, int]
    main: tuple[str, bool] | None


def overview(session: Session, row: Model) -> Overview:
    """Return how a model came about."""
    ancestry = lineage.lineage_of(session, row)
    latest = next((release for release in ancestry.releases if release.state == "published"), None)
    return Overview(
        ancestry,
        lineage.contributors(session, row),
        release_views.release(session, row, latest) if latest else None,
        tags.of_models(session, [row])[row.id],
        downloads.totals(session, [row])[row.id],
        (release.version, release.stable) if (release := snapshots.default_release(session, row)) else None,
    )
