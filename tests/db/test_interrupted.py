"""Migrations that are killed in the middle: the next start goes on, with nobody's help."""

import os
import signal

import pytest

from registry.db.session import migrate, open_database, require_head
from tests.support import launcher

KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from registry.db.session import migrate

url, left = sys.argv[1], int(sys.argv[2])

@event.listens_for(Engine, "after_cursor_execute")
def count(connection, cursor, statement, *rest):
    global left
    if statement.lstrip().upper().startswith(("CREATE", "ALTER", "INSERT", "UPDATE", "DROP")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

migrate(url)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("statements", [1, 10, 60])
def test_a_killed_migration_is_done_again(database_url: str, statements: int) -> None:
    killed = launcher.run(KILLED, database_url, str(statements), environment=os.environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    migrate(database_url)
    database = open_database(database_url)
    require_head(database, database_url)
    database.engine.dispose()
