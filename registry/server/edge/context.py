"""The parts of an app that its routes use, and where a request finds them."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from registry.db.session import Database
from registry.server.edge.downloads import Gate
from registry.server.edge.limits import Rate
from registry.services.blobs.uploads import UploadLimits
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
    token_rate: Rate
    gate: Gate
    bucket: Bucket | None


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
