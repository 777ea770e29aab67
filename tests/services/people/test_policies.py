"""What admins ask of everybody: licences, masks, bases from the Hub, how people join."""

import threading
from typing import Any

import pytest

from registry.services.people import policies
from tests.support.community import Community
from tests.support.databases import await_lock
from tests.support.makers import make_checkpoint
from tests.support.world import create_model, upload

WHERE = "/api/v1/admin/policy"
ANYTHING = {
    **{"registration": "invitation", "own_registration": None, "licenses": None},
    **{"min_drop_bottom": None, "min_drop_top": None, "hub_models": None},
}


def ask(crew: Community, status: int = 200, user: str = "chief", **wanted: Any) -> Any:
    answer = crew.world.client(user).put(WHERE, json=wanted)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_admin_changes_what_is_asked_everybody_reads_it_and_the_log_has_it(crew: Community) -> None:
    shown = "/api/v1/policy"
    assert crew.world.client(None).get(shown).json() == ANYTHING
    ask(crew, 403, user="alice", licenses=["mit"])
    ask(crew, licenses=["mit", "apache-2.0"], min_drop_top="0.001")
    ask(crew, hub_models=[], licenses=["mit"])  # a field that is left out stays
    assert crew.world.client(None).get(shown).json() == {
        **ANYTHING,
        **{"licenses": ["mit"], "min_drop_top": "0.001", "hub_models": []},
    }
    ask(crew, hub_models=[], licenses=["mit"])  # changes nothing
    rows = [(row.user_name, row.before, row.after) for row in crew.events("policy.change")]
    assert rows == [
        (
            "chief",
            {"licenses": None, "min_drop_top": None},
            {"licenses": ["mit", "apache-2.0"], "min_drop_top": "0.001"},
        ),
        ("chief", {"licenses": ["mit", "apache-2.0"], "hub_models": None}, {"licenses": ["mit"], "hub_models": []}),
    ]
    assert ask(crew, licenses=None, min_drop_top=None, hub_models=None) == ANYTHING


