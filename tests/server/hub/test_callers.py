"""Downloads of the Hub's clients: how they are counted, when they are put off, and whom a token makes of a caller."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from registry.db.tables import ModelDownloads, Token, now
from registry.services.people.tokens import create_token
from tests.support.community import NAME, Community
from tests.support.makers import make_checkpoint
from tests.support.world import create_model

pytestmark = pytest.mark.heavy

API = f"/api/models/{NAME}"
WEIGHTS = f"/{NAME}/resolve/main/model.safetensors"
CONFIG = f"/{NAME}/resolve/main/config.json"


@pytest.fixture
def plain(sqlite_lived: Community) -> Community:
    """For tests that change something."""
    return sqlite_lived


def sha(crew: Community, rev: str) -> str:
    return str(crew.world.client(None).get(f"{API}/revision/{rev}").json()["sha"])


# counting


def downloads(crew: Community) -> tuple[int, int]:
    found = crew.world.client(None).get(API).json()
    return found["downloads"], found["downloadsAllTime"]


def test_a_download_is_one_whole_get_of_the_one_file_that_everybody_fetches(lived: Community) -> None:
    client = lived.world.client(None)
    etag = client.head(CONFIG).headers["etag"]
    for path, headers in (
        (WEIGHTS, {}),
        (CONFIG.replace("config", "tokenizer"), {}),
        (CONFIG.replace("config", "none"), {}),
        (CONFIG, {"range": "bytes=0-0"}),
        (CONFIG, {"range": "bytes=0-"}),
        (CONFIG, {"if-none-match": etag}),
    ):
        client.get(path, headers=headers)
    assert downloads(lived) == (0, 0)
    for rev in ("main", "base", "1.0.0", sha(lived, "1.1.0")):
        assert client.get(f"/{NAME}/resolve/{rev}/config.json").status_code == 200
    assert client.get(CONFIG.replace("resolve", "raw")).status_code == 200
    assert downloads(lived) == (5, 5)


def test_downloads_are_those_of_thirty_days_and_of_all(lived: Community) -> None:
    today = now().date()
    with lived.world.database.write() as session:
        model_id = lived.model(session).id
        for days, count in ((0, 1), (29, 10), (30, 100), (400, 1000)):
            session.add(ModelDownloads(model_id=model_id, day=today - timedelta(days=days), count=count))
    assert downloads(lived) == (11, 1111)
    lived.world.client(None).get(CONFIG)
    assert downloads(lived) == (12, 1112)


def test_a_model_without_a_config_counts_its_first_weight_file(plain: Community, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "bare", shards=2)
    (base / "config.json").unlink()
    create_model(plain.world, "alice/bare", base)
    client = plain.world.client(None)
    files = sorted(path.name for path in base.iterdir())
    for name in files:
        assert client.get(f"/alice/bare/resolve/main/{name}").status_code == 200
    assert client.get("/api/models/alice/bare").json()["downloads"] == 1


def test_a_download_does_not_wait_for_being_counted(plain: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("read-only database"))

    monkeypatch.setattr("registry.services.hub.downloads.count", away)
    assert plain.world.client(None).get(CONFIG).status_code == 200


# who comes when there is no room, or with which token


def test_with_too_many_files_under_way_a_get_comes_back_later_and_a_head_is_answered(plain: Community) -> None:
    client, gate = plain.world.client(None), plain.world.app.state.context.gate
    for number in range(gate.places.most):
        gate.places.take(str(number))
    answer = client.get(CONFIG)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert "error" in answer.json()
    assert client.head(CONFIG).status_code == 200
    etag = client.head(CONFIG).headers["etag"]
    assert client.get(CONFIG, headers={"if-none-match": etag}).status_code == 304
    gate.places.leave("7")
    assert client.get(CONFIG).status_code == 200
    assert gate.places.count() == gate.places.most - 1
    assert downloads(plain) == (1, 1)


def test_a_database_that_is_away_asks_to_come_back(plain: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    client = plain.world.client(None)

    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT", {}, Exception("server closed the connection"))

    for place in ("registry.services.people.access.admit", "registry.services.hub.repositories.find"):
        monkeypatch.setattr(place, away)
        for path in (CONFIG, f"{API}/revision/main", f"{API}/tree/main"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
            assert "does not answer" in answer.json()["error"]
            assert "SELECT" not in answer.text
        monkeypatch.undo()


def test_a_token_that_is_not_known_is_as_none(plain: Community) -> None:
    with plain.world.database.write() as session:
        expired, _ = create_token(session, "carol", expires_days=1)
        revoked, _ = create_token(session, "carol")
        session.flush()
        rows = session.scalars(select(Token).order_by(Token.created_at)).all()
        rows[-2].expires_at = now() - timedelta(days=1)
        rows[-1].revoked_at = now()
    assert plain.world.client("alice").patch(f"/api/v1/models/{NAME}", json={"visibility": "public"}).status_code == 200
    client = plain.world.client(None)
    create_model(plain.world, "alice/secret", make_checkpoint(plain.world.settings.data / "secret"))
    shut = plain.world.client("alice").patch("/api/v1/models/alice/secret", json={"visibility": "private"})
    assert shut.status_code == 200
    for given in (
        f"Bearer {expired}",
        f"Bearer {revoked}",
        "Bearer hf_" + "x" * 34,
        "Basic YTpi",
        "Bearer",
        "x",
        "Bearer \xe9",
    ):
        headers = {"authorization": given.encode("latin-1")}
        assert client.get(CONFIG, headers=headers).status_code == 200, given
        assert client.get(API, headers=headers).status_code == 200
        assert client.get("/api/models", headers=headers).status_code == 200
        assert client.get(f"{API}/auth-check", headers=headers).status_code == 200
        for path in ("/api/models/alice/secret", "/alice/secret/resolve/main/config.json", "/api/models/alice/none"):
            hidden = client.get(path, headers=headers)
            assert (hidden.status_code, hidden.headers["x-error-code"]) == (401, "RepoNotFound")
        for path in ("/api/whoami-v2", f"{API}/auth-check/write"):
            assert client.get(path, headers=headers).status_code == 401


def test_a_private_model_is_there_for_those_with_a_role(plain: Community) -> None:
    assert (
        plain.world.client("alice").patch(f"/api/v1/models/{NAME}", json={"visibility": "private"}).status_code == 200
    )
    paths = (
        "",
        "/revision/main",
        "/tree/main",
        "/refs",
        "/commits/main",
        "/auth-check",
        "/revision/nightly",
        "/tree/main/none",
    )
    for user, status in ((None, 401), ("carol", 404)):
        client = plain.world.client(user)
        for path in (*(f"{API}{path}" for path in paths), CONFIG, f"/{NAME}/raw/nightly/x"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["x-error-code"]) == (status, "RepoNotFound"), path
            assert (
                answer.json()["error"] == f"There is no model {NAME}; `crumb model list` shows those that you may see."
            )
        assert client.post(f"{API}/paths-info/main", data={"paths": "x"}).status_code == status
    for user in ("alice", "rita", "chief"):
        client = plain.world.client(user)
        assert [client.get(f"{API}{path}").status_code for path in paths] == [200] * 6 + [404] * 2
        assert client.get(CONFIG).status_code == 200
        assert client.get(f"{API}/auth-check/write").status_code == 200


def test_whoami_says_who_and_what_for(plain: Community) -> None:
    assert plain.world.client("alice").post("/api/v1/namespaces", json={"name": "acme"}).status_code == 201
    found = plain.world.client("alice").get("/api/whoami-v2").json()
    assert (found["name"], found["type"]) == ("alice", "user")
    assert [one["name"] for one in found["orgs"]] == ["acme"]
    assert found["auth"]["accessToken"]["role"] == "write"
    assert found["auth"]["accessToken"]["createdAt"].endswith("Z")
    with plain.world.database.write() as session:
        reading, _ = create_token(session, "alice", scopes=["read"])
    headers = {"authorization": f"Bearer {reading}"}
    client = plain.world.client(None)
    assert client.get("/api/whoami-v2", headers=headers).json()["auth"]["accessToken"]["role"] == "read"
    assert client.get(f"{API}/auth-check/write", headers=headers).status_code == 403
