"""Access by every kind of token: without a scope, of one model, no good, or an admin's."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import select

from registry.db.tables import Token, now
from registry.services.people import access
from registry.services.people.rules import RULES, SCOPES, Role
from tests.support.places import FOREIGN, OPEN, SHUT, Place, expected, found, sentence, way_of

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_without_the_scope_is_refused_with_the_missing_one(place: Place, scope: str) -> None:
    secret = place.token("owner", tuple(other for other in SCOPES if other != scope))
    for way in place.ways:
        model = FOREIGN if way.rule.scope == scope and way.about_a_model else OPEN  # it does not even say what is there
        answer = place.ask(way, model, secret)
        if way.rule.scope == scope:
            assert answer.status_code == 403, way
            assert way.method == "HEAD" or f"'{scope}'" in sentence(answer), way
        else:
            assert found(answer, way, model) == expected(place, way, "owner", model), way


def test_an_owner_is_not_named_as_who_could_give_the_rights_of_an_admin() -> None:
    assert access.refusal("patch.quarantine", RULES["patch.quarantine"], "a/b") == (
        "This needs an admin of the registry (patch.quarantine on a/b)."
    )


def test_every_rule_asks_for_an_existing_scope(place: Place) -> None:
    assert {rule.scope for rule in RULES.values()} == set(SCOPES)


@pytest.mark.parametrize("why", ["expired", "revoked", "unknown", "not bearer", "empty", "of another case"])
def test_a_token_that_is_no_good_is_refused_on_every_route(place: Place, why: str) -> None:
    secret = place.token("owner")
    header = {
        "unknown": f"Bearer hf_{'0' * 40}",
        "not bearer": f"Basic {secret}",
        "empty": "Bearer ",
        "of another case": f"Bearer {secret.swapcase()}",
    }.get(why, f"Bearer {secret}")
    with place.world.database.write() as session:
        row = session.scalars(select(Token).where(Token.prefix == secret[:9]).order_by(Token.created_at)).all()[-1]
        if why == "expired":
            row.expires_at = now() - timedelta(seconds=1)
        if why == "revoked":
            row.revoked_at = now()
    for way in place.ways:
        answer = place.http.request(way.method, place.url(way, OPEN), headers={"Authorization": header})
        if way.lenient:  # the Hub's clients send the token that they have: it is as none
            assert found(answer, way, OPEN) == expected(place, way, None, OPEN), way
        else:
            assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), way


def test_a_token_for_one_model_does_nothing_to_another(place: Place) -> None:
    for mine, other in ((OPEN, SHUT), (SHUT, OPEN)):
        secret = place.token("owner", model=mine)
        for way in filter(lambda way: way.about_a_model, place.ways):
            assert found(place.ask(way, mine, secret), way, mine) == expected(place, way, "owner", mine), way
            got = found(place.ask(way, other, secret), way, other)
            if other == SHUT:
                assert got == "404", way  # a private model is not even there
            else:
                everybodys = way.rule.scope == "read" and way.rule.role <= Role.CONTRIBUTOR
                assert got == ("in" if everybodys else "403"), way


def test_a_token_for_one_model_makes_no_tokens_and_no_names(place: Place) -> None:
    secret = place.token("owner", model=OPEN)
    headers = {"Authorization": f"Bearer {secret}"}
    files = [{"path": "model.safetensors", "sha256": "0" * 64}]
    for method, path, body in (
        ("POST", "/api/v1/tokens", {"scopes": ["read"]}),
        ("DELETE", f"/api/v1/tokens/{uuid.uuid4()}", None),
        ("POST", "/api/v1/namespaces", {"name": "fresh"}),
        ("PUT", "/api/v1/namespaces/band/members/stranger", {"role": "owner"}),
        ("DELETE", "/api/v1/namespaces/band/members/contributor", None),
        ("POST", "/api/v1/models", {"name": "band/fresh", "files": files}),
    ):
        answer = place.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == 403, (method, path, answer.text)
        assert "one model" in answer.json()["detail"] or "another model" in answer.json()["detail"]


def test_a_token_for_one_model_lists_no_other_private_one(place: Place) -> None:
    place.token("owner", model=SHUT)
    mine = {"Authorization": f"Bearer {place.token('owner', model=OPEN)}"}
    whole = {"Authorization": f"Bearer {place.secrets['owner']}"}

    def named(headers: dict[str, str]) -> set[str]:
        return {model["name"] for model in place.http.get("/api/v1/models", headers=headers).json()["items"]}

    assert named(whole) == {OPEN, SHUT}
    assert named(mine) == named({}) == {OPEN}
    assert SHUT in place.http.get("/api/v1/tokens", headers=whole).text
    assert SHUT not in place.http.get("/api/v1/tokens", headers=mine).text


def test_an_admin_is_none_without_the_scope_or_with_a_token_for_one_model(place: Place) -> None:
    show = way_of(place, "GET", "/api/v1/models/{namespace}/{name}")
    assert place.ask(show, FOREIGN, place.secrets["chief"]).json()["role"] == "admin"
    for secret in (
        place.token("chief", ("read", "push", "review", "release")),
        place.token("chief", model=OPEN),
    ):
        whoami = place.http.get("/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"})
        assert whoami.json()["admin"] is False
        for way in filter(lambda way: way.about_a_model, place.ways):
            got = found(place.ask(way, FOREIGN, secret), way, FOREIGN)
            assert got == ("403" if way.rule.scope not in whoami.json()["scopes"] else "404"), way
            if way.rule.role is Role.ADMIN:
                assert found(place.ask(way, OPEN, secret), way, OPEN) == "403", way
