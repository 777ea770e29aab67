"""mirror: following another registry, and taking its place."""

import json
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from registry.cli.common import ConfigFile, Data, Json, claim, open_own, prepare, settings_for
from registry.errors import BreadcrumbError, WrongState

if TYPE_CHECKING:
    from registry.outside.primary import Primary
    from registry.settings import Settings

ADDRESS = "://"


class Group(TyperGroup):
    """Commands of which `follow` may be left out before an address."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names, or `follow` for an address."""
        return super().resolve_command(ctx, self.spell_out(args))

    @staticmethod
    def spell_out(args: list[str]) -> list[str]:
        """Return arguments with the command that was left out."""
        return ["follow", *args] if args and ADDRESS in args[0] else args


mirror = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Follow another registry, serve what it has, and take its place: mirror URL [NS/NAME...], status, promote.",
)


def primary_at(settings: "Settings", url: str) -> "Primary":
    """Return the registry at an address, with the token of the settings."""
    from registry.outside.primary import Primary

    return Primary(url, settings.mirror_token.get_secret_value() if settings.mirror_token else None)


@mirror.command()
def follow(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the registry that is followed.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NS/NAME]...", help="Only these models.")] = None,
    data: Data = None,
    config: ConfigFile = None,
) -> None:
    """Follow a registry, until stopped: have here what it has, verified, and keep up with its changes.

    `crumb-server mirror URL` is the same. Run `crumb-server serve` beside it, on the same data: it serves what is here,
    and refuses to change it. REGISTRY_MIRROR_TOKEN gives access to private models. Interrupted, it goes on.
    """
    from registry.logs import configure_logs
    from registry.sandboxes.sandbox import warm_up
    from registry.worker.mirror.follower import LOCK, Follower

    settings = settings_for(data, config)
    configure_logs(settings.log_format)
    primary = primary_at(settings, url)
    prepare(settings, own=True)
    claim(settings)
    with open_own(settings) as (database, store, _), store.holding(LOCK) as alone:
        if not alone:
            raise WrongState("Another `crumb-server mirror` is following for this registry; stop it first.")
        follower = Follower(settings, database, store, primary, names or ())
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: follower.stop())
        warm_up()
        follower.begin()
        print(f"Following {primary.url}", flush=True)
        follower.run()


@mirror.command()
def status(data: Data = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show which registry is followed, how far, and what is wrong. The exit code is 1 if something is."""
    from registry.services.mirroring import mirrors

    settings = settings_for(data, config)
    with open_own(settings) as (database, _, _), database.read() as session:
        found = mirrors.status(session)
        left = [] if found else mirrors.unfinished(session)
    if as_json:
        print(json.dumps(found))
    elif found is None:
        print("\n".join(["This registry follows no other one.", *mirrors.tell_unfinished(left)]))
    else:
        print(mirrors.tell(found))
    raise SystemExit(1 if found and (found["problem"] or found["problems"]) else 0)


@mirror.command()
def promote(
    data: Data = None,
    config: ConfigFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go without what may be missing, as when the primary is gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make this registry a primary: what was mirrored can be changed here from now on, and nothing is followed.

    Stop `crumb-server mirror` first, and writing at the primary. Unless everything is here, this is refused. Models of
    which not all is here are kept as they are, and named.
    """
    from registry.services.mirroring import mirrors
    from registry.worker.mirror import reading
    from registry.worker.mirror.follower import LOCK, require_same

    settings = settings_for(data, config)
    with open_own(settings) as (database, store, _), store.holding(LOCK) as alone:
        if not alone:
            raise WrongState("`crumb-server mirror` is following; stop it first.")
        with database.read() as session:
            known = mirrors.find(session)
        current = False
        if known is not None and not force:
            try:
                head = reading.head(primary_at(settings, known.url), known.cursor or 0)
            except BreadcrumbError as why:
                raise WrongState(
                    f"Whether all is here cannot be known: {why} Give --force to go on with the "
                    f"{known.cursor or 0} events that are here."
                ) from None
            require_same(known, head)
            current = known.cursor is not None and known.cursor >= head.serial
            with database.write() as session:
                mirrors.note(session, head.serial, known.problem, stopped=known.stopped)
        with database.write() as session:
            told = mirrors.promote(session, current=current, force=force)
    if as_json:
        print(json.dumps(told))
        return
    far = "nothing for certain" if told["serial"] is None else f"all up to the event {told['serial']} of its log"
    print(f"This registry no longer follows {told['url']}; it has {far}.")
    if told["incomplete"]:
        print(
            f"Not all is here of {', '.join(told['incomplete'])}. What is here of them was verified; those that were "
            "never complete are private (`crumb-server mirror status` lists them)."
        )
    print("Give its people tokens: crumb-server token create NAME")


@mirror.command()
def anew(data: Data = None, config: ConfigFile = None) -> None:
    """Take everything over once more, from a primary whose past is another one now; ask its operator why first.

    Models that differ in what never changes are refused as before; models and files that are the same stay.
    """
    from registry.services.mirroring import mirrors
    from registry.worker.mirror.follower import LOCK

    settings = settings_for(data, config)
    with open_own(settings) as (database, store, _), store.holding(LOCK) as alone:
        if not alone:
            raise WrongState("`crumb-server mirror` is following; stop it first.")
        with database.write() as session:
            found = mirrors.restart(session)
    print(f"Everything is taken over once more: crumb-server mirror {found.url}")
