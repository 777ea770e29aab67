"""Options that many commands share, and the registry that they speak to."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from client.api.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes; print as little as a script needs.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the registry's check.")]
Alpha = Annotated[str, typer.Option("--alpha", metavar="DECIMAL", help="Scale of the whole sum.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
DeviceMemory = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        metavar="SIZE",
        help="Most memory to use on a GPU, like 8GiB; if not said, 4GiB or a quarter of what is free there.",
    ),
]
Author = Annotated[str | None, typer.Option("--author", metavar="USER", help="Only by this user.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")]
Model = Annotated[str, typer.Argument(metavar="NS/NAME", help="The model.", show_default=False)]
Snapshot = Annotated[str, typer.Argument(metavar="NS/NAME[@REF]", help="What to pull.", show_default=False)]


def parse_size(text: str | None) -> int | None:
    """Return the bytes of a size like 8GiB, 500MB or 1048576.

    Raises:
        InvalidRequest: It is no size.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from registry.errors import InvalidRequest

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise InvalidRequest(f"{text[:40]!r} is no size; write it like 8GiB, 500MB or 1048576.") from None


def connect() -> "Client":
    """Return a client of the registry in use."""
    from client.api.client import Client
    from client.machine.config import current

    login = current()
    return Client(login.url, login.token)
