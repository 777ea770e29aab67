"""Revisions of the Hub that are composed when they are asked for: by whom, how long that waits, what it leaves."""

import re
import threading
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Job
from registry.errors import InvalidRecipe
from registry.server.hub import route
from registry.services.people.tokens import create_token
from tests.support.community import NAME, Community
from tests.support.makers import make_checkpoint
from tests.support.world import create_model

API = f"/api/models/{NAME}"
PULL = "refs%2Fpr%2F4"
FILE = f"/{NAME}/resolve/{PULL}/model.safetensors"


@pytest.fixture
def plain(sqlite_crew: Community) -> Community:
    return sqlite_crew


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let the worker do what there is to do whenever a waiting request looks after its job."""
    made: Community = request.getfixturevalue("crew" if "crew" in request.fixturenames else "plain")
    look = route.job_state

    def step(*about: Any) -> Any:
        made.world.work()
        return look(*about)

    monkeypatch.setattr(route, "job_state", step)
    monkeypatch.setattr(route, "LOOK_SECONDS", 0.01)


def ask(crew: Community, user: str | None, path: str = f"{API}/revision/{PULL}", method: str = "GET") -> Any:
    return crew.world.client(user).request(method, path)


def secret(crew: Community, user: str, *scopes: str) -> dict[str, str]:
    with crew.world.database.write() as session:
        return {"Authorization": f"Bearer {create_token(session, user, scopes=scopes)[0]}"}


def no_revision(answer: Any) -> str:
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RevisionNotFound"), answer.text
    return str(answer.json()["error"])


def jobs(crew: Community) -> list[Job]:
    with crew.world.database.read() as session:
        return list(session.scalars(select(Job).where(Job.kind == "compose")))


def recipe_of(crew: Community, numbers: list[int], user: str = "bob") -> str:
    """Ask for a composition that no worker takes, and cancel it; return the recipe's digest."""
    body = {"patches": [{"number": number} for number in numbers], "alpha": "0.3"}
    made = crew.post(user, "/compositions", 202, **body)
    assert crew.world.client(user).post(f"/api/v1/jobs/{made['job']['id']}/cancel").status_code == 200
    return str(made["recipe"]["digest"])


@pytest.mark.usefixtures("driven")
def test_a_pull_request_is_composed_for_a_contributor_while_they_wait(crew: Community) -> None:
    answer = ask(crew, "carol")
    assert answer.status_code == 200, answer.text
    commit = answer.json()["sha"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (event,) = crew.events("recipe.compose")
    assert (event.user_name, len(jobs(crew))) == ("carol", 1)
    before = crew.count_events()
    for user in (None, "carol"):
        assert ask(crew, user).json()["sha"] == commit
        assert ask(crew, user, f"{API}/revision/{commit}").json()["sha"] == commit
        file = ask(crew, user, FILE)
        assert (file.status_code, file.headers["x-repo-commit"]) == (200, commit)
        assert file.headers["cache-control"] == "public, no-cache", "the next revision of the patch is another model"
    assert (crew.count_events(), len(jobs(crew))) == (before, 1)
    crew.revise(4, crew.spares[0])
    assert ask(crew, "carol").json()["sha"] != commit
    assert ask(crew, None, f"{API}/revision/{commit}").json()["sha"] == commit


@pytest.mark.usefixtures("driven")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", FILE),
        ("GET", f"{API}/tree/{PULL}?recursive=true"),
        ("GET", f"{API}/revision/refs%2Fheads%2Frefs%2Fpr%2F4"),
        ("POST", f"{API}/paths-info/{PULL}"),
    ],
)
def test_every_question_about_a_revision_has_it_composed(plain: Community, method: str, path: str) -> None:
    body = {"data": {"paths": "config.json"}} if method == "POST" else {}
    answer = plain.world.client("carol").request(method, path, **body)
    assert answer.status_code == 200, answer.text
    if method == "POST":
        assert [entry["path"] for entry in answer.json()] == ["config.json"]
    assert len(plain.events("recipe.compose")) == 1


