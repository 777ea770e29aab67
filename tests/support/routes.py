"""Every route of an app, one method at a time, with what it says it does."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import FastAPI

from registry.server.edge.admission import Route
from registry.server.hub import refusing
from registry.server.pages.frame.route import PageRoute
from registry.services.people.rules import RULES, Rule

SAFE = ("GET", "HEAD")


class Way(NamedTuple):
    """One method of one route; a lenient one is for the Hub's clients, and speaks as the Hub does."""

    method: str
    path: str
    action: str
    parameters: tuple[str, ...]
    lenient: bool
    refuses: bool  # whatever is asked, with a sentence on what to do instead

    @property
    def rule(self) -> Rule:
        return RULES[self.action]

    @property
    def reads(self) -> bool:
        """Whether it changes nothing: by its method, or as a question that is too long for an address."""
        return self.method in SAFE or self.refuses or self.path.endswith(("/paths-info/{rev}", "/preview"))

    @property
    def about_a_model(self) -> bool:
        return self.rule.on in ("name", "model", "patch")

    def url(self, **values: str) -> str:
        """Fill in the path; a parameter that is not among the values is a KeyError that names it."""
        path = self.path.replace(":path}", "}").replace(":space}", "}")
        return path.format_map({name: quote(values[name], safe="") for name in self.parameters})


def flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield routes, those of included routers among them."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from flat(inner.routes)


def every_way(app: FastAPI) -> list[Way]:
    """Return all ways into an app that need a policy, but for its pages."""
    return ways(app, lambda route: not isinstance(route, PageRoute))


def every_page(app: FastAPI) -> list[Way]:
    """Return all ways into the pages of an app, and the forms on them."""
    return ways(app, lambda route: isinstance(route, PageRoute))


def ways(app: FastAPI, chosen: Callable[[Route], bool]) -> list[Way]:
    """Return the ways into an app by some of its routes."""
    return sorted(
        Way(
            method,
            route.path,
            route.endpoint.__dict__["action"],
            tuple(sorted(route.param_convertors)),
            route.lenient,
            route.endpoint.__module__ == refusing.__name__,
        )
        for route in flat(app.routes)
        if isinstance(route, Route) and chosen(route)
        for method in route.methods
    )


def open_paths(app: FastAPI) -> set[str]:
    """Return the paths of all routes that ask nobody for a policy."""
    return {route.path for route in flat(app.routes) if not isinstance(route, Route)}
