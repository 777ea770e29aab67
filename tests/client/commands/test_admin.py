"""Reports, and what admins look at, by the commands they type, against a real registry."""

import pytest

from tests.support.visitors import Crumb, Files, Registry, create_token

MODEL = "ada/odd"


@pytest.fixture(scope="module")
def admin(registry: Registry, files: Files) -> str:
    """The token of an admin, once there is a model with a patch."""
    from client.actions.models import create
    from client.actions.push import push

    secret = create_token(registry.data, "chief", "--admin")
    with registry.client("ada") as client:
        create(client, MODEL, files.base)
        push(client, files.patches[0], MODEL, "A \x1b[31mred\x1b[0m title")
    return secret


@pytest.fixture
def chief(registry: Registry, admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An admin is logged in by the environment."""
    monkeypatch.setenv("CRUMB_URL", registry.url)
    monkeypatch.setenv("CRUMB_TOKEN", admin)


@pytest.mark.usefixtures("chief")
def test_a_report_goes_to_the_admins_and_is_closed(registry: Registry, crumb: Crumb) -> None:
    bob = {"CRUMB_TOKEN": registry.token("bob")}
    said = ("report", f"{MODEL}#1", "--reason", "malware", "-m", "It \x1b[1mphones\x1b[0m home.")
    made = crumb.json(*said, **bob)
    assert (made["model"], made["number"], made["reporter"]) == (MODEL, 1, "bob")
    assert crumb(*said, "-q", **bob) == made["id"] + "\n"
    whole = crumb.json("report", MODEL, "--reason", "licence", "-m", "It is mine.", **bob)
    assert crumb("admin", "reports", "-q") == f"{whole['id']}\n{made['id']}\n"
    shown = crumb("admin", "reports")
    assert f"{MODEL}#1  malware" in shown and "phones" in shown
    assert "\x1b" not in shown
    assert crumb("admin", "close", made["id"], "-m", "It does not.", "-q") == made["id"] + "\n"
    assert [row["id"] for row in crumb.json("admin", "reports")] == [whole["id"]]
    assert [row["answer"] for row in crumb.json("admin", "reports", "--closed")] == ["It does not."]
    crumb("admin", "close", made["id"], "-m", "Or does it?", code=1)
    assert "closed by chief" in crumb.errors
    crumb.json("admin", "close", whole["id"], "-m", "Settled.")
    assert "There are no open reports" in crumb("admin", "reports")


@pytest.mark.usefixtures("chief")
def test_what_cannot_be_reported_is_one_sentence(registry: Registry, crumb: Crumb) -> None:
    for arguments, words in (
        ((MODEL, "--reason", "spam", "-m", "x"), "reason"),
        ((f"{MODEL}#9", "--reason", "other", "-m", "x"), f"no patch {MODEL}#9"),
        ((f"{MODEL}#x", "--reason", "other", "-m", "x"), "number of a patch"),
        ((MODEL, "--reason", "other", "-m", " "), "message"),
    ):
        crumb("report", *arguments, code=1)
        assert words in crumb.errors
    for command in ("summary", "reports", "workers", "jobs", "quarantine", "namespaces"):
        crumb("admin", command, code=1, CRUMB_TOKEN=registry.token("bob"))
        assert "Only an admin" in crumb.errors


@pytest.mark.usefixtures("chief")
def test_workers_and_jobs_are_shown(crumb: Crumb) -> None:
    worker = crumb.json("admin", "workers")[0]
    assert worker["alive"]
    assert worker["name"] in crumb("admin", "workers", "-q").splitlines()
    assert "alive" in crumb("admin", "workers")
    done = crumb.json("admin", "jobs", "--state", "done")
    assert {(row["kind"], row["model"], row["user"], row["worker"]) for row in done} >= {
        (kind, MODEL, "ada", worker["name"]) for kind in ("import", "check")
    }
    newest = crumb.json("admin", "jobs")[0]
    assert crumb("admin", "jobs", "--limit", "1", "-q") == f"{newest['id']} {newest['state']}\n"
    assert worker["name"] in crumb("admin", "jobs", "--kind", "check")
    assert "no such jobs" in crumb("admin", "jobs", "--kind", "rebuild", "--state", "cancelled")
    crumb("admin", "jobs", "--state", "lost", code=1)
    assert "state" in crumb.errors


@pytest.mark.usefixtures("chief")
def test_a_patch_in_quarantine_is_listed_until_that_ends(crumb: Crumb) -> None:
    before = crumb.json("admin", "quarantine")
    crumb("quarantine", MODEL, 1, "-m", "It is odd.")
    assert crumb("admin", "quarantine", "-q").splitlines()[0] == f"{MODEL}#1"
    shown = crumb("admin", "quarantine")
    assert "It is odd." in shown and "\x1b" not in shown
    assert crumb.json("admin", "quarantine")[0]["quarantined"] == "It is odd."
    crumb("quarantine", MODEL, 1, "--end")
    assert crumb.json("admin", "quarantine") == before
    assert before or "Nothing is in quarantine" in crumb("admin", "quarantine")


@pytest.mark.usefixtures("chief")
def test_a_quota_is_set_shown_and_given_back(crumb: Crumb) -> None:
    (before,) = crumb.json("admin", "namespaces", "--search", "ada")
    assert before["used_bytes"] > 0 and before["own_bytes"] is None
    assert "(default)" in crumb("admin", "quota", "ada")
    crumb("admin", "quota", "ada", "--bytes", "2GB", "--uploads", "7")
    assert crumb("admin", "quota", "ada", "-q") == "2000000000 7\n"
    changed = crumb.json("admin", "quota", "ada", "--bytes", "1MiB")
    assert (changed["own_bytes"], changed["own_uploads"]) == (2**20, 7)
    assert "1.05 MB" in crumb("admin", "namespaces", "--search", "ada")
    assert "ada" in crumb("admin", "namespaces", "-q").split()
    again = crumb.json("admin", "quota", "ada", "--bytes", "default", "--uploads", "default")
    assert again == before
    crumb("admin", "quota", "ada", "--bytes", "much", code=1)
    assert "size" in crumb.errors


@pytest.mark.usefixtures("chief")
def test_the_policy_is_set_shown_and_given_up(crumb: Crumb) -> None:
    assert "any" in crumb("admin", "policy")
    crumb("admin", "policy", "--license", "mit", "--license", "apache-2.0", "--hub", "none", "--drop-top", "0.001")
    shown = crumb.json("admin", "policy")
    assert (shown["licenses"], shown["hub_models"], shown["min_drop_top"]) == (["mit", "apache-2.0"], [], "0.001")
    crumb("admin", "policy", "--registration", "open", code=1)
    assert "REGISTRY_REGISTRATION" in crumb.errors
    again = crumb.json("admin", "policy", "--license", "any", "--hub", "any", "--drop-top", "any")
    assert (again["licenses"], again["hub_models"], again["min_drop_top"]) == (None, None, None)
    assert "REGISTRY_RATE_TOKEN" in crumb("admin", "settings")


@pytest.mark.usefixtures("chief")
def test_the_summary_is_numbers(crumb: Crumb) -> None:
    found = crumb.json("admin", "summary")
    assert found["models"] >= 1 and found["patches"]["draft"] >= 1 and found["blob_bytes"] > 0
    assert "draft" in crumb("admin", "summary")
