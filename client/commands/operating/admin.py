"""report; admin summary, reports, close, workers, jobs, quarantine, namespaces, quota, …: running a registry."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Limit, Quiet, connect, parse_size
from client.terminal.console import Console, fields, plain, size, table

if TYPE_CHECKING:
    from registry.schemas import AdminJob, NamespaceUsage, Worker

group = typer.Typer(
    name="admin",
    help="For admins of the registry: reports, jobs, workers, quotas.",
    no_args_is_help=True,
    rich_markup_mode=None,
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
    """Report a model or a patch to the admins of the registry.

    Only they see the report and who sent it. Reporting the same again, while the report is open, changes it.
    """
    from client.terminal.addresses import parse_subject

    model, number = parse_subject(subject)
    with connect() as client:
        done = client.report(model, reason, message, number)
    Console(as_json, quiet).result(done, f"Reported {subject} to the admins of the registry.", done.id)


@group.command()
def summary(as_json: Json = False, quiet: Quiet = False) -> None:
    """Count users, models, patches, blobs, jobs and open reports."""
    with connect() as client:
        numbers = client.summary()
    pairs = [
        ("users", str(numbers.users)),
        ("models", str(numbers.models)),
        ("patches", _counts(numbers.patches)),
        ("blobs", f"{numbers.blobs}, {size(numbers.blob_bytes)}"),
        ("damaged blobs", str(numbers.damaged_blobs)),
        ("jobs", _counts(numbers.jobs)),
        ("jobs for no worker", _counts(numbers.unclaimable_jobs)),
        ("open reports", str(numbers.open_reports)),
    ]
    Console(as_json, quiet).result(numbers, fields(pairs), str(numbers.open_reports))


@group.command()
def reports(
    closed: Annotated[bool, typer.Option("--closed", help="List closed reports.")] = False,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List reports, newest first."""
    with connect() as client:
        listed = list(client.reports(is_open=not closed, limit=limit))
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
        for row in listed
    ]
    heads = ("id", "when", "about", "reason", "by", "message", "answer")
    text = table(heads, rows) if rows else f"There are no {'closed' if closed else 'open'} reports."
    Console(as_json, quiet).result(listed, text, "\n".join(row.id for row in listed))


@group.command()
def close(
    report: Annotated[str, typer.Argument(metavar="ID", help="The report's id.", show_default=False)],
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Your answer.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Close a report."""
    with connect() as client:
        done = client.close_report(report, message)
    Console(as_json, quiet).result(done, f"Closed {done.id}.", done.id)


@group.command()
def workers(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the workers of the last day, and their jobs."""
    with connect() as client:
        listed = client.workers()
    rows = [_worker(row) for row in listed]
    heads = ("name", "is", "device", "takes", "started", "seen", "at")
    text = table(heads, rows) if rows else "There has been no worker for a day; run `crumb-server worker`."
    Console(as_json, quiet).result(listed, text, "\n".join(row.name for row in listed if row.alive))


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
        listed = list(client.jobs(state=state, kind=kind, limit=limit))
    heads = ("id", "when", "kind", "state", "model", "about", "by", "worker", "error")
    text = table(heads, [_job(row) for row in listed]) if listed else "There are no such jobs."
    Console(as_json, quiet).result(listed, text, "\n".join(f"{row.id} {row.state}" for row in listed))


@group.command()
def quarantine(limit: Limit = 50, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the patches in quarantine, newest first."""
    with connect() as client:
        patches = list(client.quarantined(limit=limit))
    rows = [
        (f"{row.model}#{row.number}", plain(row.author), plain(row.title)[:60], plain(row.quarantined or "")[:80])
        for row in patches
    ]
    text = table(("patch", "by", "title", "why"), rows) if rows else "Nothing is in quarantine."
    Console(as_json, quiet).result(patches, text, "\n".join(row[0] for row in rows))


@group.command()
def namespaces(
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only names that contain this.")
    ] = None,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the quotas of namespaces, and what they use."""
    with connect() as client:
        listed = list(client.namespaces(search=search, limit=limit))
    rows = [
        (row.name, row.kind, size(row.used_bytes), size(row.reserved_bytes), *_quota(row), str(row.open_uploads))
        for row in listed
    ]
    heads = ("name", "kind", "used", "announced", "may hold", "may open", "open")
    text = table(heads, rows, right=(2, 3, 4, 5, 6)) if rows else "There are no such namespaces."
    Console(as_json, quiet).result(listed, text, "\n".join(row.name for row in listed))


@group.command()
def quota(
    name: Annotated[str, typer.Argument(metavar="NS", help="A user or an organisation.", show_default=False)],
    most: Annotated[
        str | None,
        typer.Option("--bytes", metavar="SIZE", help="Most bytes, like 500GiB; default for that of the server."),
    ] = None,
    uploads: Annotated[
        str | None, typer.Option("--uploads", metavar="N", help="Most open uploads; default for that of the server.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show or set the quota of a namespace.

    Without options nothing changes.
    """
    options = {"bytes": most, "uploads": uploads}
    quotas = {
        field: parse_size(None if text == "default" else text) for field, text in options.items() if text is not None
    }
    with connect() as client:
        usage = client.set_quota(name, **quotas)
    may_hold, may_open = _quota(usage)
    pairs = [
        ("namespace", f"{usage.name}, {'an organisation' if usage.kind == 'organisation' else 'a user'}"),
        ("used", f"{size(usage.used_bytes)} of {may_hold}"),
        ("announced", f"{size(usage.reserved_bytes)}, {usage.open_uploads} of {may_open} uploads open"),
    ]
    Console(as_json, quiet).result(usage, fields(pairs), f"{usage.quota_bytes} {usage.quota_uploads}")


def _worker(row: "Worker") -> tuple[str, ...]:
    at = f"{row.job.kind} {row.job.model} {plain(row.job.subject)[:20]}, {row.job.progress:.0%}" if row.job else ""
    alive = "alive" if row.alive else "silent"
    takes = " ".join(row.kinds or ["all"]) + ("" if row.most_bytes is None else f" to {size(row.most_bytes)}")
    return plain(row.name), alive, plain(row.device), takes, _minute(row.started_at), _minute(row.seen_at), at


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
