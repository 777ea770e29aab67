"""Page of the HTTP API: every route with its parameters and answers, and every schema, from the app's description."""

from itertools import groupby
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response

from registry.server.edge.admission import allow
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)
FIRST = ("models", "patches", "uploads", "reviews", "conflicts", "releases", "channels", "jobs", "people")
LAST = ("operation", "admin")  # what operators use; the others stand between, by name


class Operation(NamedTuple):
    """One method of one path, with its OpenAPI description."""

    tag: str
    path: str
    method: str
    said: dict[str, Any]


def place(tag: str) -> tuple[int, str]:
    """Return where a tag stands on the page: in the order in which a newcomer needs them."""
    if tag in FIRST:
        return FIRST.index(tag), tag
    return len(FIRST) + (LAST.index(tag) + 1 if tag in LAST else 0), tag


@router.get("/docs")
@allow("server.read")
def show(request: Request) -> Response:
    """Show how programs use the registry."""
    description = request.app.openapi()
    operations = [
        Operation(said["tags"][0], path, method.upper(), said)
        for path, methods in description["paths"].items()
        for method, said in methods.items()
    ]
    operations.sort(key=lambda operation: (place(operation.tag), operation.path, operation.method))
    tags = {tag: list(group) for tag, group in groupby(operations, lambda operation: operation.tag)}
    return render.page(request, "reference.html", tags=tags, schemas=description["components"]["schemas"])
