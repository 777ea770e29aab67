"""Contributors push, maintainers curate, users rely: by the commands that each of them types, on a real registry."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Person, Registry, open_registry, person

pytestmark = pytest.mark.slow

MODEL = "acme/tiny"


@pytest.fixture
def registry(tmp_path: Path, migrated_url: str) -> Iterator[Registry]:
    with open_registry(tmp_path / "registry", migrated_url, lease_seconds=2) as made:
        made.serve()
        yield made


def folder_of(registry: Registry) -> Path:
    return registry.folder.parent


def contribute(registry: Registry, bob: Person, base: Path, count: int) -> None:
    for seed in range(1, count + 1):
        patch = folder_of(registry) / f"{seed}.safetensors"
        make_patch(base, fine_tuned(base, folder_of(registry) / f"tuned{seed}", seed=seed), patch)
        bob.crumb("push", str(patch), MODEL, "-m", f"Task {seed}", "--license", "apache-2.0", "--propose")


@pytest.mark.heavy
def test_from_a_proposal_to_a_release_that_users_can_rely_on(registry: Registry, tmp_path: Path) -> None:
    anna, bob, rita, max_, carl = (person(registry, name) for name in ("anna", "bob", "rita", "max", "carl"))
    base = make_checkpoint(tmp_path / "base")
    anna.crumb("org", "create", "acme")
    anna.crumb("member", "add", "acme", "max", "--role", "maintainer")
    anna.crumb("model", "create", MODEL, "--base", str(base))
    anna.crumb("member", "add", MODEL, "rita", "--role", "reviewer")
    contribute(registry, bob, base, 3)

    # Review: nobody approves their own; a new revision has to be approved anew.
    assert [patch["number"] for patch in rita.json("inbox", MODEL)["review"]] == [1, 2, 3]
    bob.crumb("review", MODEL, "1", "--approve", code=1)
    rita.crumb("review", MODEL, "1", "--approve", "-m", "Fine.")
    again = tmp_path / "again.safetensors"
    make_patch(base, fine_tuned(base, tmp_path / "tuned-again", seed=11), again)
    assert "acme/tiny#1.2" in bob.crumb("push", str(again), MODEL, "-m", "Task 1, better", "--update", "1")
    max_.crumb("accept", MODEL, "1", code=1)
    for number in ("1", "2", "3"):
        rita.crumb("review", MODEL, number, "--approve")
        max_.crumb("comment", MODEL, number, "-m", "Thank you.")
        max_.crumb("accept", MODEL, number)
    discussion = json.loads(rita.crumb("review", MODEL, "1", "--json"))
    assert [(row["revision"], row["counts"]) for row in discussion["reviews"]] == [(1, False), (2, True)]
    assert {check["name"] for check in discussion["checks"]} == {"format", "base", "finite", "density", "norms"}

    # Release: composed by the worker, and by a maintainer, who signs it.
    cut = max_.json("release", "cut", MODEL, "1.0.0", "1", "2:0.5", "3")
    assert cut["state"] == "candidate"
    bob.crumb("release", "publish", MODEL, "1.0.0", code=1)
    max_.crumb("release", "publish", MODEL, "1.0.0", code=1)  # one builder alone
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    max_.crumb("key", "make", str(private), str(public))
    done = max_.json("release", "publish", MODEL, "1.0.0", "--recompose", "--sign", str(private))
    assert (done["state"], done["signed"], len(done["builds"])) == ("published", True, 2)
    max_.crumb("channel", "move", MODEL, "stable", "1.0.0", "-m", "First.")

    # A user, who trusts the key and nobody else.
    pulled = tmp_path / "pulled"
    assert carl.json("pull", MODEL, "-o", str(pulled))["ref"] == "1.0.0"
    carl.crumb("key", "trust", MODEL, str(public))
    proof = json.loads(carl.crumb("verify", str(pulled), f"{MODEL}@stable", "--recompose", "--json"))
    assert (proof["ok"], proof["signed"]) == (True, True)
    card = (pulled / "README.md").read_text()
    assert "base_model_relation: merge" in card and "Task 1, better" in card
    statement = json.loads(carl.crumb("show", f"{MODEL}@1.0.0", "--json"))
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert "approved by rita" in carl.crumb("show", f"{MODEL}@1.0.0")
    carl.crumb("eval", "add", f"{MODEL}@1.0.0", "--task", "t", "--dataset", "d", "--metric", "m", "--value", "0.5")
    measured = tmp_path / "measure.py"
    measured.write_text("import json; print(json.dumps({'task': 't', 'dataset': 'd', 'metric': 'acc', 'value': 1}))")
    carl.crumb("eval", "run", f"{MODEL}@stable", "--", sys.executable, str(measured))
    assert {row["metric"] for row in carl.json("eval", "list", f"{MODEL}@1.0.0")} == {"m", "acc"}

    # Trouble: a patch is yanked; the release stays, with a warning, and has a successor.
    answer = json.loads(bob.crumb("yank", MODEL, "2", "-m", "It forgets.", "--json"))
    assert answer["affected"] == {"releases": ["1.0.0"], "channels": ["stable"]}
    assert carl.json("pull", f"{MODEL}@1.0.0", "-o", str(tmp_path / "old"))["ref"] == "1.0.0"
    carl.crumb("compose", MODEL, "1", "2", code=1)
    max_.crumb("release", "cut", MODEL, "1.0.0", "1", code=1)  # published is closed
    max_.crumb("release", "cut", MODEL, "1.0.1", "--from", "stable", code=1)  # it would hold the yanked patch
    next_one = max_.json("release", "cut", MODEL, "1.0.1", "--from", "stable", "--without", "2")
    assert [item["number"] for item in next_one["recipe"]["patches"]] in ([1, 3], [3, 1])
    assert "Removed" in next_one["changelog"]
    max_.crumb("release", "publish", MODEL, "1.0.1", "--recompose")
    max_.crumb("channel", "move", MODEL, "stable", "1.0.1", "-m", "Without #2.")
    max_.crumb("channel", "rollback", MODEL, "stable", code=1)  # the rule holds for a rollback, too
    assert [row["release"] for row in max_.json("channel", "history", MODEL, "stable")] == ["1.0.1", "1.0.0"]
    assert "- #2.1" in carl.crumb("release", "diff", MODEL, "1.0.0", "1.0.1")
    assert carl.json("pull", MODEL, "-o", str(pulled))["ref"] == "1.0.1"

    actions = {event["action"] for event in max_.json("audit", MODEL, "--limit", "200")}
    assert {"patch.accept", "patch.yank", "release.publish", "release.sign", "channel.move"} <= actions
    carl.crumb("audit", MODEL, code=1)
    registry.check()


@pytest.mark.heavy
def test_a_private_model_is_there_for_its_members_alone(registry: Registry, tmp_path: Path) -> None:
    anna, bob, carl = (person(registry, name) for name in ("anna", "bob", "carl"))
    base = make_checkpoint(tmp_path / "base")
    anna.crumb("model", "create", "anna/secret", "--base", str(base), "--private")
    for arguments in (
        ("pull", "anna/secret", "-o", str(tmp_path / "x")),
        ("log", "anna/secret"),
        ("inbox", "anna/secret"),
    ):
        carl.crumb(*arguments, code=1)
    assert carl.json("model", "list") == []
    anna.crumb("member", "add", "anna/secret", "bob")
    bob.crumb("pull", "anna/secret", "-o", str(tmp_path / "x"))
    anna.crumb("member", "remove", "anna/secret", "bob")
    bob.crumb("pull", "anna/secret", "-o", str(tmp_path / "y"), code=1)


@pytest.mark.heavy
def test_a_token_for_one_model_does_nothing_else(registry: Registry, tmp_path: Path) -> None:
    anna = person(registry, "anna")
    base = make_checkpoint(tmp_path / "base")
    for name in ("one", "two"):
        anna.crumb("model", "create", f"anna/{name}", "--base", str(base))
    patch = tmp_path / "patch.safetensors"
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), patch)
    made = anna.json("token", "create", "--scope", "read", "--scope", "push", "--model", "anna/one", "--label", "ci")
    robot = Person(registry, "robot", anna.home, made["token"])
    robot.crumb("push", str(patch), "anna/one", "-m", "by a robot")
    robot.crumb("push", str(patch), "anna/two", "-m", "by a robot", code=1)
    robot.crumb("review", "anna/one", "1", "--approve", code=1)
    robot.crumb("token", "create", code=1)
    anna.crumb("token", "revoke", made["id"])
    robot.crumb("whoami", code=1)
