"""An answer that is shown once: it holds a secret, and so has no address that it could be asked for again at."""

from typing import Any

from fastapi import Request, Response

from registry.server.pages.frame import render


def shown_once(request: Request, template: str, **values: Any) -> Response:
    """Return a page as the answer to a form; htmx puts it in the place of the page that the form is on.

    Args:
        request: With the form.
        template: Of the page.
        values: What the template shows.
    """
    response = render.page(request, template, **values)
    if "hx-request" in request.headers:
        response.headers["HX-Retarget"] = "#main"
        response.headers["HX-Reselect"] = "#main > *"
        response.headers["HX-Reswap"] = "innerHTML show:top"
    return response
