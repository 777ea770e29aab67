"""Fixtures of what is tested in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browsers import Site, running_browser, serving_site
from tests.support.community import open_community


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser for all tests of a process."""
    with running_browser() as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest, browser: Browser) -> Iterator[Site]:
    """A registry with a model, people in every role, and four draft patches by bob."""
    with open_community("sqlite", tmp_path, request) as community, serving_site(community, browser) as made:
        yield made


@pytest.fixture
def released(tmp_path: Path, request: pytest.FixtureRequest, browser: Browser) -> Iterator[Site]:
    """The same, with all patches accepted, and three releases published."""
    with (
        open_community("sqlite", tmp_path, request, released=True) as community,
        serving_site(community, browser) as made,
    ):
        yield made
