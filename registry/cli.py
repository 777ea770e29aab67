"""The command `crumb-server`: serve | worker | migrate | token | user | namespace | check | gc."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import registry
from registry.errors import BreadcrumbError
from registry.extras import naming_extras

if TYPE_CHECKING:
    from registry.db.session import Database
    from registry.settings import Settings
    from registry.worker.worker import Worker

app = typer.Typer(
    name="crumb-server",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Run a breadcrumb registry: database, blobs, HTTP API, and the worker that composes models.",
    epilog="Every setting is an environment variable REGISTRY_<NAME>; DATABASE_URL moves the database to PostgreSQL. "
    "Exit codes: 0 success, 1 refused or a problem was found, 2 wrong usage.",
)
tokens = typer.Typer(no_args_is_help=True, help="Create and revoke tokens of users.")
app.add_typer(tokens, name="token")
users = typer.Typer(no_args_is_help=True, help="Disable and enable users.")
app.add_typer(users, name="user")
spaces = typer.Typer(no_args_is_help=True, help="Show and set the quotas of namespaces.")
app.add_typer(spaces, name="namespace")

Data = Annotated[Path | None, typer.Option("--data", help="Folder of the registry.  [default: registry-data]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def settings_for(data: Path | None) -> "Settings":
    """Return the settings, with the data folder of the command line if it is given."""
    from registry.settings import Settings

    return Settings() if data is None else Settings(data=data)


def prepare(settings: "Settings") -> None:
    """Create the data folder and bring the database to the newest migration."""
    from registry.db.session import migrate
    from registry.storage.store import Store

    settings.data.mkdir(parents=True, exist_ok=True)
    Store(settings.data).prepare()
    migrate(settings.database)


@contextmanager
def open_for(settings: "Settings") -> Iterator["Database"]:
    """Open the database, and close its connections afterwards."""
    from registry.db.session import open_database

    database = open_database(settings.database)
    try:
        yield database
    finally:
        database.engine.dispose()


def make_worker(settings: "Settings") -> "Worker":
    """Return a worker on the settings' database and store."""
    from registry.db.session import open_database
    from registry.storage.store import Store
    from registry.worker.worker import Worker

    return Worker(settings, open_database(settings.database), Store(settings.data))


@contextmanager
def courier_beside(settings: "Settings", worker: "Worker") -> Iterator[None]:
    """Run a courier, which delivers webhooks, in a thread beside a worker."""
    from registry.worker.courier import Courier

    courier = Courier(settings, worker.database)
    thread = threading.Thread(target=courier.run, name="courier")
    thread.start()
    try:
        yield
    finally:
        courier.stopping.set()
        thread.join()


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run a worker in this process too.")] = True,
) -> None:
    """Serve the HTTP API and the web pages; migrations are applied at start."""
    from registry.logs import configure_logs
    from registry.server.app import create_app
    from registry.server.edge.serving import make_server, run_beside

    settings = settings_for(data)
    configure_logs(settings.log_format)
    prepare(settings)
    server = make_server(
        create_app(settings), host, port, settings.header_seconds, lambda url: print(f"Listening on {url}", flush=True)
    )
    if worker:
        beside = make_worker(settings)
        with courier_beside(settings, beside):
            run_beside(beside.run, beside.stopping.set, server)
    else:
        server.run()
    if not server.started:
        raise SystemExit(1)


@app.command()
def worker(data: Data = None) -> None:
    """Run a worker: check patches and compose models. Any number may run, on any machine that shares the folder."""
    from registry.logs import configure_logs

    settings = settings_for(data)
    configure_logs(settings.log_format)
    prepare(settings)
    runner = make_worker(settings)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: runner.stopping.set())
    with courier_beside(settings, runner):
        runner.run()


@app.command()
def migrate(data: Data = None) -> None:
    """Bring the database to the newest migration."""
    settings = settings_for(data)
    prepare(settings)
    print("The database is at the newest migration.")


@tokens.command("create")
def token_create(
    user: Annotated[str, typer.Argument(help="Name of the user, who is created if new.")],
    data: Data = None,
    admin: Annotated[bool, typer.Option("--admin", help="Make the user an admin of the registry.")] = False,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", metavar="S", help="read, push, review, release or admin; may be repeated.  [default: all]"
        ),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Label of the token in lists.")] = "",
    expires: Annotated[float, typer.Option(metavar="DAYS", help="Days until it expires.")] = 365,
    as_json: Json = False,
) -> None:
    """Create a token and print it. It is shown only once: the registry keeps only its hash."""
    from registry.services.people.rules import SCOPES
    from registry.services.people.tokens import create_token

    settings = settings_for(data)
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        secret, token = create_token(
            session, user, admin=admin, expires_days=expires, scopes=scope or SCOPES, label=label
        )
        ends = token.expires_at.isoformat() if token.expires_at else None
    print(json.dumps({"user": user, "token": secret, "expires_at": ends}) if as_json else secret)


@tokens.command("revoke")
def token_revoke(
    prefix: Annotated[str, typer.Argument(help="The token, or its first 9 characters as `crumb whoami` shows them.")],
    data: Data = None,
) -> None:
    """Revoke a token at once."""
    from registry.services.people.tokens import revoke_token

    settings = settings_for(data)
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        user = revoke_token(session, prefix)
    print(f"The token of {user} is revoked.")