@pytest.mark.usefixtures("driven")
def test_a_recipe_that_somebody_has_asked_for_is_composed(crew: Community) -> None:
    digest = recipe_of(crew, [1, 3])
    told = no_revision(ask(crew, None, f"{API}/revision/recipe-{digest[:10]}"))
    assert "not composed yet" in told
    assert "has no composed recipe" in no_revision(ask(crew, "carol", f"{API}/revision/{digest}"))
    for name in (f"recipe-{digest[:10]}", f"refs%2Ftags%2Frecipe-{digest}"):
        assert ask(crew, "carol", f"{API}/revision/{name}").status_code == 200
    assert [event.user_name for event in crew.events("recipe.compose")] == ["bob", "carol"]


def test_a_worker_elsewhere_composes_while_the_request_waits(plain: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "LOOK_SECONDS", 3600.0)  # it is notified
    worker = plain.world.worker
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert ask(plain, "carol", FILE).status_code == 200
    finally:
        worker.stop()
        thread.join()


# who may not


def test_nobody_else_has_it_composed(plain: Community) -> None:
    create_model(plain.world, "alice/other", make_checkpoint(plain.world.settings.data / "other"))
    narrow = {"scopes": ["read", "push"], "model": "alice/other"}
    other = plain.world.client("carol").post("/api/v1/tokens", json=narrow).json()["token"]
    reading = secret(plain, "carol", "read")
    before = plain.count_events()
    anybody = plain.world.client(None)
    for headers in (
        {},
        {"Authorization": "Bearer hf_" + "x" * 34},
        reading,
        {"Authorization": f"Bearer {other}"},
    ):
        for method, path in (("GET", f"{API}/revision/{PULL}"), ("GET", FILE)):
            told = no_revision(anybody.request(method, path, headers=headers))
            assert told == (
                f"{NAME} with patch #4 is not composed yet. To have it composed, ask for this revision with a token of "
                f"the scope 'push', or run `crumb compose {NAME} 4`."
            )
        assert anybody.head(FILE, headers=headers).status_code == 404
    assert (jobs(plain), plain.count_events()) == ([], before)
    assert (
        plain.world.client("alice").patch(f"/api/v1/models/{NAME}", json={"visibility": "private"}).status_code == 200
    )
    for user, status in ((None, 401), ("carol", 404)):
        answer = ask(plain, user)
        assert (answer.status_code, answer.headers["x-error-code"]) == (status, "RepoNotFound")
    assert jobs(plain) == []


@pytest.mark.usefixtures("driven")
def test_a_token_for_one_model_has_that_one_composed(plain: Community) -> None:
    made = plain.world.client("carol").post("/api/v1/tokens", json={"scopes": ["read", "push"], "model": NAME})
    headers = {"Authorization": f"Bearer {made.json()['token']}"}
    assert plain.world.client(None).get(f"{API}/revision/{PULL}", headers=headers).status_code == 200


def test_an_anonymous_question_locks_nothing(plain: Community) -> None:
    """Or a writer who takes their time would hold up all who only look."""
    with plain.world.database.write() as session:
        plain.model(session)  # now it has the lock
        assert "not composed yet" in no_revision(ask(plain, None))


# what cannot be composed


def test_patches_that_are_not_there_unchecked_yanked_or_quarantined_are_not_composed(plain: Community) -> None:
    plain.accept(1, 2)
    plain.post("mary", "/patches/1/yank", message="it forgets")
    plain.put("chief", "/patches/2/quarantine", reason="looks odd")
    before = plain.count_events()
    for number, words in ((1, "was yanked (it forgets)"), (2, "is quarantined"), (9, f"no patch {NAME}#9")):
        assert words in no_revision(ask(plain, "carol", f"{API}/revision/refs%2Fpr%2F{number}"))
    with plain.world.database.write() as session:
        plain.revision(session, 3).state = "checking"
    assert "is checking" in no_revision(ask(plain, "carol", f"{API}/revision/refs%2Fpr%2F3"))
    assert (jobs(plain), plain.count_events()) == ([], before)


