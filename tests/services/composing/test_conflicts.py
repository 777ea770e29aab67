"""Conflicts at a registry: computed once, for the first user who asks, and shown to all who may see the patches."""

import threading
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sqlalchemy import event, func, select

from registry.db.tables import Job, PatchPair, PatchSet
from registry.services.composing import conflict_sums, conflicts
from tests.support.community import PATCHES, Community
from tests.support.world import create_model, push_patch

pytestmark = pytest.mark.heavy
EVERY = range(1, PATCHES + 1)
PAIRS = PATCHES * (PATCHES - 1) // 2
WHOLE = 40 * 16 + 16 + 40 + 40 * 16  # weights of the base: two tensors, integer positions and the head


def ask(crew: Community, *numbers: int, user: str = "carol", status: int = 202) -> Any:
    return crew.post(user, "/conflicts", status, patches=[{"number": number} for number in numbers])


def computed(crew: Community, *numbers: int) -> Any:
    """Have patches compared, and return the known conflicts."""
    assert ask(crew, *numbers)["job"]["state"] == "queued"
    crew.world.work()
    return ask(crew, *numbers, status=200)


def look(crew: Community, *numbers: object, user: str | None = None, status: int = 200) -> Any:
    return crew.get("/conflicts?" + "&".join(f"patch={number}" for number in numbers), user, status)


def rows(crew: Community, table: Any, *where: Any) -> int:
    with crew.world.database.read() as session:
        return session.scalars(select(func.count()).select_from(table).where(*where)).one()


def jobs(crew: Community) -> int:
    return rows(crew, Job, Job.kind == "conflicts")


def named(found: Any) -> list[int]:
    return [patch["number"] for patch in found["patches"]]


def dense(crew: Community, number: int) -> dict[str, np.ndarray]:
    """Read a patch file into what it adds to each weight; NaN where it touches nothing."""
    entries = load_file(crew.world.store.path(crew.patch(number)["sha256"]))
    shapes = {row["name"]: row["shape"] for row in crew.get(f"/patches/{number}/tensors")}
    found = {}
    for name, shape in shapes.items():
        found[name] = np.full(int(np.prod(shape)), np.nan)
        if f"{name}.indices" in entries:
            places = entries[f"{name}.indices"]
        else:
            places = np.flatnonzero(np.unpackbits(entries[f"{name}.bitmask"].view(np.uint8), bitorder="little"))
        found[name][places] = entries[f"{name}.values"]
    return found


# ------------------------------------------------------------------------------------------------- asked and known


def test_computed_conflicts_agree_with_the_files_in_either_order(crew: Community) -> None:
    assert computed(crew, 1, 2)["missing"] == 0
    for first, second in ((1, 2), (2, 1)):
        a, b = dense(crew, first), dense(crew, second)
        found = crew.get(f"/conflicts/{first}/{second}")
        assert (found["first"]["number"], found["second"]["number"]) == (first, second)
        assert found["first"]["title"] == f"Patch {first}"
        assert set(found["tensors"]) == set(a) | set(b)
        for name, overlap in found["tensors"].items():
            both = ~np.isnan(a[name]) & ~np.isnan(b[name])
            assert overlap["first"] == np.count_nonzero(~np.isnan(a[name]))
            assert overlap["second"] == np.count_nonzero(~np.isnan(b[name]))
            assert overlap["overlap"] == both.sum()
            assert overlap["opposed"] == (a[name][both] * b[name][both] < 0).sum()
            assert overlap["first_squares"] == pytest.approx(np.nansum(a[name] ** 2))
            assert overlap["second_l1"] == pytest.approx(np.nansum(abs(b[name])))
        whole, tensors = found["whole"], found["tensors"].values()
        for field in ("numel", "first", "second", "overlap", "opposed"):
            assert whole[field] == sum(tensor[field] for tensor in tensors)
        norms = [np.sqrt(sum(np.nansum(one**2) for one in patch.values())) for patch in (a, b)]
        assert whole["norm_ratio"] == pytest.approx(norms[0] / norms[1])
        assert whole["sign_conflict"] == pytest.approx(whole["opposed"] / whole["overlap"])
        assert whole["iou"] == pytest.approx(whole["overlap"] / whole["union"])


