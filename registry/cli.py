"""crumb-server: serve | worker | migrate | token | user | namespace | check | gc."""

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
from registry.settings import Settings

if TYPE_CHECKING:
    from registry.db.session import Database
    from registry.worker.worker import Worker

app = typer.Typer(
    name="crumb-server",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Run a breadcrumb registry: database, blobs, HTTP API and the worker that composes models.",
    epilog="Every setting is also an environment variable REGISTRY_<NAME>; DATABASE_URL moves the database to "
    "PostgreSQL. Exit codes: 0 fine, 1 refused or something is wrong, 2 wrong usage.",
)
tokens = typer.Typer(no_args_is_help=True, help="Tokens of users.")
app.add_typer(tokens, name="token")
users = typer.Typer(no_args_is_help=True, help="Users: who may do anything at all.")
app.add_typer(users, name="user")
spaces = typer.Typer(no_args_is_help=True, help="Namespaces: how much they may hold.")
app.add_typer(spaces, name="namespace")

Data = Annotated[Path | None, typer.Option("--data", help="Folder of the registry.  [default: registry-data]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def settings_for(data: Path | None) -> Settings:
    """Return the settings, with the folder of the command line."""
    return Settings() if data is None else Settings(data=data)


def prepare(settings: Settings) -> None:
    """Create the data folder and bring the database to the newest migration."""
    from registry.db.session import migrate
    from registry.storage.store import Store

    settings.data.mkdir(parents=True, exist_ok=True)
    Store(settings.data).prepare()
    migrate(settings.database)


@contextmanager
def opened(settings: Settings) -> Iterator["Database"]:
    """Lend the database, and let go of its connections."""
    from registry.db.session import open_database

    database = open_database(settings.database)
    try:
        yield database
    finally:
        database.engine.dispose()


def make_worker(settings: Settings) -> "Worker":
    """Return a worker on the settings' database and store."""
    from registry.db.session import open_database
    from registry.storage.store import Store
    from registry.worker.worker import Worker

    return Worker(settings, open_database(settings.database), Store(settings.data))


@contextmanager
def courier_beside(settings: Settings, worker: "Worker") -> Iterator[None]:
    """Run a courier in a thread, on the worker's database, while the worker runs."""
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
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run a worker in this process too.")] = True,
) -> None:
    """Serve the HTTP API; migrations are applied at start."""
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
    """Run a worker: check patches, compose models. Any number may run, on any machine that shares the folder."""
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
    user: Annotated[str, typer.Argument(help="Name of the user; created when new.")],
    data: Data = None,
    admin: Annotated[bool, typer.Option("--admin", help="Make the user an admin of the registry.")] = False,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="read, push, review, release or admin; all of them if not said."),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What it is called in lists.")] = "",
    expires: Annotated[float, typer.Option(metavar="DAYS", help="Days until it expires.")] = 365,
    as_json: Json = False,
) -> None:
    """Create a token and print it, once: only its hash is kept."""
    from registry.services.people.rules import SCOPES
    from registry.services.people.tokens import create_token

    settings = settings_for(data)
    prepare(settings)
    with opened(settings) as database, database.write() as session:
        secret, token = create_token(
            session, user, admin=admin, expires_days=expires, scopes=scope or SCOPES, label=label
        )
        ends = token.expires_at.isoformat() if token.expires_at else None
    print(json.dumps({"user": user, "token": secret, "expires_at": ends}) if as_json else secret)


@tokens.command("revoke")
def token_revoke(
    prefix: Annotated[str, typer.Argument(help="The token, or its first 9 letters as `crumb whoami` shows them.")],
    data: Data = None,
) -> None:
    """Revoke a token at once."""
    from registry.services.people.tokens import revoke_token

    settings = settings_for(data)
    prepare(settings)
    with opened(settings) as database, database.write() as session:
        user = revoke_token(session, prefix)
    print(f"The token of {user} is revoked.")


@users.command("disable")
def user_disable(user: Annotated[str, typer.Argument(help="Name of the user.")], data: Data = None) -> None:
    """Keep a user out from the next request on; what they made stays."""
    set_active(user, data, active=False)


@users.command("enable")
def user_enable(user: Annotated[str, typer.Argument(help="Name of the user.")], data: Data = None) -> None:
    """Let a disabled user in again."""
    set_active(user, data, active=True)