@users.command("disable")
def user_disable(user: Annotated[str, typer.Argument(help="Name of the user.")], data: Data = None) -> None:
    """Disable a user from their next request on; what they made stays."""
    set_active(user, data, active=False)


@users.command("enable")
def user_enable(user: Annotated[str, typer.Argument(help="Name of the user.")], data: Data = None) -> None:
    """Enable a disabled user again."""
    set_active(user, data, active=True)


def set_active(user: str, data: Path | None, *, active: bool) -> None:
    """Enable or disable a user, and print the result."""
    from registry.services.people import namespaces

    settings = settings_for(data)
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        changed = namespaces.set_active(session, user, active)
    print(f"{user} is {'now' if changed else 'already'} {'enabled' if active else 'disabled'}.")


@spaces.command("quota")
def namespace_quota(
    name: Annotated[str, typer.Argument(help="A user or an organisation.")],
    data: Data = None,
    most: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="Most bytes, like 500GiB; 'default' for the server's.")
    ] = None,
    uploads: Annotated[
        str | None, typer.Option("--uploads", metavar="N", help="Most open uploads; 'default' for the server's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the quotas of a namespace and how much is used; set them with --bytes and --uploads."""
    from dataclasses import asdict

    from registry.services.blobs import quotas
    from registry.services.people import namespaces

    settings = settings_for(data)
    quota: dict[str, int | None] = {}
    if most is not None:
        quota["quota_bytes"] = None if most == "default" else parse_size(most, "bytes")
    if uploads is not None:
        quota["quota_uploads"] = None if uploads == "default" else parse_size(uploads, "uploads")
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        if quota:
            quotas.set_quota(session, name, quota)
        space = namespaces.find(session, name)
        usage = quotas.usage(session, space, settings.quota_bytes, settings.quota_uploads)
    if as_json:
        print(json.dumps({"namespace": name, **asdict(usage)}))
    else:
        print(f"{name} uses {usage.used_bytes} and reserves {usage.reserved_bytes} of {usage.quota_bytes} bytes.")
        print(f"{usage.open_uploads} of {usage.quota_uploads} uploads are open.")


def parse_size(text: str, field: str) -> int:
    """Return a number that may have a unit, like 500GiB.

    Raises:
        InvalidRequest: The text is not a number.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from registry.errors import InvalidRequest

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise InvalidRequest(f"'{text}' is not a size; write one like 500GiB.", field=field) from None


@app.command()
def gc(
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would be removed.")] = False,
    grace: Annotated[
        float | None,
        typer.Option(metavar="HOURS", min=0, help="Least age of what is removed.  [default: REGISTRY_UPLOAD_HOURS]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove expired uploads and bytes that nothing refers to. Safe at any time; workers do this every ten minutes."""
    from dataclasses import asdict
    from datetime import timedelta

    from registry.db.session import require_head
    from registry.services.blobs import garbage
    from registry.storage.bucket import open_bucket
    from registry.storage.store import Store

    settings = settings_for(data)
    hours = settings.upload_hours if grace is None else grace
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    with open_for(settings) as database:
        require_head(database, settings.database)
        collected = garbage.run(database, Store(settings.data), timedelta(hours=hours), dry=dry_run, bucket=bucket)
    lines = [
        (collected.uploads, "uploads expired"),
        (collected.staged, "staged files removed"),
        (collected.orphans, "files without a row were given one"),
        (collected.doomed, "blobs doomed"),
        (collected.deleted, "blobs deleted"),
        (collected.strays, "objects without a row deleted from the bucket"),
    ]
    if as_json:
        print(json.dumps({"dry_run": dry_run, **asdict(collected)}))
    else:
        for amount, label in lines if bucket else lines[:-1]:
            print(f"{amount.count} {label} ({amount.bytes} bytes)")
        if bucket:
            print(f"{collected.lost} blobs that the bucket has lost will be copied again")
        if dry_run:
            print("Nothing was changed: this is what would happen.")
    if collected.problem:
        print(f"crumb-server: {collected.problem}", file=sys.stderr)
        raise SystemExit(1)


@app.command()
def check(data: Data = None, as_json: Json = False) -> None:
    """Check that every blob exists, hashes right and has a row, and that the audit log is unbroken.

    With a bucket, also check that it has the blobs that it should have.
    """
    from registry.db.audit import check_chain
    from registry.db.session import require_head
    from registry.services.blobs.blobs import check as check_blobs
    from registry.services.blobs.bucket_copies import check as check_bucket
    from registry.storage.bucket import open_bucket
    from registry.storage.store import Store

    settings = settings_for(data)
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    with open_for(settings) as database:
        require_head(database, settings.database)
        with database.read() as session:
            problems = list(check_chain(session))
        problems += check_blobs(database, Store(settings.data))
        problems += check_bucket(database, bucket) if bucket else ()
    if as_json:
        print(json.dumps({"ok": not problems, "problems": problems}))
    else:
        print("\n".join(problems) or "Every blob exists, hashes right and has a row; the audit log is unbroken.")
    raise SystemExit(1 if problems else 0)


@app.command()
def version() -> None:
    """Print the version."""
    print(registry.version())


def main() -> None:
    """Run the command; an error is printed as one sentence, and the exit code is 1."""
    try:
        with naming_extras():
            app()
    except BreadcrumbError as error:
        print(f"crumb-server: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(f"crumb-server: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        raise SystemExit(1) from None
