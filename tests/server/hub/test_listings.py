"""Models as the Hub lists and shows them: found by words and tags, in every order, by pages that are complete."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Model, ModelDownloads, now
from registry.documents.commits import blob_id, pointer
from registry.services.hub import downloads
from tests.support.makers import make_checkpoint
from tests.support.world import World, create_model, open_world

pytestmark = pytest.mark.heavy

CARDS = {
    "alice/llama": "license: mit\nlanguage: [en, de]\npipeline_tag: text-generation\ntags: [chat, 'a,b']\n",
    "alice/bert": "license: apache-2.0\npipeline_tag: fill-mask\nlibrary_name: sentence-transformers\n"
    "datasets: squad\n",
    "bob/llama-2": "license: mit\nlanguage: fr\npipeline_tag: text-generation\nday: 2026-11-27\n",
    "bob/odd": "a: !!bool maybe\n",
    "bob/secret": "license: mit\npipeline_tag: text-generation\n",
}
DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    """Five models on each kind of database; the last is private. All but the first are from the same moment."""
    folder, template = tmp_path_factory.mktemp("shelf"), request.getfixturevalue("migrated_template")(request.param)
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'registry.db'}"
    else:
        url = request.getfixturevalue("databases").create(template)
    with open_world(folder / "data", url, public_url="https://crumbs.example.org/") as world:
        for seed, (name, front) in enumerate(CARDS.items()):
            base = make_checkpoint(folder / str(seed), seed=seed, shapes={"w": (4, 4)})
            (base / "README.md").write_text(f"---\n{front}---\n\n# {name}\n")
            create_model(world, name, base)
        shut = world.client("bob").patch("/api/v1/models/bob/secret", json={"visibility": "private"})
        assert shut.status_code == 200
        world.token("carol")
        with world.database.write() as session:
            for place, name in enumerate(CARDS):
                model = session.scalars(select(Model).where(Model.name == name.split("/")[1])).one()
                model.created_at = model.modified_at = DAY + timedelta(seconds=place == 0, microseconds=5)
                if place < 2:
                    session.add(ModelDownloads(model_id=model.id, day=now().date(), count=5 - place))
        downloads.renew(world.database)
        yield world


def ask(world: World, query: str = "", user: str | None = None, status: int = 200) -> Any:
    answer = world.client(user).get(f"/api/models?{query}")
    assert answer.status_code == status, (query, answer.status_code, answer.text)
    return answer


def names(world: World, query: str = "", user: str | None = None) -> set[str]:
    return {one["id"] for one in ask(world, query, user).json()}


PUBLIC = {name for name in CARDS if name != "bob/secret"}


def test_private_models_are_listed_for_their_members(shelf: World) -> None:
    assert names(shelf) == names(shelf, user="carol") == PUBLIC
    assert names(shelf, user="bob") == set(CARDS)
    for query in (
        "search=secret",
        "author=bob",
        "filter=license:mit",
        "sort=downloads",
        "pipeline_tag=text-generation",
    ):
        assert "bob/secret" not in names(shelf, query, "carol")
        assert "bob/secret" in names(shelf, query, "bob")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("search=llama", {"alice/llama", "bob/llama-2"}),
        ("search=LLama%20bob", {"bob/llama-2"}),
        ("search=%25", set()),
        ("search=l_ama", set()),
        ("search=", PUBLIC),
        ("author=alice", {"alice/llama", "alice/bert"}),
        ("author=ali", set()),
        ("filter=license:mit", {"alice/llama", "bob/llama-2"}),
        ("filter=license:mit,fr", {"bob/llama-2"}),
        ("filter=license:mit&filter=fr", {"bob/llama-2"}),
        ("filter=license:mit&pipeline_tag=text-generation&author=alice", {"alice/llama"}),
        ("filter=,,", PUBLIC),
        ("filter=dataset:squad", {"alice/bert"}),
        ("filter=sentence-transformers", {"alice/bert"}),
        ("filter=transformers", {"alice/llama", "bob/llama-2", "bob/odd"}),
        ("filter=%00", None),
        ("search=a%00b", None),
        ("author=%00", None),
        ("pipeline_tag=%00", None),
        ("pipeline_tag=fill-mask", {"alice/bert"}),
        ("filter=nothing", set()),
    ],
)
def test_models_are_found_by_words_and_tags(shelf: World, query: str, wanted: set[str] | None) -> None:
    if wanted is None:
        assert ask(shelf, query, status=400).json()["error"]
    else:
        assert names(shelf, query) == wanted


@pytest.mark.parametrize("sort", ["", "sort=downloads", "sort=createdAt", "sort=last_modified"])
@pytest.mark.parametrize("direction", ["", "direction=-1", "direction=1"])
@pytest.mark.parametrize("limit", [1, 3])
def test_pages_are_complete_and_without_doubles_in_every_order(
    shelf: World, sort: str, direction: str, limit: int
) -> None:
    query = "&".join(filter(None, [sort, direction, f"limit={limit}", "filter=safetensors", "x=%26+"]))
    first = {"-1": "alice/llama", "": "alice/llama", "1": None}[direction.removeprefix("direction=")]
    seen, url, pages = [], f"/api/models?{query}", 0
    while url:
        answer = shelf.client("bob").get(url)
        assert answer.status_code == 200, answer.text
        seen += [one["id"] for one in answer.json()]
        pages += 1
        link = answer.links["next"]["url"] if answer.links else ""
        assert not link or link.startswith("https://crumbs.example.org/api/models?")
        assert not link or "x=%26" in link
        url = link.removeprefix("https://crumbs.example.org")
    assert sorted(seen) == sorted(CARDS)
    assert pages == -(-len(CARDS) // limit)
    assert seen[0 if first else -1] == "alice/llama"


NONSENSE = (
    *("x", "%00", "%FF", "é", "====", "1", "-", f"-1-{'0' * 32}", f"1-{'0' * 31}", f"1-{'g' * 32}", f"1-{'0' * 33}"),
    *(f"{'9' * 17}-{'0' * 32}", f"1e9-{'0' * 32}", f"-{'0' * 32}", f"1-{'0' * 32}%0A", f"٣-{'0' * 32}", "x" * 501),
)


def test_what_is_no_cursor_is_refused(shelf: World) -> None:
    for text in NONSENSE:
        for sort in ("downloads", "createdAt"):
            assert "cursor" in ask(shelf, f"sort={sort}&cursor={text}", status=400).json()["error"], text
    ask(shelf, f"sort=downloads&cursor=1-{'0' * 32}")
    ask(shelf, f"sort=createdAt&cursor={'9' * 16}-{'0' * 32}")


def test_what_a_listing_cannot_do_is_refused(shelf: World) -> None:
    for query in ("sort=name", "limit=0", "limit=x", "direction=3", f"search={'x' * 101}", "&".join(["filter=a"] * 21)):
        answer = ask(shelf, query, status=400)
        assert answer.headers["x-error-message"].isascii()
    assert len(ask(shelf, f"limit={10**9}").json()) == 4
    assert "error" in ask(shelf, f"filter={'x' * 101}", status=400).json()


def test_a_listed_model_says_what_clients_read(shelf: World) -> None:
    found = {one["id"]: one for one in ask(shelf, "full=true").json()}
    one = found["alice/llama"]
    assert (one["modelId"], one["author"], one["private"], one["gated"]) == ("alice/llama", "alice", False, False)
    assert (one["downloads"], one["downloadsAllTime"], one["likes"]) == (5, 5, 0)
    assert (one["createdAt"], one["lastModified"]) == ("2026-11-01T12:00:01.000Z",) * 2
    assert (one["pipeline_tag"], one["library_name"]) == ("text-generation", "transformers")
    assert {"transformers", "safetensors", "tiny", "text-generation", "en", "de", "chat", "license:mit"} <= set(
        one["tags"]
    )
    assert re.fullmatch("[0-9a-f]{24}", one["_id"])
    assert one["cardData"]["language"] == ["en", "de"]
    assert found["alice/bert"]["library_name"] == "sentence-transformers"
    assert found["bob/llama-2"]["cardData"]["day"] == "2026-11-27"
    assert found["bob/odd"]["cardData"] == {}
    assert "cardData" not in ask(shelf).json()[0]


def test_a_model_says_what_is_in_it(shelf: World) -> None:
    client = shelf.client(None)
    plain = client.get("/api/models/alice/llama").json()
    found = client.get("/api/models/alice/llama?blobs=true&expand=siblings").json()
    assert [set(one) for one in plain["siblings"]] == [{"rfilename"}] * len(plain["siblings"])
    assert [one["rfilename"] for one in found["siblings"]] == sorted(one["rfilename"] for one in plain["siblings"])
    for one in found["siblings"]:
        body = client.get(f"/alice/llama/resolve/main/{one['rfilename']}").content
        raw = pointer(one["lfs"]["sha256"], len(body))
        assert one["size"] == one["lfs"]["size"] == len(body)
        assert (one["blobId"], one["lfs"]["pointerSize"]) == (blob_id(raw), len(raw))
    assert found["usedStorage"] == sum(one["size"] for one in found["siblings"])
    assert found["safetensors"] == {"parameters": {"F32": 16, "I64": 40}, "total": 56}
    assert found["config"] == {"architectures": ["TinyForCausalLM"], "model_type": "tiny"}
    assert found["cardData"]["tags"] == ["chat", "a,b"]
    assert found["createdAt"].endswith("Z")
    assert found["lastModified"].endswith("Z")
    assert {"license:mit", "chat"} <= set(found["tags"])
    odd = client.get("/api/models/bob/odd").json()
    assert (odd["cardData"], odd["library_name"]) == ({}, "transformers")


HOSTILE = {
    "surrogates": '{"model_type": "\\ud800", "architectures": ["\\udc00", "Ok"]}',
    "control": '{"model_type": "a\\u0000b", "architectures": "a\\nb"}',
    "long": json.dumps({"model_type": "x" * 500, "architectures": ["y" * 500] * 5}),
    "lists": '{"model_type": ["a"], "architectures": {"a": 1}}',
}


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_breaks_no_page(shelf: World, tmp_path: Path, config: str) -> None:
    name = f"bob/hostile-{len(config)}"
    base = make_checkpoint(tmp_path / "base", shapes={"w": (4, 4)})
    (base / "config.json").write_text(config)
    create_model(shelf, name, base)
    client = shelf.client("bob")
    found = client.get(f"/api/models/{name}")
    assert found.status_code == 200
    assert len(found.text) < 2000
    assert set(found.json()["config"].get("architectures", [])) <= {"Ok"}
    assert "model_type" not in found.json()["config"]
    assert name in names(shelf, "limit=200", "bob")
    with shelf.database.write() as session:
        session.delete(session.scalars(select(Model).where(Model.name == name.split("/")[1])).one())


def test_a_link_leads_to_where_the_caller_came_without_a_public_address(tmp_path: Path, migrated_template: Any) -> None:
    with open_world(tmp_path / "data", f"sqlite:///{tmp_path / 'registry.db'}") as world:
        for name in ("one", "two"):
            create_model(world, f"alice/{name}", make_checkpoint(tmp_path / name, shapes={"w": (4, 4)}))
        client = world.client(None)
        for host in ("crumbs.local:8000", "[::1]:80", "x"):
            answer = client.get("/api/models?limit=1", headers={"host": host})
            assert answer.headers["link"].startswith(f"<http://{host}/api/models?limit=1&cursor=")
        for host in ("a b", "[", "x/y", "\xe9"):
            assert client.get("/api/models?limit=1", headers={"host": host.encode("latin-1")}).status_code == 200


def test_a_model_is_found_by_the_licence_that_it_has_now(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    alice = world.client("alice")

    def found(licence: str) -> list[str]:
        return [model["id"] for model in alice.get(f"/api/models?filter=license:{licence}").json()]

    assert (found("apache-2.0"), found("mit")) == (["alice/tiny"], [])
    assert alice.patch("/api/v1/models/alice/tiny", json={"license": "mit"}).status_code == 200
    assert (found("apache-2.0"), found("mit")) == ([], ["alice/tiny"])
    assert "license:mit" in alice.get("/api/models/alice/tiny").json()["tags"]


def names_of(shelf: World, query: str, user: str | None = None) -> list[str]:
    """Return the models of all pages of our own list, one at a time."""
    names, after = [], ""
    while True:
        page = shelf.client(user).get(f"/api/v1/models?limit=1&{query}{after}").json()
        names += [item["name"] for item in page["items"]]
        if page["next"] is None:
            return names
        after = f"&after={page['next']}"


def test_our_own_list_has_the_same_orders_and_filters_page_by_page(shelf: World) -> None:
    every = sorted(name for name in CARDS if name != "bob/secret")
    assert names_of(shelf, "") == every
    assert names_of(shelf, "sort=downloads")[:2] == ["alice/llama", "alice/bert"]
    for sort in ("downloads", "created", "modified"):
        assert sorted(names_of(shelf, f"sort={sort}")) == every, sort
    assert names_of(shelf, "sort=created")[0] == "alice/llama"
    for sort in ("name", "downloads"):
        assert sorted(names_of(shelf, f"sort={sort}&tag=text-generation&tag=license:mit")) == [
            "alice/llama",
            "bob/llama-2",
        ]
        assert names_of(shelf, f"sort={sort}&tag=license:apache-2.0") == ["alice/bert"]
        assert "bob/secret" in names_of(shelf, f"sort={sort}&tag=text-generation", "bob")
        assert names_of(shelf, f"sort={sort}&parameters_min=1000000") == []
        assert sorted(names_of(shelf, f"sort={sort}&parameters_max=1000000")) == every
    assert names_of(shelf, "tag=squad&tag=dataset:squad") == []
    (bert,) = shelf.client(None).get("/api/v1/models?tag=dataset:squad").json()["items"]
    assert "fill-mask" in bert["tags"] and bert["downloads"] == 4


def test_a_cursor_of_our_own_list_that_is_none_is_refused(shelf: World) -> None:
    for cursor in ("x", "1-", f"{'9' * 16}-{'0' * 32}", f"1-{'g' * 32}"):
        answer = shelf.client(None).get(f"/api/v1/models?sort=created&after={cursor}")
        assert answer.status_code in (200, 422), (cursor, answer.text)
    assert shelf.client(None).get("/api/v1/models?sort=created&after=x").status_code == 422
