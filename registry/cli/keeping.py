"""gc, check, backup, restore: looking after what a registry keeps."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.common import ConfigFile, Data, Json, open_own, open_store, settings_for


def gc(
    data: Data = None,
    config: ConfigFile = None,
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

    from registry.services.blobs import garbage
    from registry.services.composing import holding, parts
    from registry.storage.store import Store

    settings = settings_for(data, config)
    hours = settings.upload_hours if grace is None else grace
    disk = Store(settings.data, settings.reserve_bytes)
    kept = disk.ballast.exists()
    if not dry_run:
        disk.drop_ballast()
    try:
        with open_own(settings) as (database, store, bucket):
            if not dry_run:
                parts.forget(database, store)
                holding.make_room(database, store, 0, settings.composed_bytes)
            lent = timedelta(seconds=settings.bucket_seconds)
            collected = garbage.run(database, store, timedelta(hours=hours), dry=dry_run, bucket=bucket, lent=lent)
        kept = True
    finally:
        if kept and not dry_run:
            disk.take_ballast()
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
        if collected.held:
            print("A backup is under way, so no blobs were deleted; workers delete them afterwards.")
        if dry_run:
            print("Nothing was changed: this is what would happen.")
    if collected.problem:
        print(f"crumb-server: {collected.problem}", file=sys.stderr)
        raise SystemExit(1)


def check(data: Data = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check that every blob exists, hashes right and has a row, and that the audit log is unbroken.

    Damaged blobs are marked, so that they are not served, and used bytes of namespaces that are wrong are corrected.
    With a bucket, also check that it has the blobs that it should have. Keep the head of the audit log elsewhere, so
    that even its owner cannot rewrite the log unnoticed.
    """
    from registry.db.audit import check_chain, read_head
    from registry.services.blobs.bucket_copies import check as check_bucket
    from registry.services.blobs.damage import check as check_blobs
    from registry.services.blobs.quotas import check as check_quotas
    from registry.services.composing.holding import check as check_held
    from registry.services.composing.parts import check as check_parts

    settings = settings_for(data, config)
    with open_own(settings) as (database, store, bucket):
        with database.read() as session:
            head = read_head(session)
            problems = list(check_chain(session))
        problems += check_blobs(database, store)
        problems += check_bucket(database, bucket) if bucket else ()
        problems += check_quotas(database)
        problems += check_held(database)
        problems += check_parts(database)
    if as_json:
        print(json.dumps({"ok": not problems, "problems": problems, "audit": head}))
    else:
        print("\n".join(problems) or "Every blob exists, hashes right and has a row; the audit log is unbroken.")
        print(f"The audit log ends at serial {head['serial']} with hash {head['hash']}.")
    raise SystemExit(1 if problems else 0)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it goes: a new folder, or a backup to renew.")],
    data: Data = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Back up the database and every blob that it names, while the registry works. Run again, it adds what is new.

    A backup that is interrupted leaves the one before it whole. Blobs are hard links where the file system allows them,
    so copy the folder to another disk. For PostgreSQL, pg_dump has to be on the PATH.
    """
    from dataclasses import asdict

    from registry.services.operating import backups

    settings = settings_for(data, config)
    with open_own(settings) as (database, store, _):
        placed = backups.back_up(database, store, settings.database, folder)
    report(
        asdict(placed),
        placed.problems,
        f"The backup in {folder} holds {placed.blobs} blobs ({placed.bytes} bytes): "
        f"{placed.linked} were linked, {placed.copied} were copied, {placed.kept} were there.",
        as_json,
    )


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `crumb-server backup` wrote.")],
    data: Data = None,
    config: ConfigFile = None,
    as_json: Json = False,
    replacing: Annotated[
        bool, typer.Option("--replacing", help="Take a bucket that was in use: its registry is gone for good.")
    ] = False,
) -> None:
    """Make a registry from a backup, in an empty folder and an empty database, and check all of it.

    For PostgreSQL, set DATABASE_URL to the new database; pg_restore has to be on the PATH.
    """
    from dataclasses import asdict
    from functools import partial

    from registry.db.session import reaching_database
    from registry.services.operating import backups

    settings = settings_for(data, config)
    with reaching_database():
        opening = partial(open_store, settings)
        placed = backups.restore(folder, settings.data, settings.database, opening, replacing=replacing)
    report(
        asdict(placed),
        placed.problems,
        f"Restored the database and {placed.blobs} blobs ({placed.bytes} bytes) into "
        f"{settings.data}, and checked them and the audit log. Now run `crumb-server serve`.",
        as_json,
    )


def report(outcome: dict[str, object], problems: list[str], words: str, as_json: bool) -> None:
    """Print the outcome of a backup or a restore; the exit code says whether there were problems."""
    print(json.dumps({"ok": not problems, **outcome}) if as_json else "\n".join([*problems, words]))
    raise SystemExit(1 if problems else 0)
