"""Alpha `auto` at the registry: the default, which has patches compared where that is missing."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from sqlalchemy import select

from registry.breadcrumbs.comparing.alpha import USUAL, AlphaPart, kept_share, rule_of
from registry.db.tables import Job, Patch, PatchPair, PatchRevision, Recipe
from registry.services.composing import alphas, conflict_sums
from registry.services.people.tokens import create_token
from tests.support.community import Community

SUMS = {"numel": 100, "first": 10, "second": 10, "overlap": 1, "opposed": 0, "dot": 0.0}


def named(*numbers: int, **more: Any) -> dict[str, Any]:
    return {"patches": [{"number": number} for number in numbers], **more}


def comparisons(crew: Community) -> Sequence[Job]:
    with crew.world.database.read() as session:
        return session.scalars(select(Job).where(Job.kind == "conflicts")).all()


def norms(crew: Community, *numbers: int) -> list[float]:
    return [
        math.sqrt(sum(tensor["l2"] ** 2 for tensor in crew.get(f"/patches/{number}/tensors"))) for number in numbers
    ]


def add_patches(crew: Community, count: int, **cuts: str) -> list[int]:
    """Add checked patches at right angles to each other, all pairs of which are known; return their numbers."""
    with crew.world.database.write() as session:
        like, digests = crew.revision(session, 1), []
        model, author = like.patch_id, session.get_one(Patch, like.patch_id).author_id
        model_id = session.get_one(Patch, model).model_id
        for number in range(101, 101 + count):
            patch = Patch(model_id=model_id, author_id=author, number=number, revision=1, state="accepted")
            session.add(patch)
            session.flush()
            digests.append(f"{number:064x}")
            session.add(
                PatchRevision(
                    patch_id=patch.id,
                    number=1,
                    state="checked",
                    title="many",
                    message="",
                    base_digest=like.base_digest,
                    sha256=digests[-1],
                    size=1,
                    nnz=1,
                    density=0.1,
                    norm=2.0,
                    **cuts,
                )
            )
        pairs = [conflict_sums.key_of(one, two) for one, two in combinations(digests, 2)]
        session.add_all(PatchPair(first_sha256=one, second_sha256=two, sums=SUMS, tensors={}) for one, two in pairs)
    return list(range(101, 101 + count))


def test_composing_without_an_alpha_has_patches_compared_and_says_which_job_does(crew: Community) -> None:
    refused = crew.post("bob", "/compositions", 409, **named(1, 2, 3))
    assert refused["type"] == "urn:breadcrumb:problem:not-compared"
    (job,) = comparisons(crew)
    assert refused["job"] == str(job.id) and refused["job"] in refused["detail"]
    assert crew.world.client("bob").get(f"/api/v1/jobs/{refused['job']}").json()["subject"] == "#1, #2, #3"
    assert crew.post("bob", "/compositions", 409, **named(1, 2, 3))["job"] == refused["job"], "it is asked for once"
    assert len(crew.events("conflict.ask")) == 1
    with crew.world.database.read() as session:
        assert session.query(Recipe).count() == 0
    crew.world.work()
    made = crew.post("bob", "/compositions", 202, **named(1, 2, 3))
    assert made["alpha_rule"] == "0.3 x the root of (norm of the base / (sum of weights x norm of the sum))"
    pairs = crew.get("/conflicts?patch=1&patch=2&patch=3")["pairs"]
    sizes, dots = norms(crew, 1, 2, 3), sum(pair["whole"]["dot"] for pair in pairs)
    whole = math.sqrt(sum(size * size for size in sizes) + 2 * dots)
    base = math.fsum(crew.get(f"/patches/{number}")["base_norm"] for number in (1, 2, 3)) / 3
    assert base > max(sizes)
    assert float(made["recipe"]["alpha"]) == pytest.approx(0.3 * math.sqrt(base / (3 * whole)), rel=0.005)
    assert crew.post("bob", "/compositions", 202, **named(1, 2, 3, alpha=made["recipe"]["alpha"]))["alpha_rule"] is None


def test_a_patch_alone_and_patches_of_weight_0_need_no_comparison(crew: Community) -> None:
    made = crew.post("bob", "/compositions", 202, **named(1))
    assert (made["recipe"]["alpha"], made["alpha_rule"]) == ("1", "a patch by itself has alpha 1")
    other = crew.post("bob", "/compositions", 202, patches=[{"number": 1}, {"number": 2, "weight": "0.0"}])
    assert other["recipe"]["alpha"] == "1"
    assert comparisons(crew) == []


@pytest.mark.parametrize("method", ["ties", "mean"])
def test_each_method_has_its_rule(crew: Community, method: str) -> None:
    crew.post("bob", "/compositions", 409, **named(1, 2))
    crew.world.work()
    added = crew.post("bob", "/compositions", 202, **named(1, 2))
    made = crew.post("bob", "/compositions", 202, **named(1, 2, method=method))
    parts = [AlphaPart("1", kept_share(), 1.0, 1.0)] * 2
    assert made["alpha_rule"] == rule_of(method, parts) != added["alpha_rule"] == rule_of("sum", parts)
    assert float(made["recipe"]["alpha"]) > float(added["recipe"]["alpha"])


def test_many_patches_have_an_alpha_and_too_many_are_told_to_give_one(crew: Community) -> None:
    numbers = add_patches(crew, alphas.MOST_PATCHES + 1)
    for count in (24, alphas.MOST_PATCHES):
        made = crew.ask(None, "POST", "/preview", **named(*numbers[:count]))
        assert float(made["alpha"]) == pytest.approx(0.3 * math.sqrt(1 / (USUAL * count**1.5)), rel=0.005)
    refused = crew.post("bob", "/compositions", 422, **named(*numbers))
    assert "for 64 patches at most, and these are 65; give a decimal" in refused["detail"]
    assert crew.ask(None, "POST", "/preview", **named(*numbers, alpha="0.3"))["alpha_rule"] is None


def test_patches_of_which_little_was_left_out_have_a_smaller_alpha(crew: Community) -> None:
    made = crew.ask(None, "POST", "/preview", **named(*add_patches(crew, 2, drop_bottom="0", drop_top="0")))
    assert float(made["alpha"]) == pytest.approx(0.3 * 0.143**0.4 * math.sqrt(1 / (USUAL * 2**1.5)), rel=0.005)
    assert made["alpha_rule"].startswith("0.138 x ")


def test_a_release_is_cut_by_the_same_rule(crew: Community) -> None:
    crew.accept(1, 2)
    body = named(1, 2, version="1.0.0")
    refused = crew.post("mary", "/releases", 409, **body)
    assert refused["job"] == str(comparisons(crew)[0].id)
    crew.world.work()
    made = crew.post("mary", "/releases", 202, **body)
    assert made["alpha_rule"].startswith("0.3 x ")
    crew.world.work()
    assert crew.get("/releases/1.0.0")["alpha_rule"] is None, "a release keeps the decimal alone"
    same = crew.post("mary", "/releases", 202, version="1.1.0", from_ref="1.0.0", add=[{"number": 3}])
    assert (same["recipe"]["alpha"], same["alpha_rule"]) == (made["recipe"]["alpha"], None)


def test_what_is_refused_anyway_has_nothing_compared(crew: Community) -> None:
    glob = [{"number": 1, "where": [["nowhere.*", "0.5"]]}, {"number": 2}]
    assert "changes no tensor" in crew.post("bob", "/compositions", 422, patches=glob)["detail"]
    crew.post("bob", "/compositions", 422, patches=[{"number": 1}, {"number": 2, "weight": "-1"}], method="ties")
    with crew.world.database.write() as session:
        crew.revision(session, 2).state = "refused"
    assert "is refused" in crew.post("bob", "/compositions", 422, **named(1, 2))["detail"]
    assert comparisons(crew) == []


def test_who_may_not_ask_for_conflicts_is_told_so(crew: Community) -> None:
    with crew.world.database.write() as session:
        crew.world.tokens["pusher"], _ = create_token(session, "pusher", scopes=["push"])
    refused = crew.post("pusher", "/compositions", 403, **named(1, 2))
    assert "read" in refused["detail"]
    assert comparisons(crew) == []


def test_a_comparison_for_alpha_counts_among_the_jobs_of_its_user(crew: Community) -> None:
    state = crew.world.app.state
    state.context = replace(state.context, job_limits=replace(state.context.job_limits, user_jobs=0))
    assert "jobs" in crew.post("bob", "/compositions", 429, **named(1, 2))["detail"]
    assert comparisons(crew) == []
