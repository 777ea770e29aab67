"""Web pages: what the API says, drawn for people; server-rendered, with htmx where something is live.

A page calls the function of an API route, which is a plain function of the caller and the app, and draws what comes
back. A form builds the body that the same route takes, so that both are held to the same rules.
"""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from registry.server.pages.catalog import home, models, settings, webhooks
from registry.server.pages.comparing import comparisons
from registry.server.pages.composing import recipe_editor, recipes
from registry.server.pages.curation import inbox, patch_forms, patches
from registry.server.pages.frame.render import FOLDER, Static
from registry.server.pages.frame.route import guarded, refusal
from registry.server.pages.operating import admin, moderation
from registry.server.pages.people import namespaces, sign_in, tokens
from registry.server.pages.queue import jobs
from registry.server.pages.queue.streams import Streams
from registry.server.pages.releasing import channels, releases


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
        recipe_editor,
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
