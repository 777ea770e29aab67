"""Web pages: server-rendered, with htmx where something is live.

A page opens one read transaction, that of its admission, calls the views that the API calls, and renders what they
return: what a page shows belongs together. A form builds the body of an API route and calls the route's function, so
that a page can do nothing that a command cannot.
"""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from registry.server.pages.catalog import (
    addresses,
    creating,
    files,
    finding,
    home,
    models,
    publishers,
    settings,
    uploads,
    webhooks,
)
from registry.server.pages.comparing import conflicts, evaluations
from registry.server.pages.composing import recipe_editor, recipes
from registry.server.pages.curation import cards, contributing, inbox, inboxes, patch_forms, patches
from registry.server.pages.frame.render import FOLDER, Static
from registry.server.pages.frame.route import guarded, refusal
from registry.server.pages.operating import accounts, admin, moderation, policies, reference
from registry.server.pages.people import joining, mail, namespaces, profile, provider, sessions, sign_in, tokens
from registry.server.pages.queue import jobs
from registry.server.pages.releasing import channels, feed, releases
from registry.server.processes.places import Places
from registry.server.watching import Streams


def install(app: FastAPI, streams: Places) -> None:
    """Add the pages and their static files to an app, after everything else; streams of events take those places."""
    app.state.streams = Streams(streams)
    app.mount("/static", Static(directory=FOLDER / "static"), name="static")
    for module in (
        home,
        finding,
        inboxes,
        sign_in,
        joining,
        profile,
        mail,
        provider,
        sessions,
        jobs,
        uploads,
        creating,
        models,
        addresses,
        files,
        patches,
        contributing,
        patch_forms,
        cards,
        conflicts,
        evaluations,
        recipe_editor,
        recipes,
        releases,
        feed,
        channels,
        tokens,
        namespaces,
        inbox,
        settings,
        webhooks,
        publishers,
        admin,
        moderation,
        policies,
        accounts,
        reference,
    ):
        app.include_router(module.router)
    app.include_router(mail.linked)
    problem = app.exception_handlers[HTTPException]

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        """Answer a browser that asks for a missing address with a page."""
        if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api/"):
            answer = problem(request, error)
            return answer if isinstance(answer, Response) else await answer
        request.state.actor = None
        sentence = "There is no page at this address." if error.status_code == 404 else f"{error.detail}."
        return guarded(request, refusal(request, error.status_code, sentence))
