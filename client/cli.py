"""`crumb`: the command, joined from client/commands; turns every error into one sentence and an exit code."""

import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands import integrations, models, overview
from client.commands.composing import conflicts, deltas, evals, following, local, pulls, recipes, trials, tuning
from client.commands.curation import cards, patches, reviews
from client.commands.operating import admin, operations, policies
from client.commands.options import Json, Quiet
from client.commands.people import account, joining, keys, mail, news, people, publishers, sessions
from client.commands.releasing import channels, publishing, releases
from client.terminal.console import plain

ENDED = 143  # exit code after SIGTERM
EPILOG = """\
Environment: CRUMB_URL and CRUMB_TOKEN override `crumb login`; a COMMAND does not get CRUMB_TOKEN;
CRUMB_HOME is the folder of logins and cache;
CRUMB_DRAFT_DAYS (14) is for how long the cache keeps patches of pushes that did not end;
HF_HUB_OFFLINE=1 keeps Hub ids to the local cache; CRUMB_DEBUG=1 shows tracebacks, HTTP calls and retries.

Exit codes: 0 done; 1 refused or failed, with one sentence on stderr; 2 wrong usage; 3 bytes or weights do not match
their digest; 130 interrupted; 143 terminated.
"""


class Panels(typer.core.TyperGroup):
    """The commands of `crumb --help`, under the head of their panel, and in the order in which they were added."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the panels."""
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        width = max(len(name) for name, _ in commands)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in commands:
            short = command.get_short_help_str(formatter.width - 6 - width)
            panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, short))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), short) for name, short in rows])


app = typer.Typer(
    name="crumb",
    cls=Panels,
    help="Sparse patches of fine-tuned models: make them, push them, compose any subset, pull the merged model.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from client import __version__

        print(f"crumb {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Sparse patches of fine-tuned models: make them, push them, compose any subset, pull the merged model."""


def demo(
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Keep everything in this folder.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See everything work in a minute, on this machine alone.

    Starts a registry, trains a small model and fine-tunes it on six tasks, pushes the patches, tunes how they are
    composed on validation data, pulls and verifies the models, and shows the accuracy of each on test data, beside that
    of the average and the plain sum of whole models. Writes a picture, crumb-demo.svg, to the current folder or to DIR.
    """
    from client.demo.run import run_demo

    run_demo(keep, as_json, quiet)


_PANELS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Patches and models here": (local.diff, local.show, local.apply, local.digest, overview.status),
    "Contribute": (patches.push, reviews.propose, reviews.withdraw, patches.log),
    "Use": (
        models.search,
        models.group,
        pulls.pull,
        pulls.verify,
        deltas.delta,
        deltas.apply_delta,
        following.follow,
        overview.browse,
    ),
    "Compose and compare": (
        patches.compose,
        conflicts.conflicts,
        recipes.group,
        evals.evals,
        trials.bisect,
        trials.loo,
        trials.blame,
        tuning.tune,
    ),
    "Review": (
        reviews.inbox,
        news.news,
        news.watch,
        reviews.review,
        reviews.comment,
        reviews.accept,
        reviews.reject,
        reviews.yank,
        reviews.unyank,
        cards.group,
        admin.report,
    ),
    "Release": (releases.group, channels.group, publishing.publish, keys.group),
    "Account and people": (
        joining.join,
        account.login,
        account.logout,
        account.whoami,
        joining.profile,
        people.tokens,
        sessions.group,
        mail.group,
        people.organisations,
        people.members,
        publishers.group,
    ),
    "Operate": (
        operations.webhooks,
        integrations.group,
        operations.changes,
        operations.audit,
        reviews.quarantine,
        admin.group,
    ),
    "This installation": (overview.doctor, demo),
}
admin.group.add_typer(joining.group)
for _command in (policies.policy, policies.settings):
    admin.group.command()(_command)
for _panel, _members in _PANELS.items():
    for _member in _members:
        if isinstance(_member, typer.Typer):
            app.add_typer(_member, rich_help_panel=_panel)
        elif _member in (tuning.tune, following.follow):
            app.command(cls=tuning.RunsCommand, rich_help_panel=_panel)(_member)
        else:
            app.command(rich_help_panel=_panel)(_member)


def main() -> None:
    """Run `crumb` and exit with its code."""
    if _debug():
        _log_calls()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a title in Chinese on an ASCII terminal is no error
    signal.signal(signal.SIGTERM, _end)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        if end.code != ENDED:
            raise
        code = ENDED
    if code in (130, ENDED):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # no second Ctrl-C in the middle of leaving
        sys.stdout.flush()
        os._exit(code)  # threads may still wait for a socket; nothing they hold needs them to end
    sys.exit(code)


def _end(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(ENDED)  # which removes every temporary folder on its way out


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; exceptions leave here only with CRUMB_DEBUG."""
    from registry.errors import BreadcrumbError, DigestMismatch
    from registry.extras import naming_extras

    try:
        with naming_extras():
            code = _commands()(arguments, prog_name="crumb", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        code = 130
    except BrokenPipeError:  # `crumb log | head`
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 1
    except BreadcrumbError as error:
        if _debug():
            raise
        return _fail(str(error), pulls.MISMATCH if isinstance(error, DigestMismatch) else 1)
    except Exception as error:
        # Typer carries its own copy of click, and with it the only exceptions that know how to show themselves.
        if hasattr(error, "format_message"):
            return _usage(error)
        if _debug():
            raise
        words = "not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        return _fail(f"crumb failed unexpectedly ({words}); CRUMB_DEBUG=1 shows where.", 1)
    if code == 130:
        print("Interrupted; run the same command to resume.", file=sys.stderr)
    return code if isinstance(code, int) else 0


@cache
def _commands() -> Callable[..., Any]:
    """Return the commands as Typer works them out, once for a process."""
    return typer.main.get_command(app)


def _usage(error: Exception) -> int:
    message = plain(getattr(error, "format_message")())  # noqa: B009
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(getattr(error, "format_message")())  # noqa: B009
        return 2
    path = context.command_path if context is not None else "crumb"
    end = "" if message.endswith(("?", "!")) else "."
    return _fail(f"{message.rstrip('.')}{end} See `{path} --help`.", getattr(error, "exit_code", 2))


def _fail(message: str, code: int) -> int:
    print(f"crumb: {plain(message)}", file=sys.stderr)
    return code


def _debug() -> bool:
    return bool(os.environ.get("CRUMB_DEBUG"))


def _log_calls() -> None:
    """Print the debug lines of this program's HTTP calls to stderr; other libraries' lines may hold secrets."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("client")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
