"""Options that several commands share, and the registry in use."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from registry.breadcrumbs.formats.layout import MaskParams

if TYPE_CHECKING:
    from client.api.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; print only what a script needs.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the registry's check.")]
Alpha = Annotated[
    str, typer.Option("--alpha", metavar="DECIMAL|auto", help="Scale of all patches; auto goes by their sizes.")
]
Method = Annotated[
    str,
    typer.Option("--method", metavar="sum|ties|mean", help="How patches combine: add up, or average where they meet."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", metavar="N:GLOB=F", help="Multiply the weight of patch N by F in these tensors; repeatable."
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
DeviceMemory = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        metavar="SIZE",
        help="Most memory to use on a GPU, like 8GiB; by default 4GiB or a quarter of what is free.",
    ),
]
MASK = MaskParams()
DropBottom = Annotated[
    str | None,
    typer.Option(metavar="DECIMAL", help="Share of the smallest changes to leave out.", show_default=MASK.drop_bottom),
]
DropTop = Annotated[
    str | None,
    typer.Option(metavar="DECIMAL", help="Share of the largest changes to leave out.", show_default=MASK.drop_top),
]
Granularity = Annotated[
    str | None,
    typer.Option(
        metavar="tensor|row",
        help="Take the shares of a whole tensor, or of each row.",
        show_default=MASK.granularity,
    ),
]
ValueDtype = Annotated[
    str | None,
    typer.Option(
        metavar="auto|BF16|F16|F32",
        help="Type of the stored changes; auto is that of the base.",
        show_default=MASK.value_dtype,
    ),
]
Author = Annotated[str | None, typer.Option("--author", metavar="USER", help="Only by this user.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most this many.")]
Model = Annotated[str, typer.Argument(metavar="NS/NAME", help="The model.", show_default=False)]
Snapshot = Annotated[str, typer.Argument(metavar="NS/NAME[@REF|#N]", help="What to pull.", show_default=False)]

Command = TypeVar("Command", bound=Callable[..., None])


def with_options_of(other: Callable[..., None]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options of another one, in place of its own `**` parameter.

    Whatever has no default is no option; names that the command has itself stay its own.
    """
    theirs = {name: option for name, option in signature(other).parameters.items() if option.default != option.empty}

    def decorate(command: Command) -> Command:
        own = {n: p for n, p in signature(command).parameters.items() if p.kind != Parameter.VAR_KEYWORD}
        more = {name: option for name, option in theirs.items() if name not in own}
        shared = [name for name in ("as_json", "quiet") if name in own]  # these end every help text
        first = [option for name, option in own.items() if name not in shared]
        ordered = [*first, *more.values(), *(own[name] for name in shared)]
        command.__signature__ = signature(command).replace(parameters=ordered)  # type: ignore[attr-defined]
        command.__annotations__ |= {name: option.annotation for name, option in more.items()}
        return command

    return decorate


def mask_of(
    drop_bottom: str | None, drop_top: str | None, granularity: str | None, value_dtype: str | None
) -> dict[str, str]:
    """Return the options of a mask that were given, in the case that they are written in."""
    lower = granularity.lower() if granularity else None
    given = value_dtype if value_dtype is None or value_dtype.lower() == "auto" else value_dtype.upper()
    found = {"drop_bottom": drop_bottom, "drop_top": drop_top, "granularity": lower, "value_dtype": given}
    return {name: value for name, value in found.items() if value is not None}


def changed_options(options: dict[str, object], of: Callable[..., None]) -> dict[str, object]:
    """Return the options of another command that were given another value than their default."""
    defaults = {name: option.default for name, option in signature(of).parameters.items()}
    return {name: value for name, value in options.items() if value not in (defaults[name], [])}


def parse_size(text: str | None) -> int | None:
    """Return the bytes of a size like 8GiB, 500MB or 1048576.

    Raises:
        InvalidRequest: The text is not a size.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from registry.errors import InvalidRequest

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise InvalidRequest(f"{text[:40]!r} is not a size; write it like 8GiB, 500MB or 1048576.") from None


def connect(pushing: str | None = None) -> "Client":
    """Return a client of the registry in use.

    Args:
        pushing: The model to be pushed to, by the identity of the job if there is no token.

    Raises:
        Unauthenticated: No registry is in use, or the identity of the job is refused.
    """
    from client.api.client import connect

    return connect(pushing=pushing)
