"""What commands of the server share: options, settings, the data folder and the database."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.errors import Forbidden, InvalidRequest, WrongState

if TYPE_CHECKING:
    from registry.db.session import Database
    from registry.settings import Settings
    from registry.storage.bucket import Bucket
    from registry.storage.store import Store

Data = Annotated[Path | None, typer.Option("--data", help="Folder of the registry.  [default: registry-data]")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file with settings.  [default: REGISTRY_CONFIG, /etc/crumb-server.toml]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Migrate = Annotated[
    bool, typer.Option("--migrate/--no-migrate", help="Bring the database to the newest migration first, if needed.")
]


def settings_for(data: Path | None, file: Path | None = None) -> "Settings":
    """Return the settings, apply a umask that was set, and refuse to be root in the folder of somebody else.

    Args:
        data: The data folder of the command line, if it is given.
        file: The configuration file of the command line, if it is given.

    Raises:
        InvalidRequest: The file or a setting is not valid.
        Forbidden: The user is root, and the data folder belongs to another user.
    """
    from registry.cli.configuration import load, warn

    configuration = load(data, file)
    warn(configuration)
    require_owner(configuration.settings.data)
    if "umask" in configuration.sources:
        os.umask(int(configuration.settings.umask, 8))
    return configuration.settings


def require_owner(folder: Path) -> None:
    """Refuse to be root in a folder of another user, who could not read what root writes there.

    Raises:
        Forbidden: The user is root, and the folder belongs to another user.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not folder.exists() or not (number := folder.stat().st_uid):
        return
    import pwd

    try:
        owner = pwd.getpwuid(number).pw_name
    except KeyError:
        owner = f"'#{number}'"
    raise Forbidden(
        f"The folder {folder} belongs to {owner}, who could not read what root writes there; "
        f"run this as `runuser -u {owner} -- {sys.argv[0]} …`, or give all of it to root by chown."
    )


def open_store(settings: "Settings", database: "Database") -> "Store":
    """Return the store of the settings."""
    from registry.services.blobs import stores
    from registry.storage.bucket import open_bucket

    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    return stores.open_store(database, **settings.storage, bucket=bucket)


def prepare(settings: "Settings", *, migrates: bool = True, own: bool = False) -> None:
    """Create the data folder, close it to other users, and bring the database to the newest migration.

    Args:
        settings: The settings.
        migrates: Whether to do the last; if not, the database has to be at the newest migration.
        own: Whether to refuse first, with nothing changed, a folder or a bucket that is not the one of the database.

    Raises:
        WrongState: A restore was interrupted, or the database is of another version; nothing was changed.
    """
    from registry.db import dumps
    from registry.db.session import current_migration, migrate, newest_migration, require_head, require_known
    from registry.services.operating import identity
    from registry.services.operating.backups import RESTORING
    from registry.storage.store import Store

    if (settings.data / RESTORING).exists():
        raise WrongState(f"A restore into {settings.data} was interrupted; run `crumb-server restore` again.")
    if not dumps.is_empty(settings.database):
        with open_for(settings) as database:
            require_known(current_migration(database.engine))
            if not migrates:
                require_head(database, settings.database)
            if own and identity.has_ids(database):
                identity.require_own(database, open_store(settings, database))
    elif not migrates:
        raise WrongState("The database is empty; run `crumb-server migrate` first, or leave out --no-migrate.")
    settings.data.mkdir(parents=True, exist_ok=True)
    close_to_others(settings.data, int(settings.umask, 8))
    Store(settings.data, settings.reserve_bytes).prepare()
    if migrates and (before := migrate(settings.database)) not in (None, newest_migration()):
        print(f"crumb-server: The database was at migration {before}; it is at the newest now.", file=sys.stderr)
    if settings.database_url is None:
        # Only a group that may write needs the database: who may only read is a proxy that sends blobs.
        mode = 0o660 if not int(settings.umask, 8) & 0o020 else 0o600
        with suppress(PermissionError):  # another user of the group made it; SQLite lets only its owner write
            (settings.data / "registry.db").chmod(mode)


def claim(settings: "Settings") -> None:
    """Give a new registry its id, and refuse to serve or to work with a folder or a bucket that is not its own.

    Raises:
        WrongState: The folder belongs to another registry, or to none.
        StorageFailed: The bucket belongs to another registry, or does not answer.
        InvalidRequest: The server of the bucket does not know conditional writes.
    """
    from registry.services.operating import identity
    from registry.storage.bucket import open_bucket

    with open_for(settings) as database:
        own = identity.claim(database, open_store(settings, database))
        if bucket := open_bucket(settings.copies, **settings.bucket_access):
            identity.require_not_foreign(database, bucket)
            bucket.claim(own)


@contextmanager
def open_own(settings: "Settings") -> Iterator[tuple["Database", "Store", "Bucket | None"]]:
    """Open the database as `open_for` does, if it is at the newest migration and the data folder is its own.

    Yields:
        The database, the store, and the bucket with copies of it, if there is one, which refuses to be cleaned up if it
        is another registry's.

    Raises:
        InvalidRequest: There is no registry.
        WrongState: The database is at another migration, or the folder is not its own.
    """
    from registry.db.session import require_head
    from registry.services.operating import identity
    from registry.storage.bucket import open_bucket

    if settings.database_url is None and not settings.data.exists():
        raise InvalidRequest(
            f"There is no registry in {settings.data}; name its folder by --data, or its database by DATABASE_URL.",
            field="data",
        )
    bucket = open_bucket(settings.copies, **settings.bucket_access)
    with open_for(settings) as database:
        require_head(database, settings.database)
        store = open_store(settings, database)
        own = identity.require_own(database, store)
        if bucket:
            bucket.belongs_to = own or ""
        yield database, store, bucket


def close_to_others(folder: Path, umask: int) -> None:
    """Take the rights from a folder that a umask would not have given; say so, or that it cannot be done."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & umask:
        return
    try:
        if mode & stat.S_ISVTX:
            raise PermissionError("everybody may write there")
        folder.chmod(mode & ~umask)
        told = f"The folder {folder} was open to other users, and is closed now; REGISTRY_UMASK=007 lets its group in."
    except PermissionError as error:
        told = f"The folder {folder} is open to other users, and cannot be closed ({error}); see `chmod`."
    print(f"crumb-server: {told}", file=sys.stderr)


@contextmanager
def open_for(settings: "Settings") -> Iterator["Database"]:
    """Open the database, and close its connections afterwards; its errors become sentences."""
    from registry.db.session import open_database, reaching_database

    database = open_database(settings.database)
    try:
        with reaching_database():
            yield database
    finally:
        database.engine.dispose()


def parse_size(text: str, field: str) -> int:
    """Return a number that may have a unit, like 500GiB.

    Raises:
        InvalidRequest: The text is not a number.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise InvalidRequest(f"'{text}' is not a size; write one like 500GiB.", field=field) from None
