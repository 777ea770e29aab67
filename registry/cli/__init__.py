"""The command `crumb-server`: serve, worker, migrate, config, token, user, namespace, check, gc, backup, restore, …"""

import os
import sys

import typer

import registry
from registry.cli import keeping, mirroring, people, running, showing, storing
from registry.errors import BreadcrumbError
from registry.extras import naming_extras

UMASK = 0o077  # REGISTRY_UMASK may let the group in

app = typer.Typer(
    name="crumb-server",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run a breadcrumb registry: database, blobs, HTTP API, and the worker that composes models.",
    epilog="Every setting is an environment variable REGISTRY_<NAME>, or a line of a TOML file (--config); "
    "DATABASE_URL moves the database to PostgreSQL. "
    "Exit codes: 0 success, 1 refused or a problem was found, 2 wrong usage.",
)
for _command in (
    running.serve,
    running.worker,
    running.migrate,
    showing.config,
    keeping.gc,
    keeping.check,
    keeping.backup,
    keeping.restore,
):
    app.command()(_command)
for _name, _group in (
    ("token", people.tokens),
    ("user", people.users),
    ("namespace", people.spaces),
    ("storage", storing.storage),
    ("mirror", mirroring.mirror),
):
    app.add_typer(_group, name=_name)


@app.command()
def version() -> None:
    """Print the version."""
    print(registry.version())


def main() -> None:
    """Run the command; an error is printed as one sentence, and the exit code is 1."""
    os.umask(UMASK)
    try:
        with naming_extras():
            app()
    except BreadcrumbError as error:
        print(f"crumb-server: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(f"crumb-server: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        raise SystemExit(1) from None
