"""crumb-server: serve | worker | migrate | token | check."""

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import registry
from registry.errors import BreadcrumbError
from registry.settings import Settings

if TYPE_CHECKING:
    from registry.worker import Worker

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

Data = Annotated[Path | None, typer.Option("--data", help="Folder of the registry.  [default: registry-data]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def settings_for(data: Path | None) -> Settings:
    """Return the settings, with the folder of the command line."""
    return Settings() if data is None else Settings(data=data)


def prepare(settings: Settings) -> None:
    """Create the data folder and bring the database to the newest migration."""
    from registry.db.session import migrate
    from registry.store import Store

    settings.data.mkdir(parents=True, exist_ok=True)
    Store(settings.data).prepare()
    migrate(settings.database)


def make_worker(settings: Settings) -> "Worker":
    """Return a worker on the settings' database and store."""
    from registry.db.session import open_database
    from registry.store import Store
    from registry.worker import Worker

    return Worker(settings, open_database(settings.database), Store(settings.data))


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
    from registry.server.serving import make_server, run_beside

    settings = settings_for(data)
    configure_logs(settings.log_format)
    prepare(settings)
    server = make_server(
        create_app(settings), host, port, settings.header_seconds, lambda url: print(f"Listening on {url}", flush=True)
    )
    if worker:
        beside = make_worker(settings)
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
    admin: Annotated[bool, typer.Option("--admin", help="Let the token do everything.")] = False,
    expires: Annotated[float, typer.Option(metavar="DAYS", help="Days until it expires.")] = 365,
    as_json: Json = False,
) -> None:
    """Create a token and print it, once: only its hash is kept."""
    from registry.db.session import open_database
    from registry.services.actors import create_token

    settings = settings_for(data)
    prepare(settings)
    with open_database(settings.database).write() as session:
        secret, token = create_token(session, user, admin=admin, expires_days=expires)
        ends = token.expires_at.isoformat() if token.expires_at else None
    print(json.dumps({"user": user, "token": secret, "expires_at": ends}) if as_json else secret)


@tokens.command("revoke")
def token_revoke(
    prefix: Annotated[str, typer.Argument(help="The token, or its first 9 letters as `crumb whoami` shows them.")],
    data: Data = None,
) -> None:
    """Revoke a token at once."""
    from registry.db.session import open_database
    from registry.services.actors import revoke_token

    settings = settings_for(data)
    prepare(settings)
    with open_database(settings.database).write() as session:
        user = revoke_token(session, prefix)
    print(f"The token of {user} is revoked.")


@app.command()
def check(data: Data = None, as_json: Json = False) -> None:
    """Check that every row's blob is there and hashes right, and that every blob has a row."""
    from registry.db.session import open_database, require_head
    from registry.services.blobs import check as check_blobs
    from registry.store import Store

    settings = settings_for(data)
    database = open_database(settings.database)
    require_head(database, settings.database)
    problems = list(check_blobs(database, Store(settings.data)))
    if as_json:
        print(json.dumps({"ok": not problems, "problems": problems}))
    else:
        print("\n".join(problems) or "Every blob is there, hashes right, and has a row.")
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
