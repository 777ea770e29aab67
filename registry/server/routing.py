"""Routing: the route of a request, found by one regular expression for each method.

FastAPI asks its routes one after the other, in Python, twice over for those of an included router. There are some two
hundred, and that took longer than what most of them do. What no expression matches is left to FastAPI: other methods,
mounts, redirects, and addresses that do not exist.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class Choice:
    """The routes of one method, in the order in which they are asked, and the expression that finds the first."""

    def __init__(self, routes: Sequence[RouteContext]) -> None:
        self.routes = routes
        self.apps = [getattr(route.original_route, "direct", None) or route.app for route in routes]
        patterns = (NAMED_GROUP.sub("(?:", route.path_regex.pattern) for route in routes)
        self.expression = re.compile("|".join(f"({pattern})" for pattern in patterns))

    def find(self, path: str) -> tuple[RouteContext, ASGIApp] | None:
        """Return the first route that a path matches, and what answers its requests.

        A route's own `direct`, if it has one, does without the stacks of FastAPI's dependencies and bodies.
        """
        found = self.expression.match(path)
        if found is None or not found.lastindex:
            return None
        return self.routes[found.lastindex - 1], self.apps[found.lastindex - 1]


class Routing:
    """Middleware inside FastAPI's own that calls the route of a request.

    Args:
        app: FastAPI's router, for what is not found here.
        routes: All routes, in order; they must be complete when the first request comes.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app, self.routes = app, routes

    @cached_property
    def choices(self) -> dict[str, Choice]:
        """The choice for each method."""
        by_method = defaultdict[str, list[RouteContext]](list)
        for route in iter_route_contexts(self.routes):
            if isinstance(route.original_route, APIRoute):
                for method in route.methods or ():
                    by_method[method].append(route)
        return {method: Choice(routes) for method, routes in by_method.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of ASGI."""
        choice = self.choices.get(scope["method"]) if scope["type"] == "http" else None
        found = choice.find(scope["path"]) if choice else None
        if found is None:
            await self.app(scope, receive, send)
            return
        route, app = found
        matched = route.path_regex.match(scope["path"])
        values = {name: route.param_convertors[name].convert(text) for name, text in matched.groupdict().items()}
        scope.update(route=route.original_route, endpoint=route.endpoint, path_params=values)
        await app(scope, receive, send)


def install(app: FastAPI) -> None:
    """Put the routing before an app's own."""
    app.router.middleware_stack = Routing(app.router.middleware_stack, app.router.routes)
