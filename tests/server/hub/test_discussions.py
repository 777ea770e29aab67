"""Patches as the Hub's client sees them: pull requests that are listed, read, discussed, closed and merged."""

from typing import Any

import pytest
from huggingface_hub import DiscussionComment, DiscussionCommit, DiscussionStatusChange
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
from sqlalchemy import update

from registry.db.tables import Model
from registry.services.hub.discussions import STATUS
from tests.server.hub.conftest import ClientOf
from tests.support.community import NAME, PATCHES, Community

NUMBERS = list(range(PATCHES, 0, -1))


def numbers(api: Any, **asked: Any) -> list[int]:
    return [found.num for found in api.get_repo_discussions(NAME, **asked)]


def thread(api: Any, number: int) -> list[tuple[str, ...]]:
    """Return who did what, as the client reads it."""
    found: list[tuple[str, ...]] = []
    for event in api.get_discussion_details(NAME, number).events:
        if isinstance(event, DiscussionComment):
            found.append((event.author, "hid" if event.hidden else "said", event.content))
        elif isinstance(event, DiscussionCommit):
            found.append((event.author, "sent", event.summary))
        else:
            assert isinstance(event, DiscussionStatusChange)
            found.append((event.author, "made", event.new_status))
    return found


def test_patches_are_pull_requests_newest_first(crew: Community, client_of: ClientOf) -> None:
    api = client_of(crew, None)
    found = list(api.get_repo_discussions(NAME))
    assert [(one.num, one.title, one.author, one.status) for one in found] == [
        (number, f"Patch {number}", "bob", "draft") for number in NUMBERS
    ]
    assert all(one.is_pull_request and one.repo_id == NAME and one.repo_type == "model" for one in found)
    assert found[0].git_reference == f"refs/pr/{PATCHES}"


def test_a_list_is_filtered_by_status_author_and_type(crew: Community, client_of: ClientOf) -> None:
    api = client_of(crew, None)
    for state, status in STATUS.items():
        crew.set(2, state=state)
        is_open = state in ("draft", "proposed", "changes_requested")
        assert (2 in numbers(api, discussion_status="open")) == is_open, state
        assert (2 in numbers(api, discussion_status="closed")) != is_open, state
        assert [found.status for found in api.get_repo_discussions(NAME) if found.num == 2] == [status]
    assert numbers(api, author="bob", discussion_type="pull_request", discussion_status="all") == NUMBERS
    assert numbers(api, author="rita") == numbers(api, discussion_type="discussion") == []


