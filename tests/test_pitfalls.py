"""What other registries regret, each with the test that keeps it out of here.

     1  approve, push    services/curation/test_reviews.py::test_a_new_revision_has_neither_approvals_nor_checks
           services/curation/test_reviews.py::test_a_patch_accepted_while_its_next_revision_arrives_is_what_was_approved
     2  rollback  services/releasing/test_channels.py::test_a_channel_for_owners_is_moved_by_owners_whatever_the_way
                         services/releasing/test_channels.py::test_a_rollback_needs_as_many_as_a_move_does
     3  a push twice     services/catalog/test_patches.py::test_the_same_patch_twice_is_one_patch
                         client/commands/test_interruptions.py::test_a_push_whose_process_is_killed_goes_on_where_it_was
     4  collecting       services/blobs/test_garbage_races.py::test_no_collector_takes_what_is_wanted
     5  crashes          test_kills.py::test_nothing_acknowledged_is_lost_however_often_processes_are_killed
                         server/test_hardened_uploads.py::test_killed_between_rename_and_commit_nothing_is_sent_again
     6  two uploaders    services/blobs/test_uploads.py::test_many_clients_at_once_make_one_blob_and_all_succeed
     7  401 and 403      services/blobs/test_uploads.py::test_a_refused_caller_leaves_no_byte
                         server/edge/test_serving.py::test_who_may_not_send_hears_so_before_the_body
     8  a rename         test_pitfalls.py::test_a_name_that_changes_takes_its_history_along
     9  a user goes      test_pitfalls.py::test_what_somebody_did_is_readable_when_they_are_gone
                         test_pitfalls.py::test_nobody_who_did_something_can_be_deleted
    10  a yank           services/releasing/test_publishing.py::test_the_files_of_a_published_release_never_change
                         services/releasing/test_releases.py::test_a_yanked_patch_leaves_published_releases_as_they_are
                         services/releasing/test_channels.py::test_a_channel_points_only_at_published_releases
    11  a quarantine     services/curation/test_steps.py::test_a_quarantined_patch_is_for_admins_alone
                         test_pitfalls.py::test_what_was_fetched_before_the_quarantine_is_not_confirmed_after_it
    12  two composes  services/releasing/test_publishing.py::test_a_worker_that_comes_to_another_result_raises_the_alarm
                         services/releasing/test_publishing.py::test_two_results_of_one_recipe_raise_the_alarm
                         breadcrumbs/kernels/test_gpu.py::test_a_model_is_composed_to_the_cpus_bytes_in_chunks
    13  hostile patches  breadcrumbs/checking/test_hostile_patches.py::test_a_hostile_patch_is_refused_by_entry_and_rule
    14  decimals         breadcrumbs/formats/test_recipe.py::test_a_decimal_has_one_normal_form
                         breadcrumbs/formats/test_recipe.py::test_a_scale_is_rounded_once_and_not_through_float64
    15  rounding         breadcrumbs/composing/test_compose.py::test_a_bfloat16_is_rounded_by_way_of_float32
                         breadcrumbs/kernels/test_gpu.py::test_16_bits_are_rounded_by_way_of_float32
    16  two databases    test_pitfalls.py::test_a_registry_is_tested_on_both_databases
                         db/test_migrations.py::test_migrations_make_what_the_models_say
    17  webhooks         services/events/test_webhooks.py::test_what_is_sent_is_signed
                    services/events/test_deliveries.py::test_a_delivery_that_fails_eight_times_ends_and_can_be_replayed
                         outside/test_egress.py::test_a_name_that_stands_for_something_private_is_not_called
    18  OIDC             test_pitfalls.py::test_no_identity_is_trusted_that_no_owner_has_named
    19  look-alikes      services/people/test_people.py::test_names_that_look_alike_are_one_name
    20  the audit log    db/test_audit_chain.py::test_a_row_that_was_changed_by_hand_is_named
                         db/test_audit_chain.py::test_rows_that_were_removed_at_the_end_are_missed
    21  quotas  services/blobs/test_quotas.py::test_what_is_abandoned_is_free_when_it_expires_and_before_it_is_swept
    22  pages            test_pitfalls.py::test_pages_hold_each_old_row_once_while_new_ones_come

Trusted publishers (18) have tests of their own, of replay, of every claim and of the owner's id, in
services/catalog/test_publishers.py.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from registry.db.tables import (
    Model,
    ModelMember,
    Namespace,
    NamespaceMember,
    Patch,
    PatchRevision,
    Release,
    Token,
    User,
)
from registry.documents.versions import parse_version
from registry.services.people.namespaces import set_active
from tests.support.community import NAME, URL, Community

TESTS = Path(__file__).parent
TABLE = re.findall(r"^ {4,}(\d+)?.*?(\S+\.py)::(\w+)$", __doc__, re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), [(file, name) for _, file, name in TABLE])
def test_every_test_of_the_table_is_there(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_every_pitfall_is_in_the_table() -> None:
    assert [int(number) for number, _, _ in TABLE if number] == list(range(1, 23))
    assert len(TABLE) == __doc__.count("::")


def test_a_name_that_changes_takes_its_history_along(lived: Community) -> None:
    """Names are never keys: whatever is renamed, by an operator so far, keeps what hangs on it."""
    lived.put("mary", "/channels/stable", version="1.1.0")
    paths = ("/patches/1", "/patches/1/discussion", "/releases/1.2.0", "/releases/1.2.0/provenance", "/revisions/main")
    before = {path: lived.get(path) for path in paths}
    manifest = lived.world.client(None).get(f"{URL}/releases/1.2.0/manifest").content
    with lived.world.database.write() as session:
        session.scalars(select(Namespace).where(Namespace.name == "alice")).one().name = "wonderland"
        session.scalars(select(Model)).one().name = "cheshire"
    client, moved = lived.world.client("alice"), URL.replace(NAME, "wonderland/cheshire")
    for path in paths:
        assert client.get(f"{URL}{path}").status_code == 404
        found = client.get(f"{moved}{path}")
        assert found.status_code == 200
        assert renamed(found.json()) == renamed(before[path])
    assert client.get(f"{moved}/releases/1.2.0/manifest").content == manifest, "it is what was signed"
    assert client.get(f"{moved}/revisions/1.2.0/files/config.json").status_code == 200
    assert client.get(f"{moved}/channels/stable/history").json()[0]["user"] == "mary"
    cut = {"version": "1.2.1", "from_ref": "1.2.0", "without": [3]}
    assert lived.world.client("mary").post(f"{moved}/releases", json=cut).json()["previous"] == "1.2.0"


def renamed(answer: Any) -> str:
    """Return what was answered without the names of the model."""
    return re.sub(r"wonderland/cheshire|alice/tiny", "MODEL", str(answer))


def test_what_somebody_did_is_readable_when_they_are_gone(lived: Community) -> None:
    paths = ("/patches/1", "/patches/1/discussion", "/releases/1.2.0", "/channels/stable/history", "/patches")
    lived.put("mary", "/channels/stable", version="1.1.0")
    before = {path: lived.get(path) for path in paths}
    files = lived.get("/revisions/1.2.0")["files"]
    with lived.world.database.write() as session:
        for user in ("alice", "bob", "mary", "rita"):
            set_active(session, user, False)
    assert lived.ask("bob", "GET", "/patches/1", 401)
    for path, found in before.items():
        after = lived.get(path)
        if path == "/patches/1/discussion":  # all is there, and an approval no longer counts
            assert [one.pop("counts") for one in found["reviews"]] == [True]
            assert [one.pop("counts") for one in after["reviews"]] == [False]
        assert after == found
    assert lived.get("/revisions/1.2.0")["files"] == files


def test_nobody_who_did_something_can_be_deleted(lived: Community) -> None:
    for user in ("bob", "rita", "mary"):
        with pytest.raises(IntegrityError), lived.world.database.write() as session:
            row = session.scalars(select(User).where(User.name == user)).one()
            for table in (Token, ModelMember, NamespaceMember):
                session.execute(delete(table).where(table.user_id == row.id))
            session.execute(delete(User).where(User.id == row.id))


def test_what_was_fetched_before_the_quarantine_is_not_confirmed_after_it(lived: Community) -> None:
    """There are no links that open a file without asking; an ETag or a range must not be one either."""
    recipe = lived.get("/releases/1.2.0")["recipe"]["digest"]
    client = lived.world.client("carol")
    for path in (
        f"{URL}/patches/1/file",
        f"{URL}/revisions/1.2.0/files/config.json",
        f"{URL}/revisions/{recipe}/files/model.safetensors",
    ):
        first = client.get(path)
        assert first.status_code == 200
        known = {"If-None-Match": first.headers["etag"]}
        assert client.get(path, headers=known).status_code == 304
        lived.put("chief", "/patches/1/quarantine", reason="odd")
        for headers in (known, {"Range": "bytes=0-9"}, {"Range": "bytes=0-9", "If-Range": first.headers["etag"]}):
            for method in ("GET", "HEAD"):
                refused = client.request(method, path, headers=headers)
                assert refused.status_code == 403
                assert "etag" not in refused.headers
        lived.world.client("chief").put(f"{URL}/patches/1/quarantine", json={"reason": None})


def test_a_registry_is_tested_on_both_databases(lived: Community, database_kind: str) -> None:
    assert lived.world.database.engine.dialect.name == database_kind
    assert database_kind in ("sqlite", "postgresql")


def test_no_identity_is_trusted_that_no_owner_has_named(lived: Community) -> None:
    said = {"iss": "https://token.actions.githubusercontent.com", "sub": f"repo:{NAME}:ref:refs/heads/main"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, said)]
    token = b".".join([*parts, b""]).decode()
    answer = lived.world.client(None).post("/api/v1/publishing/token", json={"model": NAME, "token": token})
    assert answer.status_code in (401, 404), answer.text


@pytest.mark.parametrize("what", ["patches", "releases", "evaluations", "models"])
def test_pages_hold_each_old_row_once_while_new_ones_come(lived: Community, what: str) -> None:
    """A cursor is a key, and no count of rows to pass over."""
    client, cursor_name = lived.world.client("mary"), "after" if what in ("evaluations", "models") else "before"
    url = "/api/v1/models" if what == "models" else f"{URL}/{what}"
    key = {"patches": "number", "releases": "version", "evaluations": "id", "models": "name"}[what]
    count = iter(range(100))

    def more() -> None:
        """Add a row that comes first, and one that comes last."""
        with lived.world.database.write() as session:
            model = session.scalars(select(Model).where(Model.name == "tiny")).one()
            step = next(count)
            if what == "patches":
                add_patch(session, model)
            elif what == "models":
                for name in (f"a{step}", f"z{step}"):
                    made = Model(namespace_id=model.namespace_id, name=name, creator_id=model.creator_id, size=0)
                    session.add(made)
            elif what == "releases":
                add_release(session, model, f"9.{step}.0")
                add_release(session, model, f"0.0.{step}")
        if what == "evaluations":
            for _ in range(3):
                body = {"ref": "base", "task": "t", "dataset": "d", "metric": "m", "value": 1}
                lived.post("carol", "/evaluations", 201, **body)

    for _ in range(3):
        more()
    old = [row[key] for row in client.get(url, params={"limit": 100}).json()["items"]]
    seen: list[Any] = []
    cursor = None
    while True:
        page = client.get(url, params={"limit": 2, **({cursor_name: cursor} if cursor else {})}).json()
        seen += [row[key] for row in page["items"]]
        if (cursor := page["next"]) is None:
            break
        if len(seen) < 20:
            more()
    assert len(set(seen)) == len(seen)
    assert [one for one in seen if one in old] == old


def add_patch(session: Any, model: Model) -> None:
    model.patch_count += 1
    patch = Patch(model_id=model.id, number=model.patch_count, author_id=model.creator_id)
    session.add(patch)
    session.flush()
    sha256 = f"{model.patch_count:064}"
    words = {"title": "t", "message": "", "base_digest": model.base_digest, "size": 1, "state": "refused"}
    session.add(PatchRevision(patch_id=patch.id, number=1, sha256=sha256, **words))


def add_release(session: Any, model: Model, version: str) -> None:
    twin = session.scalars(select(Release).where(Release.version == "1.0.0")).one()
    session.add(
        Release(
            model_id=model.id,
            version=version,
            sort=parse_version(version).sort_key,
            recipe_digest=twin.recipe_digest,
            changelog="",
            creator_id=model.creator_id,
        )
    )
