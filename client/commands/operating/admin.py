"""report; admin summary, reports, close, workers, jobs, quarantine, namespaces, quota: watching over a registry."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Limit, Quiet, connect, parse_size
from client.terminal.console import Console, fields, plain, size, table

if TYPE_CHECKING:
    from registry.schemas import AdminJob, NamespaceUsage, Worker

group = typer.Typer(
    name="admin", help="What admins of the registry look at.", no_args_is_help=True, rich_markup_mode=None
)


def report(
    subject: Annotated[str, typer.Argument(metavar="NS/NAME[#N]", help="A model or a patch.", show_default=False)],
    reason: Annotated[
        str, typer.Option("--reason", metavar="R", help="malware, licence, personal_data, misleading or other.")
    ],
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="What is wrong with it.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell the admins that something should not be here.

    Nobody else is told, nor who said so. Again, while it is open, it changes what you have said.
    """
    from client.terminal.addresses import parse_subject

    model, number = parse_subject(subject)
    with connect() as client:
        done = client.report(model, reason, message, number)
    Console(as_json, quiet).result(done, f"Reported {subject}; the admins of the registry look at it.", done.id)


@group.command()
def summary(as_json: Json = False, quiet: Quiet = False) -> None:
    """Show how many there are of everything."""
    with connect() as client:
        found = client.summary()
    pairs = [
        ("users", str(found.users)),
        ("models", str(found.models)),
        ("patches", _counts(found.patches)),
        ("blobs", f"{found.blobs}, {size(found.blob_bytes)}"),
        ("jobs", _counts(found.jobs)),
        ("open reports", str(found.open_reports)),
    ]
    Console(as_json, quiet).result(found, fields(pairs), str(found.open_reports))


@group.command()
def reports(
    closed: Annotated[bool, typer.Option("--closed", help="Those that are closed.")] = False,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List what people say should not be here, newest first."""
    with connect() as client:
        found = list(client.reports(is_open=not closed, limit=limit))
    rows = [
        (
            row.id,
            _minute(row.created_at),
            row.model + ("" if row.number is None else f"#{row.number}"),
            row.reason,
            plain(row.reporter),
            plain(row.message)[:80],
            plain(row.answer or "")[:80],
        )
        for row in found
    ]
    heads = ("id", "when", "about", "reason", "by", "message", "answer")
    text = table(heads, rows) if rows else f"No report is {'closed' if closed else 'open'}."
    Console(as_json, quiet).result(found, text, "\n".join(row.id for row in found))


@group.command()
def close(
    report: Annotated[str, typer.Argument(metavar="ID", help="The report's id.", show_default=False)],
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="What came of it.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Close a report."""
    with connect() as client:
        done = client.close_report(report, message)
    Console(as_json, quiet).result(done, f"Closed {done.id}.", done.id)


@group.command()
def workers(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the workers of the last day, and what they are at."""
    with connect() as client:
        found = client.workers()
    rows = [_worker(row) for row in found]
    heads = ("name", "is", "device", "started", "seen", "at")
    text = table(heads, rows) if rows else "There has been no worker for a day; run `crumb-server worker`."
    Console(as_json, quiet).result(found, text, "\n".join(row.name for row in found if row.alive))


@group.command()
def jobs(
    state: Annotated[
        str | None, typer.Option("--state", metavar="S", help="queued, running, done, failed or cancelled.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="K", help="Like import, check or compose.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the jobs of all models, newest first."""
    with connect() as client:
        found = list(client.jobs(state=state, kind=kind, limit=limit))
    heads = ("id", "when", "kind", "state", "model", "about", "by", "worker", "error")
    text = table(heads, [_job(row) for row in found]) if found else "There are no such jobs."
    Console(as_json, quiet).result(found, text, "\n".join(f"{row.id} {row.state}" for row in found))


@group.command()
def quarantine(limit: Limit = 50, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the patches in quarantine, newest first."""
    with connect() as client:
        found = list(client.quarantined(limit=limit))
    rows = [
        (f"{row.model}#{row.number}", plain(row.author), plain(row.title)[:60], plain(row.quarantined or "")[:80])
        for row in found
    ]
    text = table(("patch", "by", "title", "why"), rows) if rows else "Nothing is in quarantine."
    Console(as_json, quiet).result(found, text, "\n".join(row[0] for row in rows))


@group.command()
def namespaces(
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="Only names holding this.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List what namespaces may hold and what they hold."""
    with connect() as client:
        found = list(client.namespaces(search=search, limit=limit))
    rows = [
        (row.name, row.kind, size(row.used_bytes), size(row.reserved_bytes), *_quota(row), str(row.open_uploads))
        for row in found
    ]
    heads = ("name", "kind", "used", "announced", "may hold", "may open", "open")
    text = table(heads, rows, right=(2, 3, 4, 5, 6)) if rows else "There are no such namespaces."
    Console(as_json, quiet).result(found, text, "\n".join(row.name for row in found))


@group.command()
def quota(
    name: Annotated[str, typer.Argument(metavar="NS", help="A user or an organisation.", show_default=False)],
    most: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="Most bytes, like 500GiB; or default, the server's.")
    ] = None,
    uploads: Annotated[
        str | None, typer.Option("--uploads", metavar="N", help="Most open uploads; or default, the server's.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show or set how much a namespace may hold.

    Without options it stays as it is.
    """
    asked = {"bytes": most, "uploads": uploads}
    given = {
        field: parse_size(None if text == "default" else text) for field, text in asked.items() if text is not None
    }
    with connect() as client:
        found = client.set_quota(name, **given)
    may_hold, may_open = _quota(found)
    pairs = [
        ("namespace", f"{found.name}, {'an organisation' if found.kind == 'organisation' else 'a user'}"),
        ("used", f"{size(found.used_bytes)} of {may_hold}"),
        ("announced", f"{size(found.reserved_bytes)}, {found.open_uploads} of {may_open} uploads open"),
    ]
    Console(as_json, quiet).result(found, fields(pairs), f"{found.quota_bytes} {found.quota_uploads}")


def _worker(row: "Worker") -> tuple[str, ...]:
    at = f"{row.job.kind} {row.job.model} {plain(row.job.subject)[:20]}, {row.job.progress:.0%}" if row.job else ""
    alive = "alive" if row.alive else "silent"
    return plain(row.name), alive, plain(row.device), _minute(row.started_at), _minute(row.seen_at), at


def _job(row: "AdminJob") -> tuple[str, ...]:
    state = f"running, {row.progress:.0%}" if row.state == "running" else row.state
    about, error = plain(row.subject)[:20], plain(row.error or "")[:80]
    return (
        row.id,
        _minute(row.created_at),
        row.kind,
        state,
        row.model,
        about,
        plain(row.user),
        plain(row.worker or ""),
        error,
    )


def _quota(row: "NamespaceUsage") -> tuple[str, str]:
    return (
        size(row.quota_bytes) + (" (default)" if row.own_bytes is None else ""),
        str(row.quota_uploads) + (" (default)" if row.own_uploads is None else ""),
    )


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {plain(state).replace('_', ' ')}" for state, number in numbers.items() if number) or "0"


def _minute(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M}"
