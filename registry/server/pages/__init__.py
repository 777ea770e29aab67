"""Web pages: what the API says, drawn for people; server-rendered, with htmx where something is live.

A page calls the function of an API route, which is a plain function of the caller and the app, and draws what comes
back. A form builds the body that the same route takes, so that both are held to the same rules.
"""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from registry.server.pages import (
    admin,
    builder,
    channels,
    comparisons,
    home,
    inbox,
    jobs,
    models,
    moderation,
    namespaces,
    patch_forms,
    patches,
    recipes,
    releases,
    settings,
    sign_in,
    tokens,
    webhooks,
)
from registry.server.pages.render import FOLDER, Static
from registry.server.pages.route import guarded, refusal
from registry.server.pages.streams import Streams


def install(app: FastAPI) -> None:
    """Add the pages to an app, after everything else, and the files that they need."""
    app.state.streams = Streams(jobs.AT_ONCE)
    app.mount("/static", Static(directory=FOLDER / "static"), name="static")
    for module in (
        home,
        sign_in,
        jobs,
        models,
        patches,
        patch_forms,
        comparisons,
        builder,
        recipes,
        releases,
        channels,
        tokens,
        namespaces,
        inbox,
        settings,
        webhooks,
        admin,
        moderation,
    ):
        app.include_router(module.router)
    problem = app.exception_handlers[HTTPException]

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        """Draw a page for somebody with a browser who asks for an address that there is not."""
        if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api/"):
            answer = problem(request, error)
            return answer if isinstance(answer, Response) else await answer
        request.state.actor = None
        sentence = "There is nothing at this address." if error.status_code == 404 else f"{error.detail}."
        return guarded(request, refusal(request, error.status_code, sentence))
