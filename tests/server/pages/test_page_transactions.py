"""A page is one transaction after admission: what it shows belongs together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from starlette.testclient import TestClient

from registry.db.tables import Job
from registry.server.pages.frame.cookies import COOKIE
from registry.services.catalog import patches
from registry.services.people import actors, sign_ins
from tests.support.community import NAME, Community, open_community
from tests.support.routes import Way, every_page

TRANSACTIONS = 2  # one of its own for the admission to what waits, such as a stream; all others have one in all
PATCH_STATEMENTS = 18
ELSEWHERE = ("/login/provider",)  # whose pages lead to one, and there is none here
ELSEWHERE += ("/settings/mail/confirm", "/settings/mail/unsubscribe")  # whose addresses are mailed
AUTHORS = {"/{namespace:space}/{name}/patches/{number}/revise"}  # which nobody else may see, admins neither
QUERIES = {  # what makes a page do all that it can
    "/{namespace:space}/{name}/conflicts": "?patch=1&patch=2",
    "/{namespace:space}/{name}/recipes/new": "?patch=1&patch=2&from=1.1.0",
    "/{namespace:space}/{name}/recipes/preview": "?patch=1&patch=2",
    "/{namespace:space}/{name}/releases/compare": "?before=1.0.0&after=1.1.0",
}


@dataclass
class Counts:
    """Transactions that began, and statements but for those that begin them."""

    transactions: int = 0
    statements: list[str] = field(default_factory=list)


@contextmanager
def counting(engine: Engine) -> Iterator[Counts]:
    """Count what is asked of a database."""
    counts = Counts()

    def begin(_connection: Any) -> None:
        counts.transactions += 1

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            counts.statements.append(statement)

    event.listen(engine, "begin", begin)
    event.listen(engine, "before_cursor_execute", execute)
    try:
        yield counts
    finally:
        event.remove(engine, "begin", begin)
        event.remove(engine, "before_cursor_execute", execute)


@pytest.fixture
def released(tmp_path: Path, database_kind: str, request: pytest.FixtureRequest) -> Iterator[Community]:
    """A model with three releases, whose patches have been compared, with an evaluation, a comment and a webhook."""
    with open_community(database_kind, tmp_path, request, released=True) as community:
        community.post("bob", "/conflicts", 202, patches=[{"number": number} for number in (1, 2, 3)])
        community.world.work()
        community.post("rita", "/patches/1/comments", 201, message="Good.")
        measured = {"task": "sum", "dataset": "sums", "metric": "accuracy", "value": 0.9, "higher_is_better": True}
        community.post("rita", "/evaluations", 201, ref="#1", **measured)
        community.post("rita", "/evaluations", 201, ref="1.2.0", **measured)
        community.lend_file(1, "README.md")
        yield community


def addresses(community: Community) -> dict[str, str]:
    """Return the address of every page, by its path, with names of what is there."""
    hook = community.post("alice", "/webhooks", 201, url="https://hooks.example.org/crumbs", events=["*"])
    digest = community.get("/releases/1.2.0")["recipe"]["digest"]
    with community.world.database.read() as session:
        job = session.scalars(select(Job).where(Job.kind == "compose")).first()
    assert job is not None
    namespace, name = NAME.split("/")
    values = {"namespace": namespace, "name": name, "number": "1", "first": "1", "second": "2", "channel": "stable"}
    values |= {"version": "1.2.0", "recipe": digest, "job_id": str(job.id), "webhook_id": hook["id"]}
    values |= {"rev": "1.2.0", "ref": "1.2.0", "path": "README.md"}
    values["comment_id"] = community.get("/patches/1/discussion")["comments"][0]["id"]

    def address(way: Way) -> str:
        return way.url(**{parameter: values[parameter] for parameter in way.parameters}) + QUERIES.get(way.path, "")

    ways = [way for way in every_page(community.world.app) if way.method == "GET"]
    return {way.path: address(way) for way in ways if not way.path.startswith(ELSEWHERE)}


def browsers(community: Community) -> Iterator[tuple[str | None, TestClient]]:
    """Yield a browser of nobody, and of somebody who may see every page, whose token has just been used."""
    for user in (None, "alice", "chief"):
        http = community.world.browser()
        if user is not None:
            with community.world.database.write() as session:
                http.cookies.set(COOKIE, sign_ins.start(session, community.world.token(user)))
        http.get("/")
        yield user, http


@pytest.mark.parametrize("database_kind", ["sqlite"])  # what is asked is the same of both
def test_a_page_is_one_transaction_with_its_admission(released: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "USE_RECORDED_EVERY", timedelta(days=1))  # or a slow machine writes it amid the pages
    released.put("mary", "/channels/stable", version="1.1.0", reason="")
    pages, engine = addresses(released), released.world.database.engine
    assert len(pages) > 25
    for user, http in browsers(released):
        for path, address in pages.items():
            with counting(engine) as counts:
                answer = http.get(address)
            assert answer.status_code in (200, 302) or user != "chief" or path in AUTHORS, (path, answer.text)
            assert counts.transactions <= TRANSACTIONS, (user, path)
            if path == "/{namespace:space}/{name}/patches/{number}":
                assert counts.transactions == 1 and 10 < len(counts.statements) <= PATCH_STATEMENTS, user


def test_a_page_shows_one_state_of_a_patch_while_others_change_it(
    released: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch is yanked after the page has read its state, and before it reads anything else."""
    read_checks, (_, _, (_, http)) = patches.checks, browsers(released)

    def yanked_meanwhile(*given: Any) -> Any:
        monkeypatch.undo()
        released.post("mary", "/patches/4/yank", message="Broken.")
        released.post("mary", "/patches/4/comments", 201, message="It was yanked.")
        return read_checks(*given)

    monkeypatch.setattr(patches, "checks", yanked_meanwhile)
    before = http.get(f"/{NAME}/patches/4").text
    assert "state-accepted" in before and f"/{NAME}/patches/4/yank" in before
    assert "It was yanked." not in before and f"/{NAME}/patches/4/unyank" not in before
    after = http.get(f"/{NAME}/patches/4").text
    assert "It was yanked." in after and f"/{NAME}/patches/4/unyank" in after
