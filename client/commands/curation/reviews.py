"""propose, withdraw, review, comment, accept, reject, yank, unyank, quarantine, inbox: what people decide."""

from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, fields, plain

if TYPE_CHECKING:
    from registry.schemas import Affected, Patch

Number = Annotated[str, typer.Argument(metavar="N", help="The patch's number.", show_default=False)]
Message = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why.")]
Why = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why; it has to be said.")]


def propose(model: Model, number: Number, as_json: Json = False, quiet: Quiet = False) -> None:
    """Ask for review of your patch."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.propose(model, parse_number(number))
    _print(Console(as_json, quiet), done, f"next: a reviewer runs crumb review {model} {done.number} --approve")


def withdraw(model: Model, number: Number, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Take your patch back."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.withdraw(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def review(
    model: Model,
    number: Number,
    approve: Annotated[bool, typer.Option("--approve", help="Approve of the newest revision.")] = False,
    request_changes: Annotated[
        bool, typer.Option("--request-changes", help="Ask its author for another revision.")
    ] = False,
    revision: Annotated[
        int | None, typer.Option("--revision", metavar="R", min=1, help="The revision you have looked at.")
    ] = None,
    message: Message = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Approve somebody else's patch, or request changes.

    The verdict is on the newest revision: the next one has to be reviewed again. With neither option, shows what was
    said and found of the patch so far.
    """
    from client.terminal.addresses import parse_number

    console, wanted = Console(as_json, quiet), parse_number(number)
    if approve and request_changes:
        raise typer.BadParameter("say --approve or --request-changes, not both.")
    with connect() as client:
        if not approve and not request_changes:
            found = client.discussion(model, wanted)
            console.result(found, _discussion(found), found.patch.state)
            return
        seen = revision or client.patch(model, wanted).revision
        verdict = "approve" if approve else "request_changes"
        done = client.review(model, wanted, verdict, seen, message)
        missing = client.discussion(model, wanted).missing
    _print(console, done, *(f"missing: {plain(text)}" for text in missing))


def comment(
    model: Model,
    number: Annotated[str, typer.Argument(metavar="N[.R]", help="The patch, or a revision of it.", show_default=False)],
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="What you have to say.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say something about a patch, or about one revision of it."""
    from client.terminal.addresses import parse_item

    wanted, _, revision = parse_item(number)
    with connect() as client:
        done = client.comment(model, wanted, message, revision)
    Console(as_json, quiet).result(done, f"Commented on {model}#{wanted}.", "")


def accept(
    model: Model,
    number: Number,
    supersedes: Annotated[
        list[str] | None, typer.Option("--supersedes", metavar="N", help="An older patch that this replaces.")
    ] = None,
    message: Message = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accept a patch, so that releases may hold it.

    Checks, approvals and evaluations must be there; what is missing is named.
    """
    from client.terminal.addresses import parse_number

    with connect() as client:
        seen = client.patch(model, parse_number(number))
        older = [parse_number(text) for text in supersedes or ()]
        done = client.accept(model, seen.number, message, revision=seen.revision, supersedes=older)
    _print(Console(as_json, quiet), done, f"next: crumb release cut {model} VERSION --from main --add {done.number}")


def reject(model: Model, number: Number, message: Why, as_json: Json = False, quiet: Quiet = False) -> None:
    """Reject a patch."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.reject(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def yank(model: Model, number: Number, message: Why, as_json: Json = False, quiet: Quiet = False) -> None:
    """Yank an accepted patch: nothing new is composed of it.

    Published releases that hold it stay as they are, and whoever pulls them is warned; their names are printed.
    """
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.yank(model, parse_number(number), message)
    lines = _affected(model, done.number, done.affected) if done.affected else []
    _print(Console(as_json, quiet), done, *lines)


def unyank(model: Model, number: Number, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Undo a yank."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.unyank(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def quarantine(
    model: Model,
    number: Number,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Why.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End the quarantine.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quarantine a patch, as an admin of the registry.

    Its bytes, and what is composed of it, are served to admins alone, and nothing new is composed of it.
    """
    from client.terminal.addresses import parse_number

    if (message is None) != end:
        raise typer.BadParameter("say why with -m, or --end.")
    with connect() as client:
        done = client.quarantine(model, parse_number(number), message)
    lines = _affected(model, done.number, done.affected) if done.affected else []
    _print(Console(as_json, quiet), done, "quarantined" if done.quarantined else "not quarantined", *lines)


def inbox(model: Model, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show what waits for you in a model."""
    with connect() as client:
        found = client.inbox(model)
    parts = [
        ("To review", [_line(patch) for patch in found.review]),
        ("To accept or reject", [_line(patch) for patch in found.accept]),
        ("Yours", [_line(patch) for patch in found.mine]),
        ("Releases to publish", [plain(version) for version in found.candidates]),
        ("ALARM: composed to different results", found.alarms),
    ]
    text = "\n\n".join(f"{head}:\n" + "\n".join(f"  {line}" for line in lines) for head, lines in parts if lines)
    brief = "\n".join(f"#{patch.number}" for patch in (*found.review, *found.accept, *found.mine))
    Console(as_json, quiet).result(found, text or "Nothing waits for you.", brief)


def _line(patch: "Patch") -> str:
    return f"#{patch.number}.{patch.revision} {patch.state}: {plain(patch.title)} ({plain(patch.author)})"


def _print(console: Console, patch: "Patch", *lines: str) -> None:
    console.result(patch, "\n".join([f"{patch.model}#{patch.number}  {patch.state}", *lines]), patch.state)


def _affected(model: str, number: int, affected: "Affected") -> list[str]:
    if not affected.releases:
        return ["No published release holds it."]
    lines = [f"in releases: {plain(', '.join(affected.releases))}"]
    if affected.channels:
        lines.append(f"in channels: {plain(', '.join(affected.channels))}")
    newest = affected.releases[0]
    return [*lines, f"next: crumb release cut {model} VERSION --from {plain(newest)} --without {number}"]


def _discussion(found: "object") -> str:
    from registry.schemas import Discussion

    assert isinstance(found, Discussion)
    patch = found.patch
    pairs = [("patch", f"{patch.model}#{patch.number}.{patch.revision}, {patch.state}"), ("title", plain(patch.title))]
    pairs += [
        (f"check {check.name}", f"{check.status}{'' if check.required else ' (not required)'}: {plain(check.summary)}")
        for check in found.checks
    ]
    pairs += [
        (f"#{patch.number}.{row.revision}", f"{row.verdict} by {plain(row.reviewer)}{'' if row.counts else ' (stale)'}")
        for row in found.reviews
    ]
    pairs += [
        (row.metric, f"{row.value:g} on {plain(row.dataset)} ({plain(row.task)}), by {plain(row.user)}")
        for row in found.evaluations
    ]
    pairs += [("missing", plain(text)) for text in found.missing]
    text = fields(pairs)
    for row in found.comments:
        at = f"{row.created_at.astimezone():%Y-%m-%d %H:%M}"
        text += f"\n\n{plain(row.author)}, {at}:\n" + plain(row.message.strip(), lines=True)
    return text
