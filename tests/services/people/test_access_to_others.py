"""Access to what is somebody else's, which looks like what does not exist."""

import uuid

import pytest

from registry.services.people.rules import Role
from tests.support.places import FOREIGN, OPEN, SHUT, Place, anonymous, bearer, found
from tests.support.routes import Way
from tests.support.world import digest

pytestmark = pytest.mark.heavy


def test_what_belongs_to_another_model_looks_like_what_does_not_exist(place: Place) -> None:
    """`vault/secret` has a second patch; the public model has only one."""

    def words(way: Way, number: str) -> tuple[int, str]:
        answer = place.ask(way, OPEN, place.secrets["chief"], number=number)
        text = anonymous(answer).replace(f"#{number}", "#N").replace(f" {number} -", " N -")  # also in a command
        return answer.status_code, text

    mine = place.http.get(f"/api/v1/models/{FOREIGN}/patches/2", headers=bearer(place, "chief"))
    assert mine.status_code == 200
    for way in place.ways:
        if way.about_a_model and "number" in way.parameters:
            assert words(way, "2") == words(way, "77"), way


def test_the_author_of_a_patch_is_not_the_author_of_its_number_elsewhere(place: Place) -> None:
    for way in place.ways:
        if way.rule.author:
            answer = place.ask(way, OPEN, place.secrets["founder"], number="1")
            role = Role.OWNER  # the founder of the namespace, and author of vault/secret#2 alone
            assert found(answer, way, OPEN) == ("in" if role >= way.rule.role else "403"), way
            answer = place.ask(way, OPEN, place.secrets["stranger"], number="2")
            assert answer.status_code == 404, way