@pytest.mark.usefixtures("driven")
def test_a_recipe_with_a_yanked_patch_is_composed_and_one_with_a_quarantined_patch_is_not(plain: Community) -> None:
    plain.accept(1, 2)
    yanked, odd = recipe_of(plain, [1, 3]), recipe_of(plain, [2, 3])
    plain.post("mary", "/patches/1/yank", message="it forgets")
    plain.put("chief", "/patches/2/quarantine", reason="looks odd")
    answer = ask(plain, "carol", f"{API}/revision/recipe-{yanked}")
    assert answer.status_code == 200, answer.text
    assert "patch #1, which was yanked: it forgets" in answer.headers["x-hf-warning"]
    assert "is quarantined" in no_revision(ask(plain, "carol", f"{API}/revision/recipe-{odd}"))


def test_a_recipe_of_another_model_is_not_found(plain: Community) -> None:
    digest = recipe_of(plain, [1])
    create_model(plain.world, "carol/copy", plain.base)
    create_model(plain.world, "carol/other", make_checkpoint(plain.world.settings.data / "other", seed=9))
    for name in ("copy", "other"):
        told = no_revision(ask(plain, "carol", f"/api/models/carol/{name}/revision/recipe-{digest}"))
        assert f"carol/{name} has no recipe" in told


@pytest.mark.usefixtures("driven")
def test_a_composition_that_fails_says_why(plain: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InvalidRecipe("The sum is not finite.")

    monkeypatch.setattr("registry.services.composing.compositions.finish", fail)
    assert no_revision(ask(plain, "carol")) == "The revision could not be composed: The sum is not finite."
    assert [job.state for job in jobs(plain)] == ["failed"]
    monkeypatch.undo()


def test_a_job_that_ends_otherwise_is_an_answer(plain: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    look, end = route.job_state, {"how": ""}

    def ended(made: Any, job_id: Any) -> Any:
        with made.database.write() as session:
            job = session.get_one(Job, job_id)
            if end["how"] == "gone":
                session.delete(job)
            else:
                job.state = end["how"]
        return look(made, job_id)

    monkeypatch.setattr(route, "job_state", ended)
    for end["how"] in ("cancelled", "gone"):
        assert no_revision(ask(plain, "carol")).startswith("The revision could not be composed: ")


# how long it waits


@pytest.mark.parametrize(("method", "seconds"), [("HEAD", "HEAD_SECONDS"), ("GET", "CALL_SECONDS")])
def test_who_has_waited_long_enough_is_asked_to_come_back(
    plain: Community, monkeypatch: pytest.MonkeyPatch, method: str, seconds: str
) -> None:
    for name in ("HEAD_SECONDS", "CALL_SECONDS"):
        monkeypatch.setattr(route, name, 0.0 if name == seconds else 1000.0)
    monkeypatch.setattr(route, "LOOK_SECONDS", 0.01)
    for _ in range(3):
        answer = ask(plain, "carol", FILE, method)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert "being composed" in answer.headers["x-error-message"]
    assert (len(jobs(plain)), len(plain.events("recipe.compose"))) == (1, 1), "asked once, however often they came back"
    plain.world.work()
    assert ask(plain, "carol", FILE, method).status_code == 200


def test_a_recipe_that_is_asked_for_again_and_again_is_in_the_log_once_for_each_who_did(
    plain: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = recipe_of(plain, [1, 2])
    monkeypatch.setattr(route, "CALL_SECONDS", 0.0)
    before = len(plain.events("recipe.compose"))
    for _ in range(3):
        assert ask(plain, "carol", f"{API}/revision/recipe-{digest}").status_code == 429
    assert len(plain.events("recipe.compose")) == before + 1


def test_two_who_ask_at_once_share_one_composition(crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = recipe_of(crew, [1, 2])
    monkeypatch.setattr(route, "CALL_SECONDS", 0.0)
    start, answers = threading.Barrier(4), []

    def go(user: str) -> None:
        client = crew.world.client(user)
        start.wait()
        answers.append(client.get(f"{API}/revision/recipe-{digest}").status_code)

    threads = [threading.Thread(target=go, args=(user,)) for user in ("carol", "bob", "alice", "rita")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [429] * 4
    assert len([job for job in jobs(crew) if job.state == "queued"]) == 1