def test_the_census_is_over_the_whole_base_and_energy_is_shared_out(crew: Community) -> None:
    found = computed(crew, *EVERY)
    patches = [dense(crew, number) for number in EVERY]
    counts = {name: sum(~np.isnan(patch[name]) for patch in patches) for name in patches[0]}
    assert found["tensors"] == {
        name: np.bincount(count, minlength=PATCHES + 1).tolist() for name, count in counts.items()
    }
    assert sum(found["census"]) == WHOLE
    assert found["census"][1:] == [sum(row[place] for row in found["tensors"].values()) for place in EVERY]
    for name, shares in found["energy"].items():
        squares = [np.nansum(patch[name] ** 2) for patch in patches]
        assert shares == pytest.approx([square / sum(squares) for square in squares])


def test_a_pair_is_computed_once_whatever_set_it_is_asked_for_in(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed(crew, 1, 2, 3)
    run, seen = crew.world.worker.in_sandbox, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(len(kwargs["pairs"]))
        return run(*args, **kwargs)

    monkeypatch.setattr(crew.world.worker, "in_sandbox", watched)
    found = look(crew, *EVERY)
    assert (len(found["pairs"]), found["missing"], found["census"]) == (3, PAIRS - 3, None)
    assert computed(crew, *EVERY)["missing"] == 0
    assert computed(crew, 3, 1)["census"] is not None, "its pair is known, and its census is not"
    assert seen == [3, 0]
    assert (rows(crew, PatchPair), rows(crew, PatchSet)) == (PAIRS, 3)


def test_asking_again_is_the_same_job_and_an_ended_one_can_be_asked_for_again(crew: Community) -> None:
    first, second = ask(crew, 1, 2), ask(crew, 2, 1, user="rita")
    assert first["job"]["id"] == second["job"]["id"] == look(crew, 1, 2)["job"]["id"]
    assert ask(crew, 1, 2)["job"]["id"] == first["job"]["id"]
    assert first["job"]["subject"] == "#1, #2"
    assert jobs(crew) == len(crew.events("conflict.ask")) - 1 == 1
    url = f"/api/v1/jobs/{first['job']['id']}/cancel"
    refused = crew.world.client("carol").post(url)
    assert "this comparison too" in refused.json()["detail"]
    assert crew.world.client("chief").post(url).json()["state"] == "cancelled"
    assert computed(crew, 1, 2)["missing"] == 0


def test_a_damaged_file_fails_the_job_and_a_mended_one_can_be_compared(crew: Community) -> None:
    blob = crew.world.store.path(crew.patch(2)["sha256"])
    sound = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    job = ask(crew, 1, 2)["job"]["id"]
    crew.world.work()
    ended = crew.world.client(None).get(f"/api/v1/jobs/{job}").json()
    assert (ended["state"], rows(crew, PatchPair)) == ("failed", 0)
    assert "damaged" in ended["error"]
    blob.write_bytes(sound)
    assert computed(crew, 1, 2)["missing"] == 0


def test_two_workers_may_write_the_same_at_once(crew: Community) -> None:
    digests = sorted(crew.patch(number)["sha256"] for number in EVERY)
    sums = dict.fromkeys(("numel", "first", "second", "overlap", "opposed"), 0)
    pairs = [{"first": one, "second": two, "tensors": {"a": sums}} for one, two in combinations(digests, 2)]
    report, failures = {"pairs": pairs, "census": {"a": [1, 0, 0, 0, 0]}}, []

    def finish() -> None:
        try:
            with crew.world.database.write() as session:
                conflict_sums.finish(session, digests, report)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (rows(crew, PatchPair), rows(crew, PatchSet)) == (PAIRS, 1)


def test_a_large_job_is_done_in_rounds(crew: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflicts, "TENSORS_PER_ROUND", 8)  # the base has four tensors: two pairs at a time
    run, seen = crew.world.worker.in_sandbox, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((len(kwargs["pairs"]), kwargs["done"]))
        return run(*args, **kwargs)

    monkeypatch.setattr(crew.world.worker, "in_sandbox", watched)
    found = computed(crew, *EVERY)
    assert [pairs for pairs, _ in seen] == [2, 2, 2]
    assert [round(before, 2) for _, (before, _) in seen] == [0.0, 0.33, 0.67]
    assert (found["missing"], sum(found["census"])) == (0, WHOLE)
    with crew.world.database.read() as session:
        digests = sorted(crew.patch(number)["sha256"] for number in EVERY)
        again = conflicts.rounds(session, crew.model(session), digests, list(combinations(digests, 2)))
        assert again == [(digests, [])], "a job that is taken up again begins where the one before ended"


# ------------------------------------------------------------------------------------------------- who and what


def test_without_numbers_it_is_the_release_that_is_pulled(lived: Community) -> None:
    assert (named(look(lived)), look(lived)["source"]) == ([1, 2, 3], "1.2.0")
    lived.put("mary", "/channels/stable", version="1.1.0", reason="slower")
    assert (named(ask(lived)), ask(lived)["source"]) == ([1, 2], "1.1.0")


def test_without_numbers_or_a_release_the_accepted_patches_are_compared(crew: Community) -> None:
    assert (named(look(crew)), look(crew)["source"]) == ([], "accepted")
    assert "two" in ask(crew, status=422)["detail"]
    crew.accept(2, 4)
    crew.set(3, state="accepted", quarantined_at=crew.events("patch.push")[0].at)
    assert named(look(crew)) == [2, 4]


@pytest.mark.parametrize(
    ("numbers", "status", "words"),
    [((1, 9), 404, "no patch alice/tiny#9"), ((1, 1), 422, "named twice"), ((1,), 422, "no two patches"),
     (tuple(range(1, 66)), 422, "")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_with_a_reason(
    crew: Community, numbers: tuple[int, ...], status: int, words: str
) -> None:
    assert words in ask(crew, *numbers, status=status)["detail"]
    assert jobs(crew) == 0


def test_a_patch_that_is_not_checked_or_is_quarantined_is_compared_by_nobody_or_by_admins(crew: Community) -> None:
    computed(crew, 1, 2)
    crew.put("chief", "/patches/2/quarantine", reason="odd")
    for answer in (
        ask(crew, 1, 2, status=403),
        look(crew, 1, 2, status=403),
        crew.get("/conflicts/1/2.1", "bob", 403),
    ):
        assert "is quarantined; only an admin may compare it" in answer["detail"]
    assert crew.get("/patches/1/conflicts") == crew.get("/patches/2/conflicts") == []
    assert len(crew.get("/patches/1/conflicts", "chief")) == len(look(crew, 1, 2, user="chief")["pairs"]) == 1
    with crew.world.database.write() as session:
        crew.revision(session, 3).state = "refused"
    assert "only checked patches can be compared" in ask(crew, 1, 3, status=409)["detail"]


def test_a_pair_that_is_not_known_says_how_to_have_it_computed(crew: Community) -> None:
    crew.revise(1, crew.spares[0])
    assert "`crumb conflicts alice/tiny 1.2 3`" in crew.get("/conflicts/1/3", status=404)["detail"]
    assert crew.get("/conflicts/1/1.2", status=422)["field"] == "patches"
    computed(crew, 1, 3)
    assert crew.get("/conflicts/1.2/3")["first"]["revision"] == 2
    crew.get("/conflicts/1.1/3", status=404)
    for wrong in ("0x1", "1.", "-1", "1.2.3", "9999999999"):
        assert crew.get(f"/conflicts/{wrong}/2", status=422)["field"] == "first"
        assert look(crew, wrong, status=422)["field"].startswith("patch")


def test_a_patch_lists_those_it_was_compared_with_the_newest_first(crew: Community) -> None:
    computed(crew, *EVERY)
    found = crew.get("/patches/2/conflicts")
    assert [pair["second"]["number"] for pair in found] == [4, 3, 1]
    assert {pair["first"]["number"] for pair in found} == {2}
    assert [pair["whole"] for pair in found] == [crew.get(f"/conflicts/2/{n}")["whole"] for n in (4, 3, 1)]
    assert len(crew.get("/patches/2/conflicts?limit=1")) == 1


def test_patches_of_another_model_are_not_listed(crew: Community) -> None:
    computed(crew, 1, 2)
    create_model(crew.world, "bob/twin", crew.base)
    file = crew.world.store.path(crew.patch(1)["sha256"])
    push_patch(crew.world, "bob/twin", file)
    assert crew.world.client(None).get("/api/v1/models/bob/twin/patches/1/conflicts").json() == []


def test_many_patches_take_no_more_queries_than_two(crew: Community) -> None:
    computed(crew, *EVERY)
    seen: list[str] = []
    engine = crew.world.database.engine
    event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    look(crew, 1, 2)
    few, seen[:] = len(seen), []
    look(crew, *EVERY)
    assert len(seen) <= few <= 9