def test_foreign_keys_look_like_keys_that_nobody_has(place: Place) -> None:
    stranger, founder = bearer(place, "stranger"), bearer(place, "founder")
    sha256 = digest(b"of the stranger")
    session = place.http.post("/api/v1/uploads", json={"sha256": sha256, "size": 15}, headers=stranger).json()
    token = place.http.post("/api/v1/tokens", json={"scopes": ["read"]}, headers=stranger).json()
    body = {"alpha": "0.3", "patches": [{"number": 1}]}
    job = place.http.post(f"/api/v1/models/{FOREIGN}/compositions", json=body, headers=founder).json()["job"]
    for way, key, whose in (
        ("GET /api/v1/uploads/{}", session["id"], "chief"),
        ("PUT /api/v1/uploads/{}/parts/0", session["id"], "chief"),
        ("POST /api/v1/uploads/{}/complete", session["id"], "chief"),
        ("DELETE /api/v1/uploads/{}", session["id"], "chief"),
        ("DELETE /api/v1/tokens/{}", token["id"], "chief"),
        ("GET /api/v1/jobs/{}", job["id"], "stranger"),
        ("GET /api/v1/jobs/{}", job["id"], None),
        ("POST /api/v1/jobs/{}/cancel", job["id"], "stranger"),
        ("POST /api/v1/jobs/{}/cancel", job["id"], "owner"),
    ):
        method, path = way.split()
        answers = []
        for given in (key, str(uuid.uuid4())):
            part = {"Content-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}
            headers = {**(bearer(place, whose) if whose else {}), **part}
            answer = place.http.request(method, path.format(given), headers=headers, content=b"")
            answers.append((answer.status_code, anonymous(answer)))
        assert answers[0] == answers[1], way
        assert answers[0][0] == 404, way
    # ... and those whose they are have them still
    assert place.http.get(f"/api/v1/uploads/{session['id']}", headers=stranger).status_code == 200
    assert place.http.delete(f"/api/v1/uploads/{session['id']}", headers=stranger).status_code == 204
    assert place.http.delete(f"/api/v1/tokens/{token['id']}", headers=stranger).status_code == 204
    cancelled = place.http.post(f"/api/v1/jobs/{job['id']}/cancel", headers=founder)
    assert cancelled.json()["state"] == "cancelled"


def test_a_recipe_that_only_another_model_has_composed_is_not_there(place: Place) -> None:
    headers, founder = bearer(place, "owner"), bearer(place, "founder")
    body = {"alpha": "0.7", "patches": [{"number": 1}]}
    made = place.http.post(f"/api/v1/models/{FOREIGN}/compositions", json=body, headers=founder).json()
    if made["job"]:
        place.world.work()
    recipe = made["recipe"]["digest"]
    assert place.http.get(f"/api/v1/models/{FOREIGN}/revisions/{recipe}", headers=founder).status_code == 200
    build = {"weights_digest": f"sha256:{'0' * 64}"}
    asked = []
    for given in (recipe, "f" * 64):
        answers = (
            place.http.get(f"/api/v1/models/{OPEN}/revisions/{given}", headers=headers),
            place.http.get(f"/api/v1/models/{OPEN}/revisions/{given}/files/config.json", headers=headers),
            place.http.get(f"/api/v1/models/{OPEN}/recipes/{given}/builds", headers=headers),
            place.http.post(f"/api/v1/models/{OPEN}/builds", json={"recipe": given, **build}, headers=headers),
        )
        asked.append([(answer.status_code, anonymous(answer).replace(given, "D")) for answer in answers])
    assert asked[0] == asked[1]
    assert [status for status, _ in asked[0]] == [404, 404, 200, 404]


def test_knowing_a_digest_grants_nothing(place: Place) -> None:
    """Bytes of a private model or a quarantined patch must be sent in full by whoever names their digest."""
    headers, founder, chief = (bearer(place, user) for user in ("stranger", "founder", "chief"))
    shown = place.http.get(f"/api/v1/models/{FOREIGN}/revisions/base", headers=founder).json()["files"]
    weights = next(file for file in shown if file["path"] == "config.json")
    body = {"sha256": weights["sha256"], "size": weights["size"]}
    before = place.http.post("/api/v1/uploads", json=body, headers=headers)
    assert before.status_code == 200  # crew/open, which everybody may read, has the same base
    place.http.delete(f"/api/v1/uploads/{before.json()['id']}", headers=headers)
    quarantine = f"/api/v1/models/{OPEN}/patches/1/quarantine"
    size = place.http.get(f"/api/v1/models/{OPEN}/patches/1", headers=headers).json()["size"]
    assert place.http.put(quarantine, json={"reason": "looks odd"}, headers=chief).status_code == 200
    try:
        for sha256 in (place.patches[OPEN], place.patches[FOREIGN], place.patches[SHUT]):
            refused = []
            for given in (sha256, digest(b"nobody has this")):
                announced = place.http.post("/api/v1/uploads", json={"sha256": given, "size": size}, headers=headers)
                session = announced.json()
                assert (announced.status_code, session["state"]) == (201, "open")
                assert session["missing"] == list(range(-(-size // session["part_size"])))
                complete = place.http.post(f"/api/v1/uploads/{session['id']}/complete", headers=headers)
                files = [{"path": "model.safetensors", "sha256": given}]
                model = place.http.post("/api/v1/models", json={"name": "stranger/x", "files": files}, headers=headers)
                patch = place.http.post(
                    f"/api/v1/models/{OPEN}/patches", json={"sha256": given, "title": "x"}, headers=headers
                )
                assert (complete.status_code, model.status_code) == (409, 422)
                if given != place.patches[OPEN]:  # which is there to see, as crew/open#1
                    assert patch.status_code == 422
                assert place.http.delete(f"/api/v1/uploads/{session['id']}", headers=headers).status_code == 204
                refused.append((complete.json()["detail"], model.json()["detail"]))
            assert refused[0] == refused[1]
    finally:
        assert place.http.put(quarantine, json={"reason": None}, headers=chief).status_code == 200


def test_nobody_reserves_room_in_a_namespace_that_they_cannot_fill(place: Place) -> None:
    body = {"sha256": digest(b"for others"), "size": 10, "namespace": "band"}
    for user in ("stranger", "contributor", "reviewer", "author"):
        refused = place.http.post("/api/v1/uploads", json=body, headers=bearer(place, user))
        assert refused.status_code == 403, (user, refused.text)
    for user in ("maintainer", "owner", "chief"):
        session = place.http.post("/api/v1/uploads", json=body, headers=bearer(place, user))
        assert session.status_code == 201, (user, session.text)
        place.http.delete(f"/api/v1/uploads/{session.json()['id']}", headers=bearer(place, user))
