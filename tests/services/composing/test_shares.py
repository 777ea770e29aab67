"""Shares: how many jobs one user may have, and how they get rid of compositions, which cost them nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from registry.db.tables import Composition, Job, Namespace, Patch
from registry.services.blobs import quotas
from registry.services.blobs.quotas import Usage
from registry.services.queue.limits import JobLimits
from tests.support.community import NAME, URL, Community
from tests.support.world import upload

ANY = 10**12


def limit(crew: Community, user_jobs: int = 100, model_jobs: int = 1000) -> None:
    context = crew.world.app.state.context
    crew.world.app.state.context = replace(context, job_limits=JobLimits(user_jobs, model_jobs))


def compose(crew: Community, alpha: str, user: str = "carol") -> Any:
    return crew.world.client(user).post(f"{URL}/compositions", json={"alpha": alpha, "patches": [{"number": 1}]})


def usage(crew: Community, name: str) -> Usage:
    with crew.world.database.read() as session:
        space = session.scalars(select(Namespace).where(Namespace.name == name)).one()
        return quotas.usage(session, space, ANY, ANY)


def count(crew: Community, table: Any) -> int:
    with crew.world.database.read() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def test_a_user_has_a_bounded_number_of_jobs_and_asking_again_is_free(crew: Community) -> None:
    limit(crew, user_jobs=2)
    assert [compose(crew, alpha).status_code for alpha in ("0.1", "0.2")] == [202, 202]
    refused = compose(crew, "0.3")
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:breadcrumb:problem:too-many")
    assert "You have 2 jobs queued or running, and 2 is the most of a user" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert compose(crew, "0.1").status_code == 202, "it is queued already"
    assert compose(crew, "0.3", "rita").status_code == 202, "another user's jobs are others"
    assert compose(crew, "0.3").status_code == 202, "rita has asked for it"
    crew.world.work()
    assert compose(crew, "0.1").status_code == 200
    assert compose(crew, "0.4").status_code == 202


def test_a_model_has_a_bounded_number_of_jobs(crew: Community) -> None:
    limit(crew, model_jobs=2)
    assert [compose(crew, "0.1").status_code, compose(crew, "0.2", "rita").status_code] == [202, 202]
    refused = compose(crew, "0.3", "mary")
    assert refused.status_code == 429
    assert f"{NAME} has 2 jobs queued or running" in refused.json()["detail"]


def test_whatever_adds_a_job_is_bounded_and_leaves_nothing(crew: Community) -> None:
    crew.accept(1, 2)
    sha256 = upload(crew.world.client("bob"), crew.spares[0].read_bytes())
    files = [
        {"path": file.name, "sha256": upload(crew.world.client("bob"), file.read_bytes())}
        for file in crew.base.iterdir()
    ]
    limit(crew, user_jobs=0)
    before = count(crew, Job), count(crew, Patch), crew.count_events()
    tries = {
        f"{URL}/patches": {"sha256": sha256, "title": "t"},
        f"{URL}/patches/3/revisions": {"sha256": sha256, "title": "t"},
        f"{URL}/compositions": {"patches": [{"number": 3}]},
        f"{URL}/conflicts": {"patches": [{"number": 1}, {"number": 2}]},
        "/api/v1/models": {"name": "bob/other", "files": files},
    }
    for path, body in tries.items():
        answer = crew.world.client("bob").post(path, json=body)
        assert answer.status_code == 429, (path, answer.status_code, answer.text)
    crew.post("mary", "/releases", 429, version="1.0.0", patches=[{"number": 1}])
    assert crew.world.client("bob").get(f"/{NAME}/resolve/refs%2Fpr%2F3/config.json").status_code == 429
    assert (count(crew, Job), count(crew, Patch), crew.count_events()) == before


def test_a_composition_counts_for_nobody(crew: Community) -> None:
    before = usage(crew, "carol")
    assert compose(crew, "0.1").status_code == 202
    crew.world.work()
    assert usage(crew, "carol") == before


def test_a_composition_that_is_deleted_composes_to_the_same_bytes(crew: Community, tmp_path: Path) -> None:
    recipe = compose(crew, "0.1").json()["recipe"]["digest"]
    crew.world.work()
    where = f"{URL}/compositions/{recipe}"
    before = crew.get(f"/revisions/{recipe}")
    assert crew.world.client("bob").delete(where).status_code == 403, "rita and carol alone, and maintainers"
    assert crew.world.client("carol").delete(where).status_code == 204
    assert crew.world.client("carol").delete(where).status_code == 404
    assert crew.get(f"/revisions/{recipe}", status=404)
    (event,) = crew.events("recipe.delete")
    assert (event.user_name, event.before["weights_digest"]) == ("carol", before["weights_digest"])
    assert compose(crew, "0.1").status_code == 202
    crew.world.work()
    again = crew.get(f"/revisions/{recipe}")
    assert (again["files"], again["commit"]) == (before["files"], before["commit"])
    assert crew.world.client("mary").delete(where).status_code == 204, "a maintainer"


def test_what_a_release_or_a_job_holds_is_not_deleted(crew: Community) -> None:
    crew.accept(1)
    release = crew.cut("1.0.0", [1])
    where = f"{URL}/compositions/{release['recipe']['digest']}"
    refused = crew.world.client("mary").delete(where)
    assert refused.status_code == 409
    assert f"{NAME}@1.0.0" in refused.json()["detail"]
    assert count(crew, Composition) == 1
