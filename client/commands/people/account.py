"""login, logout, whoami: the registry in use."""

import sys
from typing import Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain


def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the registry.", show_default=False)],
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="T", help="Your token; by default prompted for, or read from stdin."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Print a code, and wait until you let this program in by a browser.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Log in to a registry, and use it from now on.

    At a terminal, an empty token means --browser.
    """
    import os

    from client.api.client import Client
    from client.machine.config import Login, clean_url, current_url, home, save
    from registry.errors import Unauthenticated

    console = Console(as_json, quiet)
    url = clean_url(url)
    if not token and not browser and (ambient := os.environ.get("CRUMB_TOKEN", "").strip()):
        if current_url() in (None, url):
            token = ambient
        else:
            console.note(f"CRUMB_TOKEN is for {current_url()}, and is not sent to {url}.")
    if not token and not browser and sys.stdin.isatty():
        token = typer.prompt(
            "Token, or nothing to use a browser", hide_input=True, err=True, default="", show_default=False
        )
        browser = not token
    elif not token and not browser:
        token = sys.stdin.readline(4096)
    token = (token or "").strip() or (_by_browser(url) if browser else "")
    if not token:
        raise Unauthenticated("No token was given; an operator makes one with `crumb-server token create USER`.")
    with Client(url, token) as client:
        if client.url.startswith("http://") and not _on_this_machine(client.url):
            console.note(f"{client.url} is not encrypted: everybody on the network can read your token. Use https.")
        me = client.whoami()
        save(Login(client.url, token, me.user))
        address = client.url
    console.note(f"Written to {home() / 'logins.json'}.")
    console.result({"url": address, "user": me.user}, f"Logged in at {address} as {plain(me.user)}.", plain(me.user))


def logout(as_json: Json = False, quiet: Quiet = False) -> None:
    """Log out of the registry in use, and forget your token for it."""
    from client.machine.config import forget

    url = forget()
    text = f"Logged out of {url}. The token itself stays valid until it expires." if url else "You were not logged in."
    Console(as_json, quiet).result({"url": url}, text, url or "")


def whoami(as_json: Json = False, quiet: Quiet = False) -> None:
    """Show the user, scopes and expiry of your token."""
    with connect() as client:
        me, url = client.whoami(), client.url
    expires = f"{me.expires_at.astimezone():%Y-%m-%d %H:%M %z}" if me.expires_at else "never"
    text = fields(
        [
            ("user", plain(me.user) + (" (admin)" if me.admin else "")),
            ("registry", url),
            ("token", plain(me.token)),
            ("scopes", plain(", ".join(me.scopes)) or "-"),
            ("expires", expires),
        ]
    )
    Console(as_json, quiet).result({"url": url, **me.model_dump(mode="json")}, text, plain(me.user))


def _by_browser(url: str) -> str:
    """Return the token that somebody gives this program, on a page of the registry."""
    import platform
    import time

    from client.api.client import Client
    from registry.errors import NotFound

    with Client(url) as client:
        codes = client.ask_for_codes(f"crumb on {platform.node()}"[:100])
        typer.echo(f"Open {codes.url} in a browser, and let the program with the code {codes.user_code} in.", err=True)
        until = time.monotonic() + codes.expires_in
        while time.monotonic() < until:
            answer = client.ask_for_token(codes.device_code)
            if answer.token is not None:
                return answer.token
            time.sleep(codes.interval)
    raise NotFound("Nobody let this program in; run `crumb login` again.")


def _on_this_machine(url: str) -> bool:
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