def set_active(user: str, data: Path | None, *, active: bool) -> None:
    """Enable or disable a user, and say so."""
    from registry.services.people import namespaces

    settings = settings_for(data)
    prepare(settings)
    with opened(settings) as database, database.write() as session:
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
    """Show what a namespace may hold and what it holds; set that with --bytes and --uploads."""
    from dataclasses import asdict

    from registry.services.blobs import quotas
    from registry.services.people import namespaces

    settings = settings_for(data)
    given: dict[str, int | None] = {}
    if most is not None:
        given["quota_bytes"] = None if most == "default" else parse_size(most, "bytes")
    if uploads is not None:
        given["quota_uploads"] = None if uploads == "default" else parse_size(uploads, "uploads")
    prepare(settings)
    with opened(settings) as database, database.write() as session:
        if given:
            quotas.set_quota(session, name, given)
        space = namespaces.find(session, name)
        found = quotas.usage(session, space, settings.quota_bytes, settings.quota_uploads)
    if as_json:
        print(json.dumps({"namespace": name, **asdict(found)}))
    else:
        print(f"{name} uses {found.used_bytes} and reserves {found.reserved_bytes} of {found.quota_bytes} bytes.")
        print(f"{found.open_uploads} of {found.quota_uploads} uploads are open.")


def parse_size(text: str, field: str) -> int:
    """Return a number that may have a unit, like 500GiB.

    Raises:
        InvalidRequest: it is none.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from registry.errors import InvalidRequest

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise InvalidRequest(f"'{text}' is no size; write one like 500GiB.", field=field) from None


@app.command()
def gc(
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would go.")] = False,
    grace: Annotated[
        float | None,
        typer.Option(metavar="HOURS", min=0, help="How old what goes must be.  [default: REGISTRY_UPLOAD_HOURS]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Clear away expired uploads and bytes that nothing refers to; at any time, workers do so every ten minutes."""
    from dataclasses import asdict
    from datetime import timedelta

    from registry.db.session import require_head
    from registry.services.blobs import garbage
    from registry.storage.bucket import open_bucket
    from registry.storage.store import Store

    settings = settings_for(data)
    hours = settings.upload_hours if grace is None else grace
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    with opened(settings) as database:
        require_head(database, settings.database)
        found = garbage.run(database, Store(settings.data), timedelta(hours=hours), dry=dry_run, bucket=bucket)
    lines = [
        (found.uploads, "uploads expired"),
        (found.staged, "staged files removed"),
        (found.orphans, "files without a row given one"),
        (found.doomed, "blobs doomed"),
        (found.deleted, "blobs deleted"),
        (found.strays, "objects without a row deleted from the bucket"),
    ]
    if as_json:
        print(json.dumps({"dry_run": dry_run, **asdict(found)}))
    else:
        for amount, what in lines if bucket else lines[:-1]:
            print(f"{amount.count} {what} ({amount.bytes} bytes)")
        if bucket:
            print(f"{found.lost} blobs that the bucket has lost to be copied again")
        if dry_run:
            print("Nothing was changed: this is what would happen.")
    if found.problem:
        print(f"crumb-server: {found.problem}", file=sys.stderr)
        raise SystemExit(1)


@app.command()
def check(data: Data = None, as_json: Json = False) -> None:
    """Check that every blob is there and hashes right, that each has a row, and that the audit log is unbroken.

    With a bucket, what it should have is asked for, too.
    """
    from registry.db.audit import check_chain
    from registry.db.session import require_head
    from registry.services.blobs.blobs import check as check_blobs
    from registry.services.blobs.bucket_copies import check as check_bucket
    from registry.storage.bucket import open_bucket
    from registry.storage.store import Store

    settings = settings_for(data)
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    with opened(settings) as database:
        require_head(database, settings.database)
        with database.read() as session:
            problems = list(check_chain(session))
        problems += check_blobs(database, Store(settings.data))
        problems += check_bucket(database, bucket) if bucket else ()
    if as_json:
        print(json.dumps({"ok": not problems, "problems": problems}))
    else:
        print("\n".join(problems) or "Every blob is there, hashes right, and has a row; the audit log is unbroken.")
    raise SystemExit(1 if problems else 0)


@app.command()
def version() -> None:
    """Print the version."""
    print(registry.version())


def main() -> None:
    """Run the command; an error is one sentence and exit code 1."""
    try:
        app()
    except BreadcrumbError as error:
        print(f"crumb-server: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(f"crumb-server: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        raise SystemExit(1) from None
