"""What a read asks of the database: a bounded number of statements, which does not grow with what is there."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from registry.db.tables import (
    Build,
    Channel,
    ChannelMove,
    Check,
    Comment,
    Composition,
    Evaluation,
    Job,
    Patch,
    PatchRevision,
    Recipe,
    RecipeItem,
    Release,
    Review,
    Table,
    User,
    Webhook,
)
from registry.documents.versions import parse_version
from registry.server.hub.refusing import WITHOUT_XET
from registry.server.pages.frame.cookies import COOKIE
from registry.services.people import actors, sign_ins
from tests.support.community import NAME, PATCHES, RELEASES, Community, open_community
from tests.support.routes import Way, every_page, every_way
from tests.support.world import statements

MOST = 30
TIMES = 3  # as many patches and releases
QUERIES = {  # what makes a read do all that it can
    "/api/v1/models/{namespace}/{name}/conflicts": "?patch=1&patch=2",
    "/api/v1/models/{namespace}/{name}/patches": "?tensor=norm",
    "/api/v1/models/{namespace}/{name}/compare": "?before=1.0.0&after=1.1.0",
    "/api/v1/models": "?search=tiny",
    "/api/v1/audit": "?action=patch.*",
    "/models": "?q=tiny&architecture=tiny&size=100m",
    "/api/models": "?search=tiny&sort=downloads",
    "/api/models/{namespace}/{name}/refs": "?include_prs=1",
    "/api/models/{namespace}/{name}/tree/{rev}": "?expand=1",
    "/api/v1/models/{namespace}/{name}/evaluations/compare": "?with=1.2.0&with=1.1.0",
    "/{namespace:space}/{name}/conflicts": "?patch=1&patch=2",
    "/{namespace:space}/{name}/evaluations": "?with=1.2.0&with=1.1.0",
    "/{namespace:space}/{name}/recipes/new": "?patch=1&patch=2&from=1.1.0",
    "/{namespace:space}/{name}/recipes/preview": "?patch=1&patch=2",
    "/{namespace:space}/{name}/releases/compare": "?before=1.0.0&after=1.1.0",
}
KINDS = (("/api/", ""), ("/api/", "/{path:path}"), ("/", "/{path:path}"))
LEFT_OUT = {  # there is no upload, push, card, signature, folder, provider or mail; authors alone revise
    "/{namespace:space}/{name}/patches/{number}/revise",
    "/api/v1/models/{namespace}/{name}/cards/{number}",
    "/api/v1/models/{namespace}/{name}/patches/{number}/push",
    "/api/models/{namespace}/{name}/lfs-files",
    *(f"/api/models/{{namespace}}/{{name}}/xet-write-token/{{rev}}{rest}" for rest in ("", f"/{WITHOUT_XET}")),
    "/{path:path}/info/refs",
    *(f"{prefix}{kind}{rest}" for kind in ("datasets", "spaces") for prefix, rest in KINDS),
    "/api/v1/uploads/{upload_id}",
    "/login/provider",
    "/login/provider/callback",
    "/settings/mail/confirm",
    "/settings/mail/unsubscribe",
    "/api/models/{namespace}/{name}/tree/{rev}/{path:path}",
    "/api/v1/models/{namespace}/{name}/releases/{version}/signature",
}


@pytest.fixture
def released(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Community]:
    """A model with three releases, comments, an evaluation, proposals that two people reviewed, and a webhook."""
    with open_community("sqlite", tmp_path, request, released=True) as community:
        community.post("bob", "/conflicts", 202, patches=[{"number": number} for number in (1, 2, 3)])
        community.world.work()
        measured = {"task": "sum", "dataset": "sums", "metric": "accuracy", "value": 0.9, "higher_is_better": True}
        for ref in ("#1", "1.2.0"):
            community.post("rita", "/evaluations", 201, ref=ref, **measured)
        community.post("rita", "/patches/1/comments", 201, message="Good.")
        for version in ("1.1.0", "1.2.0"):
            community.put("mary", "/channels/stable", version=version, reason="")
        propose(community, 4, "rita")
        community.lend_file(1, "README.md")
        yield community


def propose(community: Community, number: int, reviewer: str) -> None:
    """Have a patch wait for a decision, with a verdict."""
    community.set(number, state="proposed")
    community.post(reviewer, f"/patches/{number}/reviews", 201, verdict="approve", revision=1)


def row(session: object, table: type[Table], like: Table, **changed: object) -> Table:
    """Return a copy of a row with another key and other values."""
    values = {column.name: getattr(like, column.name) for column in table.__table__.columns}
    return table(**{**values, **({"id": uuid.uuid4()} if "id" in values else {}), **changed})


def multiply(community: Community) -> None:
    """Copy patches, reviewers, releases, channels and compositions, so that there are three times as many."""
    with community.world.database.write() as session:
        model = community.model(session)
        everybody = list(session.scalars(select(User)))
        for serial in range(PATCHES, PATCHES * TIMES):
            like = session.scalars(select(Patch).where(Patch.number == serial % PATCHES + 1)).one()
            first = session.scalars(select(PatchRevision).where(PatchRevision.patch_id == like.id)).first()
            patch = row(session, Patch, like, number=serial + 1, author_id=everybody[serial % len(everybody)].id)
            revision = row(session, PatchRevision, first, patch_id=patch.id, sha256=f"{serial:064x}")
            session.add_all([patch, revision])
            session.flush()
            for table, key in ((Check, "revision_id"), (Review, "revision_id")):
                for found in session.scalars(select(table).where(getattr(table, key) == first.id)):
                    changed = {"reviewer_id": everybody[(serial + 1) % len(everybody)].id} if table is Review else {}
                    session.add(row(session, table, found, **{key: revision.id}, **changed))
            if serial % PATCHES == 0:  # its number one is discussed
                for table, key, owner in ((Comment, "patch_id", patch.id), (Evaluation, "revision_id", revision.id)):
                    for found in session.scalars(select(table).where(getattr(table, key).in_([like.id, first.id]))):
                        session.add(row(session, table, found, **{key: owner}))
            digest = f"{serial:064x}"
            items = [RecipeItem(sha256=revision.sha256, weight="1")]
            session.add(Recipe(digest=digest, base_digest=model.base_digest, alpha="0.3", items=items))
            session.flush()
            composition = session.scalars(select(Composition)).first()
            session.add(row(session, Composition, composition, recipe_digest=digest, commit=f"{serial:040x}"))
            for build in session.scalars(select(Build).where(Build.recipe_digest == composition.recipe_digest)).all():
                session.add(row(session, Build, build, recipe_digest=digest))
        model.patch_count = PATCHES * TIMES
        newest = session.scalars(select(Release).order_by(Release.sort.desc())).first()
        channel = session.scalars(select(Channel)).one()
        move = session.scalars(select(ChannelMove)).first()
        for serial in range(len(RELEASES), len(RELEASES) * TIMES):
            version = f"1.{serial}.0"
            sort = parse_version(version).sort_key
            before, digest = f"1.{serial - 1}.0", f"{PATCHES + serial - len(RELEASES):064x}"
            release = row(
                session, Release, newest, version=version, sort=sort, previous_version=before, recipe_digest=digest
            )
            session.add(release)
            session.flush()
            session.add(row(session, Channel, channel, name=f"c{serial}", release_id=release.id))
            session.add(row(session, ChannelMove, move, number=serial, release_id=release.id))
    for number in range(PATCHES * 2, PATCHES * TIMES + 1, PATCHES):
        propose(community, number, "rolf")


def addresses(community: Community) -> dict[str, str]:
    """Return the address of every read, by its path, with names of what is there."""
    digest = community.get("/releases/1.2.0")["recipe"]["digest"]
    with community.world.database.read() as session:
        job = session.scalars(select(Job).where(Job.kind == "compose")).first()
        hook = session.scalars(select(Webhook)).first()
    assert job is not None and hook is not None
    namespace, name = NAME.split("/")
    values = {"namespace": namespace, "name": name, "number": "1", "first": "1", "second": "2", "channel": "stable"}
    values |= {"version": "1.2.0", "recipe": digest, "digest": digest, "ref": "main", "rev": "main"}
    values |= {
        "job_id": str(job.id),
        "webhook_id": str(hook.id),
        "path": "README.md",
        "user": "bob",
        "sha256": community.patch(1)["sha256"],
        "revision": "main",
        "comment_id": community.get("/patches/1/discussion")["comments"][0]["id"],
    }

    def address(way: Way) -> str:
        return way.url(**{parameter: values[parameter] for parameter in way.parameters}) + QUERIES.get(way.path, "")

    return {way.path: address(way) for way in every_read(community) if way.path not in LEFT_OUT}


def every_read(community: Community) -> list[Way]:
    """Return every GET route and page."""
    app = community.world.app
    return [way for way in (*every_way(app), *every_page(app)) if way.method == "GET"]


def count(community: Community) -> dict[str, list[str]]:
    """Return the statements of every read, by its path, asked by somebody who may see everything."""
    world = community.world
    api = world.client("chief")
    browser = TestClient(world.app, follow_redirects=False)
    with world.database.write() as session:
        browser.cookies.set(COOKIE, sign_ins.start(session, world.token("chief")))
    pages = {way.path for way in every_page(world.app)}
    asked = {}
    for path, url in addresses(community).items():
        with statements(world) as seen:
            answer = (browser if path in pages else api).get(url)
        assert answer.status_code < 500, (path, answer.text)
        if answer.status_code < 400:
            asked[path] = [one for one in seen if not one.startswith("BEGIN")]
    return asked


def test_no_read_asks_more_statements_where_there_is_more(released: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "USE_RECORDED_EVERY", timedelta(days=1))  # or a slow machine writes it amid the reads
    released.post("alice", "/webhooks", 201, url="https://hooks.example.org/crumbs", events=["*"])
    released.world.client("chief").get("/api/v1/whoami")  # its use is written down once a while
    few = count(released)
    assert {way.path for way in every_read(released)} - set(few) == LEFT_OUT
    multiply(released)
    assert len(released.get("/patches")["items"]) == PATCHES * TIMES
    many = count(released)
    assert {path: len(asked) for path, asked in many.items() if len(asked) > MOST} == {}
    more = {path: (few.get(path), asked) for path, asked in many.items() if len(asked) > len(few.get(path, asked))}
    assert {path: (len(before or ()), len(after)) for path, (before, after) in more.items()} == {}
    assert set(few) <= set(many), set(few) - set(many)


def test_what_clients_ask_most_takes_as_few_statements_as_there_are_tables_to_ask(released: Community) -> None:
    visitor = released.world.client(None)
    most = {f"/api/v1/models/{NAME}": 1, f"/api/models/{NAME}/tree/main": 2, f"/{NAME}/resolve/main/config.json": 2}
    for path, number in most.items():
        visitor.get(path, headers={"Range": "bytes=0-0"})  # the first tells that the release is in use
        with statements(released.world) as seen:
            assert visitor.get(path, headers={"Range": "bytes=0-0"}).status_code in (200, 206)
        assert len(seen) == number, seen
