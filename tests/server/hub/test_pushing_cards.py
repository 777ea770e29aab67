"""Commits of README.md alone by the Hub's tools: they propose a card, or change it at once for those who may."""

import base64
import hashlib
import json
from typing import Any

import pytest
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from sqlalchemy import select

from registry.db.tables import CardProposal, Push
from tests.server.hub.conftest import ClientOf
from tests.support.community import NAME, Community
from tests.support.world import store

pytestmark = pytest.mark.heavy

CARD = "---\nlanguage: fr\n---\n# Tiny\n\nIt adds.\n"
COMMIT = f"/api/models/{NAME}/commit"


def send(crew: Community, user: str, files: dict[str, bytes | str], rev: str = "main", **asked: Any) -> Any:
    """Send a commit; a text is the sha256 of a large file."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "Say more", "description": "It was short."}}]
    for path, content in files.items():
        if isinstance(content, str):
            lines.append({"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": content, "size": 1}})
        else:
            encoded = base64.b64encode(content).decode()
            lines.append({"key": "file", "value": {"path": path, "content": encoded, "encoding": "base64"}})
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return crew.world.client(user).post(f"{COMMIT}/{rev}", content=raw, params=asked)


def test_a_readme_alone_is_a_pull_request_that_proposes_a_card(crew: Community, client_of: ClientOf) -> None:
    bob = client_of(crew, "bob")
    said = bob.upload_file(
        repo_id=NAME, path_in_repo="README.md", path_or_fileobj=CARD.encode(), create_pr=True, commit_message="Say more"
    )
    assert said.pr_url == f"http://testserver/{NAME}/discussions/5" and said.pr_num == 5
    found = bob.get_discussion_details(NAME, 5)
    assert (found.status, found.title, found.author, found.is_pull_request) == ("open", "Say more", "bob", True)
    assert found.diff is not None and "+It adds." in found.diff
    assert found.events[0].oid == said.oid
    listed = {one.num: one.title for one in bob.get_repo_discussions(NAME)}
    assert listed[5] == "Say more" and len(listed) == 5
    assert crew.get("/cards/5")["card"] == CARD
    with pytest.raises(HfHubHTTPError, match="403"):
        bob.merge_pull_request(NAME, 5)
    mary = client_of(crew, "mary")
    mary.comment_discussion(NAME, 5, "Thanks.")
    mary.merge_pull_request(NAME, 5, comment="Right.")
    assert mary.get_discussion_details(NAME, 5).status == "merged"
    assert crew.get("")["card"] == CARD
    assert "fr" in mary.model_info(NAME).tags
    page = crew.world.client(None).get(f"/{NAME}/commit/{said.oid}", follow_redirects=False)
    assert page.headers["location"].endswith(f"/{NAME}/patches/5")


def test_the_next_commit_changes_the_proposal_and_takes_nothing_else(crew: Community, client_of: ClientOf) -> None:
    bob = client_of(crew, "bob")
    number = send(crew, "bob", {"README.md": CARD.encode()}, create_pr=True).json()["pullRequestUrl"].rpartition("/")[2]
    rev = f"refs/pr/{number}"
    bob.upload_file(
        repo_id=NAME, path_in_repo="README.md", path_or_fileobj=b"# Two\n", revision=rev, commit_message="Second"
    )
    found = crew.get(f"/cards/{number}")
    assert (found["card"], found["title"], found["message"]) == ("# Two\n", "Second", "")
    with pytest.raises(BadRequestError, match=r"takes README\.md alone"):
        bob.upload_file(repo_id=NAME, path_in_repo="config.json", path_or_fileobj=b"{}", revision=rev)
    refused = send(crew, "bob", {"README.md": b"# 3\n", "config.json": b"{}"}, rev.replace("/", "%2F"))
    assert refused.status_code == 400 and "takes README.md alone" in refused.json()["error"]
    with pytest.raises(HfHubHTTPError, match="Only the author"):
        client_of(crew, "carol").upload_file(
            repo_id=NAME, path_in_repo="README.md", path_or_fileobj=b"# 4\n", revision=rev
        )
    assert bob.change_discussion_status(NAME, int(number), "closed", comment="No need.").new_status == "closed"
    assert crew.get(f"/cards/{number}")["state"] == "withdrawn"
    with pytest.raises(HfHubHTTPError, match="propose another card"):
        bob.change_discussion_status(NAME, int(number), "open")
    assert send(crew, "bob", {"README.md": b"# 5\n"}, rev.replace("/", "%2F")).status_code == 409


def test_on_main_a_maintainer_changes_it_at_once_and_others_are_told_how(crew: Community, client_of: ClientOf) -> None:
    for user in ("bob", "rita"):
        with pytest.raises(HfHubHTTPError, match="Others propose a card: push it with `create_pr=True`"):
            client_of(crew, user).upload_file(repo_id=NAME, path_in_repo="README.md", path_or_fileobj=CARD.encode())
    mary = client_of(crew, "mary")
    said = mary.upload_file(repo_id=NAME, path_in_repo="README.md", path_or_fileobj=CARD.encode())
    assert said.pr_url is None
    assert crew.get("")["card"] == CARD
    assert crew.get("/cards/5")["state"] == "accepted"
    refused = send(crew, "mary", {"model.safetensors": b"x"})
    assert refused.status_code == 400 and "one is made of what you send" in refused.json()["error"]
    both = send(crew, "mary", {"README.md": b"# x\n", "config.json": b"{}"})
    assert both.status_code == 400 and "has a base, which never changes" in both.json()["error"]
    assert crew.get("")["card"] == CARD


def test_an_unchanged_card_is_not_sent_again(crew: Community, client_of: ClientOf) -> None:
    mary = client_of(crew, "mary")
    mary.upload_file(repo_id=NAME, path_in_repo="README.md", path_or_fileobj=CARD.encode())
    mary.upload_file(repo_id=NAME, path_in_repo="README.md", path_or_fileobj=CARD.encode())
    old = (crew.base / "README.md").read_bytes() if (crew.base / "README.md").is_file() else b"# Old\n"
    mary.upload_file(repo_id=NAME, path_in_repo="README.md", path_or_fileobj=old)
    assert crew.get("")["card"] == old.decode()
    assert len(crew.get("/cards")["items"]) == 2


def test_a_large_card_goes_by_git_lfs_and_only_by_who_has_its_bytes(crew: Community) -> None:
    large = b"# Long\n" + b"word " * 20_000
    assert send(crew, "bob", {"README.md": store(crew.world, "bob", large)}, create_pr=True).status_code == 200
    assert crew.get("/cards/5")["card"] == large.decode()
    secret = b"only of alice"
    for oid in (store(crew.world, "alice", secret), hashlib.sha256(b"nowhere").hexdigest()):
        answer = send(crew, "bob", {"README.md": oid}, create_pr=True)
        assert answer.status_code == 400 and "upload" in answer.json()["error"], answer.text
    for raw in (b"\xff\xfe", b"a\0b", b"y" * (2**20 + 1)):
        oid = store(crew.world, "bob", raw)
        answer = send(crew, "bob", {"README.md": oid}, create_pr=True)
        assert answer.status_code == 400 and "A card" in answer.json()["error"], answer.text


def test_deleting_a_card_proposes_nothing(crew: Community) -> None:
    lines = [
        {"key": "header", "value": {"summary": "Gone", "description": ""}},
        {"key": "deletedFile", "value": {"path": "README.md"}},
    ]
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    for user, params in (("bob", {"create_pr": 1}), ("mary", {})):
        answer = crew.world.client(user).post(f"{COMMIT}/main", content=raw, params=params)
        assert answer.status_code == 400, answer.text
    with crew.world.database.read() as session:
        assert session.scalars(select(CardProposal)).all() == session.scalars(select(Push)).all() == []
