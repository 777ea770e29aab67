"""Registries that are filled once for each kind of database, and copied for each test."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tests.support.makers import make_checkpoint
from tests.support.shared import make_once
from tests.support.world import World, create_model, open_world

Fill = Callable[[World, Path], None]  # what to do in an empty registry; files that tests want lie in the folder

DATA, TOKENS = "data", "tokens.json"  # of a registry, inside its folder


@dataclass(frozen=True)
class Made:
    """A registry to copy: its database, the folder with its data and files if it has any, and people's tokens."""

    url: str
    folder: Path | None = None
    tokens: dict[str, str] = field(default_factory=dict)


_made: dict[tuple[str, Fill], Made] = {}


def prepare(kind: str, fill: Fill, request: pytest.FixtureRequest, after: Fill | None = None) -> Made:
    """Return a registry to copy, made when it is first asked for; on SQLite, by one process for all.

    Args:
        kind: Of the database.
        fill: How it is filled.
        request: Of the test that asks first.
        after: How the one is filled from which it grows; None to begin with an empty one.
    """
    if (kind, fill) not in _made:
        start = prepare(kind, after, request) if after else Made(request.getfixturevalue("migrated_template")(kind))

        def make(folder: Path) -> Made:
            url = copy(kind, start, folder, request)
            with open_world(folder / DATA, url) as world:
                world.tokens.update(start.tokens)
                fill(world, folder)
            (folder / TOKENS).write_text(json.dumps(world.tokens))
            return Made(url, folder, world.tokens)

        if kind == "sqlite":
            folder = make_once(f"{fill.__module__}.{fill.__qualname__}", make)
            tokens = json.loads((folder / TOKENS).read_text())
            _made[kind, fill] = Made(f"sqlite:///{folder / 'registry.db'}", folder, tokens)
        else:  # each process has a PostgreSQL of its own
            _made[kind, fill] = make(request.getfixturevalue("tmp_path_factory").mktemp("prepared"))
    return _made[kind, fill]


def copy(kind: str, made: Made, folder: Path, request: pytest.FixtureRequest) -> str:
    """Copy a registry into a folder; return the URL of its database."""
    if made.folder is not None:
        shutil.copytree(made.folder / DATA, folder / DATA)
    if kind == "postgresql":
        return str(request.getfixturevalue("databases").create(made.url))
    shutil.copyfile(str(sqlalchemy.make_url(made.url).database), folder / "registry.db")
    return f"sqlite:///{folder / 'registry.db'}"


@contextmanager
def open_copy(kind: str, made: Made, folder: Path, request: pytest.FixtureRequest, **settings: Any) -> Iterator[World]:
    """Open a copy of a registry in a folder, on a database of its own."""
    url = copy(kind, made, folder, request)
    try:
        with open_world(folder / DATA, url, **settings) as world:
            world.tokens.update(made.tokens)
            yield world
    finally:
        if kind == "postgresql":
            request.getfixturevalue("databases").drop(str(sqlalchemy.make_url(url).database))


def copy_files(made: Made, folder: Path) -> None:
    """Copy the files that a registry was filled from into a folder, without those of the registry."""
    assert made.folder is not None
    shutil.copytree(
        made.folder, folder, ignore=lambda _, names: {DATA, TOKENS, "registry.db"} & {*names}, dirs_exist_ok=True
    )


def add_tiny(world: World, folder: Path) -> None:
    """Add the model alice/tiny, made of the folder `base`."""
    create_model(world, "alice/tiny", make_checkpoint(folder / "base"))
