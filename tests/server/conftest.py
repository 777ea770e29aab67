from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World, open_world


@pytest.fixture
def world(tmp_path: Path, migrated_url: str) -> Iterator[World]:
    """A registry on SQLite and again on PostgreSQL."""
    with open_world(tmp_path / "data", migrated_url) as made:
        yield made
