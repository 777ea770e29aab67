"""Templates: one environment, what every page shows, and how numbers, times and digests are written."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import registry
from registry.server.edge.deps import get_public_url
from registry.server.pages import charts
from registry.server.pages.frame import markdown
from registry.server.pages.frame.cookies import csrf

FOLDER = Path(__file__).parents[1]
MINUTE, HOUR, DAY = 60, 3600, 86400


class Static(StaticFiles):
    """Files that may be kept for ever: their address holds their digest."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file."""
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


@cache
def static(name: str) -> str:
    """Return the address of a file that comes with the server."""
    return f"/static/{name}?v={hashlib.sha256((FOLDER / 'static' / name).read_bytes()).hexdigest()[:12]}"


def size(count: float | None) -> str:
    """Write a number of bytes."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def number(value: float | None) -> str:
    """Write a count with a separator for thousands, or a measured number with six digits."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def count(value: int | None) -> str:
    """Write a large count shortly, like 7.2 G."""
    if value is None:
        return "–"
    left = float(value)
    for unit in ("", " k", " M", " G"):
        if left < 1000:
            return f"{left:.3g}{unit}" if unit else str(value)
        left /= 1000
    return f"{left:.3g} T"


def percent(value: float | None) -> str:
    """Write a fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.3g} %"


def short(digest: str | None) -> str:
    """Write the beginning of a digest."""
    return "–" if digest is None else digest.removeprefix("sha256:")[:12]


def time(at: datetime | None) -> Markup:
    """Write how long ago something was; the exact time is shown on hover, and read out."""
    if at is None:
        return Markup("–")
    exact = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    stamp = at.astimezone(UTC).isoformat()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(stamp, exact, ago(at, datetime.now(UTC)))


def ago(at: datetime, now: datetime) -> str:
    """Write the distance between two times."""
    seconds = (now - at).total_seconds()
    for step, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if (whole := int(abs(seconds) // step)) >= 1:
            if name == "day" and whole > 60:
                return at.astimezone(UTC).strftime("%Y-%m-%d")
            words = f"{whole} {name}{'s' if whole > 1 else ''}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "just now" if seconds >= 0 else "in a moment"


def query(**values: Any) -> str:
    """Write the query of an address, leaving out what is not said."""
    said = {name: value for name, value in values.items() if value not in (None, "", [], False)}
    return f"?{urlencode(said, doseq=True)}" if said else ""


@cache
def environment() -> Environment:
    """Return the templates."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": size,
        "count": count,
        "markdown": markdown.draw,
        "number": number,
        "percent": percent,
        "short": short,
        "time": time,
    }
    made.globals |= {"charts": charts, "query": query, "static": static, "version": registry.version()}
    return made


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        request: Whose.
        template: Its file.
        status: Of the answer.
        values: What the template shows.
    """
    html = (
        environment()
        .get_template(template)
        .render(
            actor=request.state.actor,
            csrf=lambda: Markup('<input type="hidden" name="csrf" value="{}">').format(csrf(request)),
            path=request.url.path,
            registry_url=get_public_url(request),
            request=request,
            **values,
        )
    )
    return HTMLResponse(html, status)
