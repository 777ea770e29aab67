"""Files that come with a patch beside its weights: sent, checked, downloaded, counted and let go."""

import json
from datetime import timedelta
from typing import Any

import pytest
import torch
from safetensors.torch import save
from sqlalchemy import select

from registry.db.tables import Namespace, PatchRevision, RevisionFile, UploadSession, now
from registry.files.beside import COMPANION, MOST_BYTES, MOST_FILES
from registry.services.blobs import blobs, damage, garbage, quotas
from registry.services.catalog import models, patches, revisions
from tests.support.community import NAME, URL, Community
from tests.support.world import announce, digest, upload

pytestmark = pytest.mark.heavy

CONFIG = json.dumps({"architectures": ["TinyForCausalLM"], "model_type": "tiny", "rope_theta": 1e6}).encode()
TEMPLATE = b"{{ messages }}"
FILES = {"config.json": CONFIG, "chat_template.jinja": TEMPLATE}
NONE = timedelta(0)


def send(crew: Community, files: dict[str, bytes], spare: int = 0, status: int = 202, **words: Any) -> Any:
    return crew.push_files(crew.spares[spare], files, status, **words)


def ask(crew: Community, files: list[dict[str, str]], status: int = 422) -> Any:
    """Push a patch with files as they are named."""
    sha256 = upload(crew.world.client("bob"), crew.spares[0].read_bytes())
    return crew.post("bob", "/patches", status, sha256=sha256, title="t", files=files)


def used(crew: Community, name: str) -> int:
    with crew.world.database.read() as session:
        return session.scalars(select(Namespace.used_bytes).where(Namespace.name == name)).one()


def test_files_come_with_a_patch_and_are_downloaded_one_by_one(crew: Community) -> None:
    patch = send(crew, FILES)
    assert [(file["path"], file["sha256"], file["size"]) for file in patch["files"]] == [
        ("chat_template.jinja", digest(TEMPLATE), len(TEMPLATE)),
        ("config.json", digest(CONFIG), len(CONFIG)),
    ]
    template, config = patch["files"]
    assert (template["keys"], config["more"]) == (None, 0)
    assert config["keys"] == [
        {"key": "rope_theta", "before": None, "after": "1000000.0"},
        {"key": "tie_word_embeddings", "before": "false", "after": None},
    ]
    (check,) = [
        check for check in crew.get(f"/patches/{patch['number']}/discussion")["checks"] if check["name"] == "files"
    ]
    assert (check["status"], check["required"]) == ("pass", False)
    assert "'chat_template.jinja', 'config.json'" in check["summary"]
    for path, raw in FILES.items():
        answer = crew.get(f"/patches/{patch['number']}/files/{path}")
        assert answer.content == raw
        assert answer.headers["cache-control"] == "public, no-cache"
    assert crew.get(f"/patches/{patch['number']}/files/other", status=404)["type"].endswith("entry-not-found")
    listed = {row["number"]: row["files"] for row in crew.get("/patches")["items"]}
    assert set(listed.values()) == {None}
    assert crew.patch(1)["files"] == []
    (event,) = crew.events("patch.push")[-1:]
    assert event.after["files"] == {path: digest(raw) for path, raw in FILES.items()}


def test_each_revision_has_files_of_its_own_that_never_change(crew: Community) -> None:
    number = send(crew, FILES)["number"]
    assert send(crew, {"other.txt": b"x"}, status=200)["files"] == crew.patch(number)["files"], "the same weights again"
    client = crew.world.client("bob")
    sha256 = upload(client, crew.spares[1].read_bytes())
    files = [{"path": "vocab.txt", "sha256": upload(client, b"a b c")}]
    crew.post("bob", f"/patches/{number}/revisions", 202, sha256=sha256, title="again", files=files)
    crew.world.work()
    assert [file["path"] for file in crew.patch(number)["files"]] == ["vocab.txt"]
    assert [file["path"] for file in crew.get(f"/patches/{number}.1")["files"]] == sorted(FILES)
    assert crew.get(f"/patches/{number}.1/files/config.json").content == CONFIG
    for name, value in (("sha256", "0" * 64), ("size", 1), ("path", "x")):
        with pytest.raises(ValueError, match=f"closed; {name}"), crew.world.database.write() as session:
            setattr(session.scalars(select(RevisionFile)).first(), name, value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.bin": b"x"}, "pickle"),
        ({"../config.json": b"x"}, "plain relative path"),
        ({".hidden": b"x"}, "plain relative path"),
        ({"CONFIG.json": b"x"}, "one file on some systems"),
        ({"config.json/x": b"x"}, "lies inside"),
        ({"README.md": b"x"}, "is the card"),
        ({"more.safetensors": b"x"}, "hold weights"),
        ({"model.safetensors.index.json": b"{}"}, "hold weights"),
        ({"modules.json": b"[]"}, "say which files"),
    ],
)
def test_files_that_cannot_come_use_up_no_number(sqlite_crew: Community, files: dict[str, bytes], said: str) -> None:
    crew = sqlite_crew
    before = crew.count_events()
    refused = send(crew, files, status=422)
    assert said in refused["detail"]
    assert refused["field"] in files
    assert crew.get("")["patches"] == 4
    assert crew.events("patch.push")[-1].serial <= before
    assert used(crew, "bob") == sum(crew.patch(number)["size"] for number in (1, 2, 3, 4))