def test_a_list_goes_on_over_pages(crew: Community, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.server.hub.discussions.PAGE", 3)
    crew.set(3, state="accepted")
    api = client_of(crew, None)
    assert numbers(api) == NUMBERS
    assert numbers(api, discussion_status="open") == [4, 2, 1]


def test_a_patch_is_proposed_discussed_and_merged(crew: Community, client_of: ClientOf) -> None:
    bob, mary = client_of(crew, "bob"), client_of(crew, "mary")
    assert bob.change_discussion_status(NAME, 1, "open", comment="Please look.").new_status == "open"
    assert crew.patch(1)["state"] == "proposed"
    with pytest.raises(HfHubHTTPError, match="It has 0 of 1 approvals of revision 1") as early:
        mary.merge_pull_request(NAME, 1)
    assert early.value.response.status_code == 409
    crew.post("rita", "/patches/1/reviews", 201, verdict="approve", revision=1, message="Good sums.")
    assert client_of(crew, "carol").comment_discussion(NAME, 1, "I use it.").content == "I use it."
    mary.merge_pull_request(NAME, 1, comment="Thanks.")
    assert crew.patch(1)["state"] == "accepted"
    (accepted,) = crew.events("patch.accept")
    assert (accepted.user_name, (accepted.after or {})["message"]) == ("mary", "Thanks.")
    found = client_of(crew, None).get_discussion_details(NAME, 1)
    assert (found.status, found.target_branch, found.conflicting_files) == ("merged", "refs/heads/main", False)
    assert found.url == f"http://testserver/{NAME}/discussions/1"
    assert thread(bob, 1) == [
        ("bob", "sent", "Patch 1"),
        ("bob", "said", "Please look."),
        ("bob", "made", "open"),
        ("rita", "said", "Approved revision 1.\n\nGood sums."),
        ("carol", "said", "I use it."),
        ("mary", "made", "merged"),
    ]


def test_a_revision_is_a_commit_with_its_message(sqlite_crew: Community, client_of: ClientOf) -> None:
    pushed = sqlite_crew.push(sqlite_crew.spares[0], title="Sums", message="On 12,000 examples.")
    sqlite_crew.revise(pushed["number"], sqlite_crew.spares[1])
    api = client_of(sqlite_crew, None)
    said = [("bob", "sent", "Sums"), ("bob", "said", "On 12,000 examples."), ("bob", "sent", "again")]
    assert thread(api, pushed["number"]) == said
    commits = [e for e in api.get_discussion_details(NAME, pushed["number"]).events if isinstance(e, DiscussionCommit)]
    assert commits[0].oid == pushed["sha256"]
    (listed,) = [found for found in api.get_repo_discussions(NAME) if found.num == pushed["number"]]
    assert listed.title == "again", "a patch is called as its newest revision is"


def test_a_long_thread_begins_with_where_the_rest_is(
    sqlite_crew: Community, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.services.hub.discussions.NEWEST", 2)
    bob = client_of(sqlite_crew, "bob")
    for number in (1, 2, 3):
        bob.comment_discussion(NAME, 1, f"Comment {number}")
    assert [text for _, _, text in thread(bob, 1)] == [
        f"Earlier ones: http://testserver/{NAME}/patches/1",
        "Patch 1",
        "Comment 2",
        "Comment 3",
    ]


def test_an_author_withdraws_and_a_maintainer_rejects(crew: Community, client_of: ClientOf) -> None:
    bob, mary = client_of(crew, "bob"), client_of(crew, "mary")
    assert bob.change_discussion_status(NAME, 1, "closed").new_status == "closed"
    assert (crew.patch(1)["state"], crew.patch(1)["reason"]) == ("withdrawn", None)
    for number, comment, reason in ((2, "Too large.", "Too large."), (3, None, "which gave no reason.")):
        bob.change_discussion_status(NAME, number, "open")
        mary.change_discussion_status(NAME, number, "closed", comment=comment)
        assert crew.patch(number)["state"] == "rejected"
        assert crew.patch(number)["reason"].endswith(reason)
    assert thread(bob, 2)[-1] == ("mary", "made", "closed")
    with pytest.raises(HfHubHTTPError, match="is rejected; to propose it, it must be") as late:
        bob.change_discussion_status(NAME, 2, "open")
    assert late.value.response.status_code == 409


def test_who_may_not_decide_here_may_not_decide_by_the_hubs_client(crew: Community, client_of: ClientOf) -> None:
    crew.post("bob", "/patches/1/propose")
    before = crew.count_events()
    for user, call in (
        ("carol", lambda api: api.change_discussion_status(NAME, 1, "closed")),
        ("rita", lambda api: api.change_discussion_status(NAME, 1, "closed")),
        ("mary", lambda api: api.change_discussion_status(NAME, 2, "open")),
        ("rita", lambda api: api.merge_pull_request(NAME, 1)),
        ("bob", lambda api: api.merge_pull_request(NAME, 1)),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            call(client_of(crew, user))
        assert refused.value.response.status_code == 403, user
    with pytest.raises(HfHubHTTPError, match="crumb login") as unknown:
        client_of(crew, None).comment_discussion(NAME, 1, "Hello.")
    assert unknown.value.response.status_code == 401
    assert crew.count_events() == before


def test_a_token_that_may_not_review_rejects_nothing(sqlite_crew: Community, client_of: ClientOf) -> None:
    sqlite_crew.post("bob", "/patches/1/propose")
    sqlite_crew.world.tokens["mary"] = (
        sqlite_crew.world.client("mary")
        .post("/api/v1/tokens", json={"scopes": ["read", "push"], "expires_days": 1})
        .json()["token"]
    )
    with pytest.raises(HfHubHTTPError, match="missing the scope 'review'"):
        client_of(sqlite_crew, "mary").change_discussion_status(NAME, 1, "closed")
    assert sqlite_crew.patch(1)["state"] == "proposed"


@pytest.mark.filterwarnings("ignore:Hidden comments' content cannot be retrieved")
def test_a_comment_is_deleted_by_its_author_and_hidden_by_a_maintainer(crew: Community, client_of: ClientOf) -> None:
    carol, mary, bob = (client_of(crew, user) for user in ("carol", "mary", "bob"))
    rude, mistake = (carol.comment_discussion(NAME, 1, text) for text in ("Rude.", "A mistake."))
    with pytest.raises(HfHubHTTPError, match="maintainer") as refused:
        bob.hide_discussion_comment(NAME, 1, rude.id)
    assert refused.value.response.status_code == 403
    assert mary.hide_discussion_comment(NAME, 1, rude.id).hidden
    assert carol.hide_discussion_comment(NAME, 1, mistake.id).hidden
    shown = {comment["id"].replace("-", ""): comment for comment in crew.get("/patches/1/comments", "mary")["items"]}
    assert (shown[rude.id]["message"], shown[rude.id]["hidden"]["user"]) == ("Rude.", "mary")
    assert (shown[mistake.id]["message"], shown[mistake.id]["deleted"]["user"]) == ("", "carol")
    assert thread(mary, 1)[1] == ("carol", "hid", "Rude.")
    (_, (_, hid, text), (_, gone, other)) = thread(bob, 1)
    assert (hid, gone) == ("hid", "hid")
    assert text.startswith("This comment was hidden by mary: Hidden by a client")
    assert other == "This comment was deleted by carol."
    with pytest.raises(EntryNotFoundError, match="no such comment"):
        mary.hide_discussion_comment(NAME, 2, rude.id)


def test_a_comment_is_edited_by_its_author(crew: Community, client_of: ClientOf) -> None:
    carol, mary = client_of(crew, "carol"), client_of(crew, "mary")
    first = carol.comment_discussion(NAME, 1, "One.")
    with pytest.raises(HfHubHTTPError, match="Only its author"):
        mary.edit_discussion_comment(NAME, 1, first.id, "Mine.")
    edited = carol.edit_discussion_comment(NAME, 1, first.id, "Two.")
    assert (edited.content, edited.edited) == ("Two.", True)
    assert [text["message"] for text in crew.get(f"/patches/1/comments/{first.id}/history")["texts"]] == [
        "One.",
        "Two.",
    ]


def test_what_a_thread_here_cannot_do_is_said_with_the_command(sqlite_crew: Community, client_of: ClientOf) -> None:
    bob, before = client_of(sqlite_crew, "bob"), sqlite_crew.count_events()
    for call, told in (
        (lambda: bob.rename_discussion(NAME, 1, "A better title"), f"`crumb push TUNED {NAME} --update 1 -m TITLE`"),
        (lambda: bob.create_discussion(NAME, "A question"), f"`crumb comment {NAME} N -m TEXT`"),
    ):
        with pytest.raises(BadRequestError) as refused:
            call()
        assert told in str(refused.value)
    assert sqlite_crew.count_events() == before


def test_what_is_missing_is_a_missing_patch_or_a_missing_model(sqlite_crew: Community, client_of: ClientOf) -> None:
    carol = client_of(sqlite_crew, "carol")
    for call in (
        lambda: carol.get_discussion_details(NAME, 9),
        lambda: carol.comment_discussion(NAME, 9, "Hello."),
        lambda: carol.change_discussion_status(NAME, 9, "closed"),
        lambda: client_of(sqlite_crew, "mary").merge_pull_request(NAME, 9),
    ):
        with pytest.raises(EntryNotFoundError, match=f"There is no patch {NAME}#9"):
            call()
    with sqlite_crew.world.database.write() as session:
        session.execute(update(Model).values(visibility="private"))
    for name in (NAME, "alice/none"):
        for call in (
            lambda name=name: list(carol.get_repo_discussions(name)),
            lambda name=name: carol.get_discussion_details(name, 1),
            lambda name=name: carol.comment_discussion(name, 1, "Hello."),
            lambda name=name: carol.create_discussion(name, "A question"),
        ):
            with pytest.raises(RepositoryNotFoundError, match=f"There is no model {name}"):
                call()
