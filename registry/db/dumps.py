"""Dumps: a database at one moment in one file, and a new database from such a file.

SQLite        VACUUM INTO, which reads one state of the database while others write
PostgreSQL    pg_dump and pg_restore, which have to be installed where the command runs
"""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import inspect, make_url

from registry.db.session import make_engine, reaching_database
from registry.errors import MissingExtra, StorageFailed, Unavailable
from registry.files.durable import new_files

SUFFIXES = {"sqlite": "db", "postgresql": "dump"}
MOST_WORDS = 500  # of an error of PostgreSQL's programs


def kind(url: str) -> str:
    """Return `sqlite` or `postgresql`."""
    return make_url(url).get_backend_name()


def dump(url: str, path: Path) -> None:
    """Write all of a database, as it is at one moment, into a new file.

    Raises:
        StorageFailed, Unavailable: The database or a disk failed.
        MissingExtra: There is no pg_dump.
    """
    if kind(url) == "postgresql":
        run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")
        return
    try:
        with closing(sqlite3.connect(str(make_url(url).database), timeout=30, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))
    except sqlite3.Error as error:
        raise StorageFailed(f"The database could not be copied to {path.parent}: {error}.") from error


def load(url: str, path: Path) -> None:
    """Fill an empty database from a dump, at once or not at all.

    Raises:
        StorageFull, StorageFailed, Unavailable: The database or a disk failed.
        MissingExtra: There is no pg_restore.
    """
    if kind(url) == "postgresql":
        run("pg_restore", url, "--no-owner", "--no-privileges", "--single-transaction", str(path))
        return
    with path.open("rb") as source, new_files([Path(str(make_url(url).database))]) as (target,):
        shutil.copyfileobj(source, target)


def is_empty(url: str) -> bool:
    """Say whether a database has no tables.

    Raises:
        Unavailable: It does not answer.
    """
    if kind(url) == "sqlite":
        return not Path(str(make_url(url).database)).exists()
    engine = make_engine(url)
    try:
        with reaching_database(), engine.connect() as connection:
            return not inspect(connection).get_table_names()
    finally:
        engine.dispose()


def run(program: str, url: str, *options: str) -> None:
    """Run a program of PostgreSQL's on a database; the password is in its environment, which other users cannot read.

    Raises:
        MissingExtra: The program is not installed.
        Unavailable: It failed; the message says why.
    """
    if shutil.which(program) is None:
        raise MissingExtra(f"{program} is not on the PATH; install the client programs of your version of PostgreSQL.")
    parts = make_url(url).set(drivername="postgresql")
    secret = {"PGPASSWORD": str(parts.password)} if parts.password else {}
    named = parts._replace(password=None).render_as_string(hide_password=False)
    done = subprocess.run(
        [program, f"--dbname={named}", "--no-password", *options],
        env={**os.environ, **secret},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unavailable(f"{program} failed: {' '.join(done.stderr.split())[:MOST_WORDS]}")
