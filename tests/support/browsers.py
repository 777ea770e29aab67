"""A real browser, and a registry that it can reach: server and workers in threads of this process."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from registry.server.edge.serving import make_server
from registry.server.pages.frame.cookies import COOKIE
from registry.services.people import sign_ins
from registry.worker.worker import Worker
from tests.support.community import Community

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SECONDS = 20_000  # milliseconds that a page may take before a test gives up
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Lend a headless Chromium, or skip the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no browser here: install Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Site:
    """A registry with people in it, at an address, and the pages that were opened of it.

    Whatever a page complains about in the console fails the test when the site is closed, unless it is `expected` by
    then: a complaint may come before or after the line of the test that expects it.
    """

    community: Community
    url: str
    browser: Browser
    expected: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, user: str | None = None, path: str = "/", *, width: int = 1200, **options: Any) -> Page:
        """Return a new window at a path, of somebody who has signed in if they are named."""
        context = self.browser.new_context(viewport={"width": width, "height": 900}, base_url=self.url, **options)
        context.set_default_timeout(SECONDS)
        self.contexts.append(context)
        if user is not None:
            with self.community.world.database.write() as session:
                secret = sign_ins.start(session, self.community.world.token(user))
            context.add_cookies([{"name": COOKIE, "value": secret, "url": self.url}])
        page = context.new_page()
        page.on("console", lambda message: self.hear(message.type, message.text))
        page.on("pageerror", lambda error: self.hear("error", str(error)))
        page.goto(path)
        return page

    def hear(self, kind: str, words: str) -> None:
        """Remember what a page complains about."""
        if kind in ("error", "warning"):
            self.heard.append(words)

    @property
    def complaints(self) -> list[str]:
        """What pages complained about that nobody expects."""
        return [words for words in self.heard if not any(known in words for known in self.expected)]


def faults(page: Page) -> list[str]:
    """Return what axe-core finds of serious faults that keep people from using a page."""
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:200]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@contextmanager
def serving_site(community: Community, browser: Browser) -> Iterator[Site]:
    """Serve a community on loopback, with two workers, for as long as it takes."""
    world, ready, where = community.world, threading.Event(), list[str]()

    def listening(url: str) -> None:
        where.append(url)
        ready.set()

    server = make_server(world.app, "127.0.0.1", 0, 15.0, listening)
    workers = [Worker(world.settings, world.database, world.store) for _ in range(2)]
    threads = [threading.Thread(target=server.run), *(threading.Thread(target=worker.run) for worker in workers)]
    for thread in threads:
        thread.start()
    assert ready.wait(30)
    site = Site(community, where[0], browser)
    try:
        yield site
        assert site.complaints == []
    finally:
        for context in site.contexts:
            context.close()
        server.should_exit = True
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