def test_two_admins_at_once_are_both_heard_where_nobody_has_asked_for_anything(
    crew: Community, database_kind: str
) -> None:
    thread = threading.Thread(target=ask, args=(crew,), kwargs={"hub_models": []})
    with crew.world.database.write() as session:
        policies.change(session, crew.actor(session, "chief"), {"licenses": ["mit"]}, "invitation")
        thread.start()
        if database_kind == "postgresql":  # on SQLite, it waits for the one writer
            await_lock(crew.world.database, thread)
    thread.join(30)
    assert crew.world.client(None).get("/api/v1/policy").json() == {**ANYTHING, "licenses": ["mit"], "hub_models": []}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"licenses": []}, "licenses"),
        ({"licenses": ["MIT"]}, "licenses"),
        ({"min_drop_bottom": "-1"}, "min_drop_bottom"),
        ({"min_drop_bottom": "0.6", "min_drop_top": "0.4"}, "min_drop_bottom"),
        ({"hub_models": ["meta"]}, "hub_models"),
        ({"hub_models": ["*/*"]}, "hub_models"),
        ({"registration": "open"}, "registration"),  # the setting is invitation
        ({"license": ["mit"]}, "license"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_and_its_field_named(
    sqlite_crew: Community, wanted: dict[str, Any], field: str
) -> None:
    assert field in ask(sqlite_crew, 422, **wanted)["field"]
    assert sqlite_crew.world.client(None).get("/api/v1/policy").json() == ANYTHING


def test_licences_are_asked_of_patches_models_acceptances_and_releases(sqlite_crew: Community) -> None:
    crew = sqlite_crew
    crew.push(crew.spares[0], license="gpl-3.0", title="early")  # before the policy
    crew.accept(1, 5)
    ask(crew, licenses=["apache-2.0", "mit"])

    def push(status: int, **words: Any) -> Any:
        sha256 = upload(crew.world.client("bob"), crew.spares[1].read_bytes())
        return crew.post("bob", "/patches", status, sha256=sha256, title="late", **words)

    none = push(422)
    assert (none["field"], none["detail"]) == (
        "license",
        "The patch states no licence; name one of apache-2.0, mit.",
    )
    assert push(422, license="gpl-3.0")["detail"] == (
        "The patch is under gpl-3.0, and this registry takes apache-2.0, mit."
    )
    assert push(202, license="mit")["license"] == "mit"
    crew.world.work()
    assert "is under gpl-3.0" in crew.ask("alice", "PATCH", "", 422, license="gpl-3.0")["detail"]
    assert "patch #5 is under gpl-3.0" in crew.cut("1.0.0", [1, 5], 422)["detail"]
    crew.cut("1.0.0", [1])  # one without a licence is only warned of, as ever

    ask(crew, licenses=["apache-2.0"])  # the patch under mit waits for acceptance
    crew.post("bob", "/patches/6/propose")
    refused = crew.post("mary", "/patches/6/accept", 409, message="")
    assert "It is under mit, and this registry takes apache-2.0." in refused["detail"]


def test_the_licence_of_a_base_may_come_from_its_card(sqlite_crew: Community, tmp_path: Any) -> None:
    base = make_checkpoint(tmp_path / "base")
    ask(sqlite_crew, licenses=["mit"])
    refused = create_model(sqlite_crew.world, "alice/apache", base)  # its card says apache-2.0
    assert refused["status"] == 404
    (row,) = sqlite_crew.events("model.refuse")
    assert row.after == {"error": "The base is under apache-2.0, and this registry takes mit."}
    card = (base / "README.md").read_text().replace("apache-2.0", "mit")
    (base / "README.md").write_text(card)
    assert create_model(sqlite_crew.world, "alice/mit", base)["license"] == "mit"


def test_a_mask_below_the_bounds_is_pushed_and_not_accepted_and_no_model_asks_for_it(sqlite_crew: Community) -> None:
    crew = sqlite_crew
    mask = crew.get("/patches/1")
    ask(crew, min_drop_bottom="0.99", min_drop_top="0.0")
    crew.post("bob", "/patches/1/propose")
    assert mask["drop_bottom"] == "0.85"
    (fault,) = [words for words in crew.get("/patches/1/discussion")["missing"] if "smallest" in words]
    assert fault == (
        "It leaves out 0.85 of the smallest changes, and this registry asks for 0.99 at least (--drop-bottom)."
    )
    crew.rules(min_approvals=0)
    assert fault in crew.post("mary", "/patches/1/accept", 409, message="")["detail"]
    assert crew.get("/inbox", "mary")["accept"] == []
    refused = crew.ask("alice", "PATCH", "", 422, mask={"drop_bottom": "0.9"})
    assert refused["detail"].startswith("The model's mask leaves out 0.9 of the smallest changes")
    ask(crew, min_drop_bottom="0.85")
    crew.post("mary", "/patches/1/accept", message="")


def test_only_named_models_of_the_hub_may_be_a_base(sqlite_crew: Community) -> None:
    alice = sqlite_crew.world.client("alice")

    def follow(source: str) -> Any:
        return alice.post("/api/v1/models", json={"name": f"alice/{source[-1]}", "source": f"hf://{source}"})

    ask(sqlite_crew, hub_models=["meta-llama/*", "acme/one"])
    refused = follow("acme/two").json()
    assert (refused["status"], refused["field"]) == (422, "source")
    assert "`crumb admin policy`" in refused["detail"]
    assert follow("acme-evil/one").status_code == 422
    assert follow("acme/one").status_code == 202
    assert follow("Meta-Llama/a@0123").status_code == 202
    ask(sqlite_crew, hub_models=[])
    assert follow("acme/9").json()["detail"].endswith("of the Hub's models this registry takes none.")


def test_a_policy_closes_what_the_setting_leaves_open(sqlite_crew: Community) -> None:
    chief = sqlite_crew.world.client("chief")
    link = chief.post("/api/v1/admin/invitations", json={}).json()["url"]
    assert ask(sqlite_crew, registration="closed")["registration"] == "closed"
    assert chief.post("/api/v1/admin/invitations", json={}).status_code == 403
    body = {"invitation": link.partition("invitation=")[2], "name": "newcomer"}
    assert sqlite_crew.world.client(None).post("/api/v1/joining/accept", json=body).status_code == 403
    ask(sqlite_crew, registration=None)
    assert sqlite_crew.world.client(None).post("/api/v1/joining/accept", json=body).status_code == 200