def test_bytes_that_were_not_sent_are_named_and_knowing_a_digest_is_not_enough(crew: Community) -> None:
    missing = [{"path": "a.txt", "sha256": "0" * 64}]
    assert "The bytes of a.txt are missing" in ask(crew, missing)["detail"]
    theirs = [{"path": "a.txt", "sha256": upload(crew.world.client("carol"), b"carol's alone")}]
    assert "The bytes of a.txt are missing" in ask(crew, theirs)["detail"]
    mine = {"path": "a.txt", "sha256": upload(crew.world.client("bob"), b"bob's")}
    assert "named twice" in ask(crew, [mine, mine])["detail"]
    many = [{**mine, "path": f"{number}.txt"} for number in range(MOST_FILES + 1)]
    ask(crew, many)
    assert len(ask(crew, many[:-1], 202)["files"]) == MOST_FILES


def test_together_they_are_bounded(crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_BYTES >= 2 * 17_000_000, "a tokenizer.json may have 17 MB"
    monkeypatch.setattr("registry.files.beside.MOST_BYTES", 10)
    assert "at most 10 bytes" in send(crew, {"a.txt": b"x" * 6, "b.txt": b"y" * 5}, status=422)["detail"]
    send(crew, {"a.txt": b"x" * 6, "b.txt": b"y" * 4})


def test_files_of_a_private_or_quarantined_patch_are_for_those_who_may_have_the_patch(crew: Community) -> None:
    number = send(crew, FILES)["number"]
    path = f"/patches/{number}/files/config.json"
    crew.rules(visibility="private")
    crew.get(path, status=404)
    crew.get(path, "carol", status=404)
    answer = crew.get(path, "rita")
    assert (answer.content, answer.headers["cache-control"]) == (CONFIG, "private, no-cache")
    carols = crew.world.client("carol")
    assert announce(carols, CONFIG)["state"] == "open", "who may not download the bytes has to send them"
    assert announce(crew.world.client("rita"), CONFIG)["state"] == "done"
    crew.rules(visibility="public")
    assert crew.get(path).content == CONFIG
    crew.put("chief", f"/patches/{number}/quarantine", reason="bad")
    crew.get(path, "rita", status=403)
    assert crew.get(path, "chief").headers["cache-control"] == "private, no-cache"


def test_files_of_an_unchecked_patch_are_not_served(crew: Community) -> None:
    client = crew.world.client("bob")
    files = [{"path": "a.txt", "sha256": upload(client, b"a")}]
    sha256 = upload(client, crew.spares[0].read_bytes())
    number = crew.post("bob", "/patches", 202, sha256=sha256, title="t", files=files)["number"]
    crew.get(f"/patches/{number}/files/a.txt", "bob", status=409)


def test_files_count_for_the_author_until_the_patch_is_refused(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = used(crew, "bob")
    patch = send(crew, {**FILES, "same.jinja": TEMPLATE})
    assert used(crew, "bob") - before == patch["size"] + len(CONFIG) + len(TEMPLATE), "each blob once"
    assert list(quotas.check(crew.world.database)) == []
    monkeypatch.setattr(blobs, "LEASE", NONE)
    with crew.world.database.write() as session:
        for row in session.scalars(select(UploadSession)):
            row.expires_at = now()
    garbage.run(crew.world.database, crew.world.store, NONE)
    assert crew.get(f"/patches/{patch['number']}/files/config.json").content == CONFIG, "its row keeps it"
    with crew.world.database.write() as session:
        row = patches.find(session, NAME, patch["number"])
        revisions.refuse(session, models.find(session, NAME), row, "#5", "for a test")
    assert used(crew, "bob") == before
    assert list(quotas.check(crew.world.database)) == []
    with crew.world.database.read() as session:
        assert session.scalars(select(RevisionFile)).all() == []
    for blob in (CONFIG, TEMPLATE):
        with crew.world.database.write() as session:
            session.get_one(blobs.Blob, digest(blob)).leased_until = now()
    garbage.run(crew.world.database, crew.world.store, NONE)
    garbage.run(crew.world.database, crew.world.store, NONE)
    assert not crew.world.store.exists(digest(CONFIG))
    assert list(damage.check(crew.world.database, crew.world.store)) == []


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b"\xff\xfe", b'{"a":' * 500 + b"1" + b"}" * 500])
def test_a_file_that_is_no_json_is_a_warning(sqlite_crew: Community, raw: bytes) -> None:
    crew = sqlite_crew
    patch = send(crew, {"config.json": raw, "a.txt": raw})
    assert patch["check"] == "checked"
    assert [file["keys"] for file in patch["files"]] == [None, None]
    checks = {row["name"]: row for row in crew.get(f"/patches/{patch['number']}/discussion")["checks"]}
    assert checks["files"]["status"] == "warn"
    assert "Not JSON" in checks["files"]["summary"] and "'config.json'." in checks["files"]["summary"]


