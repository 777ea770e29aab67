"""Comments and compositions that are no longer wanted, by the commands that people type, against a real registry."""

import re

import pytest

from tests.support.visitors import Crumb, Files, Registry

MODEL = "ada/tidy"


@pytest.fixture(scope="module")
def model(registry: Registry, files: Files) -> str:
    from client.actions.models import create
    from client.actions.push import push

    with registry.client("ada") as client:
        create(client, MODEL, files.base)
        push(client, files.patches[0], MODEL, "One")
    return MODEL


@pytest.fixture
def ada(registry: Registry, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUMB_URL", registry.url)
    monkeypatch.setenv("CRUMB_TOKEN", registry.token("ada"))


@pytest.mark.usefixtures("ada")
def test_a_discussion_is_shown_whole_and_a_comment_is_deleted(registry: Registry, crumb: Crumb) -> None:
    with registry.client("bob") as client:
        said = [client.comment(MODEL, 1, f"Remark {n}.").id for n in range(32)]
    rows = crumb.json("review", MODEL, "1")["comments"]
    assert [row["id"] for row in rows] == said
    assert crumb.json("comment", MODEL, "1", "--delete", said[3], "-m", "Off topic.")["message"] == ""
    shown = crumb("review", MODEL, "1")
    assert "Remark 3." not in shown
    assert "deleted by ada: Off topic." in shown
    crumb("comment", MODEL, "1", "--delete", said[4], code=1)
    assert "Say why" in crumb.errors
    crumb("comment", MODEL, "1", code=2)


@pytest.mark.usefixtures("ada")
def test_a_comment_on_tensors_is_edited_and_its_texts_are_shown(crumb: Crumb) -> None:
    tensor = crumb.json("show", f"{MODEL}#1")["tensors"][0]["name"]
    crumb("comment", MODEL, "1", "-m", "Hm", "--about", "nothing.*", code=1)
    assert "changes no tensor 'nothing.*'" in crumb.errors
    said = crumb.json("comment", MODEL, "1", "-m", "Too large.", "--about", tensor)
    assert said["about"] == [tensor]
    crumb("comment", MODEL, "1", "-m", "Hm", "--about", tensor, "--edit", said["id"], code=2)
    assert crumb.json("comment", MODEL, "1", "--edit", said["id"], "-m", "Just right.")["message"] == "Just right."
    assert re.search(rf"ada on {re.escape(tensor)}, [0-9: -]+, edited .*\nJust right\.", crumb("review", MODEL, "1"))
    texts = crumb("comment", MODEL, "1", "--history", said["id"])
    assert texts.index("Too large.") < texts.index("Just right.")


@pytest.mark.usefixtures("ada")
def test_a_composition_is_deleted_and_composed_again_to_the_same_weights(registry: Registry, crumb: Crumb) -> None:
    bob = {"CRUMB_TOKEN": registry.token("bob")}
    first = crumb.json("compose", MODEL, "1:0.25", **bob)
    digest = first["recipe"]["digest"]
    crumb("recipe", "delete", f"{MODEL}@base", code=1)
    assert "not a composition" in crumb.errors
    assert crumb("recipe", "delete", f"{MODEL}@{digest[:8]}", "-q", **bob) == digest + "\n"
    crumb("recipe", "delete", f"{MODEL}@{digest}", code=1, **bob)
    again = crumb.json("compose", MODEL, "1:0.25", **bob)
    assert again["weights_digest"] == first["weights_digest"]
    assert crumb.json("recipe", "delete", f"{MODEL}@{digest}") == {"model": MODEL, "recipe": digest}
