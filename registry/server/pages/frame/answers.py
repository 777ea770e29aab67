"""Pages that answer a form and have no address of their own: those with a secret, and those that wait."""

from typing import Any

from fastapi import Request, Response

from registry.server.pages.frame import render


def answer_page(request: Request, template: str, **values: Any) -> Response:
    """Return a page as the answer to a form; with htmx, it replaces the page that the form is on.

    Args:
        request: The request with the form.
        template: The template of the page.
        values: The values that the template shows.
    """
    response = render.page(request, template, **values)
    if "hx-request" in request.headers:
        response.headers["HX-Retarget"] = "#main"
        response.headers["HX-Reselect"] = "#main > *"
        response.headers["HX-Reswap"] = "innerHTML show:top"
    return response
