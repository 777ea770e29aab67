"""Options that many commands share, and the registry that they speak to."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from client.api import Client

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes; print as little as a script needs.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the registry's check.")]
Alpha = Annotated[str, typer.Option("--alpha", metavar="DECIMAL", help="Scale of the whole sum.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Author = Annotated[str | None, typer.Option("--author", metavar="USER", help="Only by this user.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")]
Model = Annotated[str, typer.Argument(metavar="NS/NAME", help="The model.", show_default=False)]
Revision = Annotated[str, typer.Argument(metavar="NS/NAME[@REF]", help="What to pull.", show_default=False)]


def connect() -> "Client":
    """Return a client of the registry in use."""
    from client.api import Client
    from client.config import current

    login = current()
    return Client(login.url, login.token)
