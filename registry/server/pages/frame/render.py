"""Templates: one environment, the values that every page has, and the format of numbers, times and digests."""

import hashlib
import re
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
from registry.files import sizes
from registry.server.edge.context import get_public_url
from registry.server.pages import charts
from registry.server.pages.frame import markdown
from registry.server.pages.frame.cookies import csrf

FOLDER = Path(__file__).parents[1]
MINUTE, HOUR, DAY = 60, 3600, 86400


class Static(StaticFiles):
    """Static files, which caches may keep for ever since their addresses hold their digests."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the answer with a file."""
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


@cache
def static(name: str) -> str:
    """Return the address of a static file."""
    return f"/static/{name}?v={hashlib.sha256((FOLDER / 'static' / name).read_bytes()).hexdigest()[:12]}"


def size(count: float | None) -> str:
    """Return a number of bytes as text, in the decimal units of the command line, or a dash for None."""
    return "–" if count is None else sizes.size(count)


def number(value: float | None) -> str:
    """Return a count with separators for thousands, or a measured number with six digits."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def count(value: int | None) -> str:
    """Return a large count in short, like 7.2 G."""
    if value is None:
        return "–"
    left = float(value)
    for unit in ("", " k", " M", " G"):
        if left < 1000:
            return f"{left:.3g}{unit}" if unit else str(value)
        left /= 1000
    return f"{left:.3g} T"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.3g} %"


def short(digest: str | None) -> str:
    """Return the beginning of a digest."""
    return "–" if digest is None else digest.removeprefix("sha256:")[:12]


def time(at: datetime | None) -> Markup:
    """Return how long ago something was; the exact time is shown on hover."""
    if at is None:
        return Markup("–")
    exact = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    stamp = at.astimezone(UTC).isoformat()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(stamp, exact, ago(at, datetime.now(UTC)))


def ago(at: datetime, now: datetime) -> str:
    """Return the distance between two times in words."""
    seconds = (now - at).total_seconds()
    for step, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if (whole := int(abs(seconds) // step)) >= 1:
            if name == "day" and whole > 60:
                return at.astimezone(UTC).strftime("%Y-%m-%d")
            words = f"{whole} {name}{'s' if whole > 1 else ''}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "just now" if seconds >= 0 else "in a moment"


def initials(name: str) -> str:
    """Return the first letters of the first and the last word of a name, in capitals."""
    words = re.findall(r"[^\W_]+", name)
    return (words[0][0] + (words[-1][0] if len(words) > 1 else "")).upper() if words else "?"


def hue(name: str) -> int:
    """Return the number of the colour that stands for a name, from 0 to 7."""
    return hashlib.sha256(name.encode()).digest()[0] % 8


def query(**values: Any) -> str:
    """Return the query of an address, without empty values."""
    given = {name: value for name, value in values.items() if value not in (None, "", [], False)}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def next_page(path: str, cursor: object, by: str = "before", **values: Any) -> str | None:
    """Return the address of the next page of a list, if there is one.

    Args:
        path: The path of the list.
        cursor: The cursor of the next page; None on the last one.
        by: The name of the parameter that takes the cursor.
        values: The other parameters of the list.
    """
    return f"{path}{query(**values, **{by: cursor})}" if cursor else None


@cache
def environment() -> Environment:
    """Return the environment of the templates."""
    templates = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "bytes": size,
        "count": count,
        "hue": hue,
        "initials": initials,
        "markdown": markdown.draw,
        "number": number,
        "percent": percent,
        "short": short,
        "time": time,
    }
    templates.globals |= {"charts": charts, "query": query, "static": static, "version": registry.version()}
    return templates


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        request: The request.
        template: The file of the template.
        status: The status of the answer.
        values: The values that the template shows.
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
