"""storage move: where a registry keeps its blobs."""

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from registry.cli.common import ConfigFile, Data, Json, open_for, settings_for
from registry.errors import WrongState

storage = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Where a registry keeps its blobs.")


@storage.callback()
def group() -> None:
    """Keep `move` a command of its own, since one alone would take the name of the group."""


class Place(StrEnum):
    """Where blobs may be kept."""

    DISK = "disk"
    BUCKET = "bucket"


@storage.command()
def move(
    to: Annotated[Place, typer.Argument(metavar="disk|bucket", help="Where the blobs are to be kept.")],
    data: Data = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Copy all blobs from disk to REGISTRY_BUCKET or back, while the registry works, and keep them there from then on.

    Every blob is verified on the way. Run it again if it was interrupted: it goes on. Afterwards, restart all servers
    and workers with the other REGISTRY_STORE; until then they read, and store nothing. The old place keeps what it has.
    """
    from registry.db.session import require_head
    from registry.services.blobs import places, stores
    from registry.services.operating import identity, moving
    from registry.storage.bucket import open_bucket

    settings = settings_for(data, config)
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    with open_for(settings) as database:
        require_head(database, settings.database)
        there = {
            kind: stores.open_store(database, **{**settings.storage, "kind": kind}, bucket=bucket)
            for kind in ("disk", "bucket")
        }
        source, target = there["bucket" if to == "disk" else "disk"], there[to.value]
        with database.read() as session:
            kept = places.kept_in(session)
        if kept == target.kind:
            raise WrongState(f"The blobs are kept in {target.where} already; set REGISTRY_STORE to {to.value}.")
        own = identity.require_own(database, source)
        if own is None:
            raise WrongState("This registry was never served; set REGISTRY_STORE, and run `crumb-server serve`.")
        if to == "bucket" and bucket is not None:
            identity.require_not_foreign(database, bucket)
        target.prepare()
        target.own(own)
        placed = moving.move(database, source, target)
        target.own(own)  # a server that was started meanwhile took the mark from its cache
    if as_json:
        print(json.dumps({"ok": not placed.problems, "to": to.value, **asdict(placed)}))
    else:
        print(
            *placed.problems,
            f"{placed.blobs} blobs ({placed.bytes} bytes) are in {target.where}: {placed.copied} were copied, "
            f"{placed.kept} were there. Now restart servers and workers with REGISTRY_STORE={to.value}.",
            sep="\n",
        )
    raise SystemExit(1 if placed.problems else 0)