def test_a_contribution_may_name_its_files(crew: Community) -> None:
    """As jobs of the server create revisions."""
    raw = crew.spares[0].read_bytes()
    client = crew.world.client("bob")
    pairs = tuple((path, upload(client, data)) for path, data in FILES.items())
    upload(client, raw)
    with crew.world.database.write() as session:
        given = revisions.Contribution(digest(raw), "title", "", files=pairs)
        row, _ = revisions.push(session, crew.actor(session, "bob"), NAME, given)
        assert isinstance(row, PatchRevision)
    crew.world.work()
    assert crew.world.client(None).get(f"{URL}/patches/5/files/config.json").content == CONFIG


def companion(**tensors: torch.Tensor) -> bytes:
    return save({name.replace("_", "."): tensor for name, tensor in tensors.items()})


def test_a_companion_is_shown_tensor_by_tensor_and_taken_by_a_release(crew: Community) -> None:
    raw = companion(score_weight=torch.ones(2, 3), extra_bias=torch.zeros(2).bfloat16())
    number = send(crew, {COMPANION: raw})["number"]
    (file,) = crew.patch(number)["files"]
    assert [(key["key"], key["before"], key["after"]) for key in file["keys"]] == [
        ("extra.bias", None, "BF16 [2]"),
        ("score.weight", None, "F32 [2, 3]"),
    ]
    page = crew.world.client(None).get(f"/{NAME}/patches/{number}").text
    assert "2 tensors that only the tuned model has" in page and "score.weight</code></th><td><code>F32 [2, 3]" in page
    crew.accept(number)
    release = crew.publish("1.0.0", [number], files_of=[number])
    plain = crew.get(f"/revisions/{release['recipe']['digest']}")
    taken = crew.get("/revisions/1.0.0")
    assert taken["weights_digest"] == plain["weights_digest"], "it is no part of the weights"
    assert {file["path"] for file in taken["files"]} - {file["path"] for file in plain["files"]} == {COMPANION}
    assert crew.world.client(None).get(f"/{NAME}/resolve/1.0.0/{COMPANION}").content == raw
    other = crew.publish("1.0.1", [number], 201, files_of=[])
    assert other["taken_files"] == []
    changed = crew.get("/compare?before=1.0.0&after=1.0.1")["files"]
    assert [file["path"] for file in changed] == [COMPANION]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"x" * 40, "companion/tensors.safetensors cannot come with a patch"),
        (save({"embed.weight": torch.ones(2)}), "the base has a tensor 'embed.weight'"),
        (save({"score": torch.tensor([float("inf")])}), "'score' holds 1 NaN or Inf"),
    ],
)
def test_a_companion_that_breaks_a_rule_refuses_the_patch(sqlite_crew: Community, raw: bytes, said: str) -> None:
    patch = send(sqlite_crew, {COMPANION: raw})
    assert patch["check"] == "refused" and said in patch["refusal"]
    assert patch["files"] == []


@pytest.mark.parametrize(
    "path", ["Companion/tensors.safetensors", "companion/more.safetensors", "companion.safetensors"]
)
def test_other_files_of_weights_do_not_come_with_a_patch(sqlite_crew: Community, path: str) -> None:
    assert "hold weights" in send(sqlite_crew, {path: companion(x=torch.ones(1))}, status=422)["detail"]
