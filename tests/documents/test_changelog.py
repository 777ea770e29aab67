from datetime import date

import pytest

from registry.documents.changelog import Change, Entry, changes_between, render_changelog

DAY = date(2026, 11, 25)


def entry(number, scale, title="Sums", author="alice", revision=1):
    return Entry(number, title, author, scale, revision)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, "0.3", "added"),
        ("0.3", None, "removed"),
        ("0.3", "0.4", "strengthened"),
        ("-0.3", "-0.4", "strengthened"),
        ("0.3", "-0.1", "strengthened"),
        ("0.3", "0.1", "weakened"),
        ("0.3", "0", "removed"),
        ("0", "0.3", "added"),
        ("0.3", "0.30", None),
        ("0", None, None),
        (None, None, None),
    ],
)
def test_a_patch_changes_by_its_scale(before, after, kind):
    was = [entry(1, before)] if before else []
    now = [entry(1, after)] if after else []
    assert [change.kind for change in changes_between(was, now)] == ([kind] if kind else [])


def test_another_revision_is_a_change_at_the_same_scale_and_told_beside_another():
    (same,) = changes_between([entry(1, "0.3")], [entry(1, "0.3", revision=2)])
    assert same == Change("revised", 1, "Sums", "alice", "0.3", "0.3", (1, 2))
    (weaker,) = changes_between([entry(1, "0.3")], [entry(1, "0.2", revision=4)])
    assert weaker.kind == "weakened" and weaker.revisions == (1, 4)


def test_a_changelog_tells_kinds_in_order_and_patches_by_number():
    before = [entry(1, "0.3", "One"), entry(2, "0.3", "Two"), entry(3, "0.3", "Three"), entry(4, "1", "Four")]
    after = [
        entry(10, "0.3", "Ten", "bob"), entry(9, "0.3", "Nine"), entry(2, "0.5", "Two"), entry(3, "0.1", "Three"),
        entry(4, "1", "Four", revision=2),
    ]  # fmt: skip
    changes = changes_between(before, after)
    text = render_changelog("1.3.0", DAY, changes)
    assert text == render_changelog("1.3.0", DAY, changes[::-1])
    assert text.splitlines() == [
        "## [1.3.0] - 2026-11-25",
        "",
        "### Added",
        "",
        "- \\#9 Nine, by alice: scale 0 → 0.3",
        "- \\#10 Ten, by bob: scale 0 → 0.3",
        "",
        "### Strengthened",
        "",
        "- \\#2 Two, by alice: scale 0.3 → 0.5",
        "",
        "### Weakened",
        "",
        "- \\#3 Three, by alice: scale 0.3 → 0.1",
        "",
        "### Revised",
        "",
        "- \\#4 Four, by alice: scale 1, revision 1 → 2",
        "",
        "### Removed",
        "",
        "- \\#1 One, by alice: scale 0.3 → 0",
    ]


def test_a_release_without_changes_says_so_and_another_base_is_a_change():
    assert "No patch was" in render_changelog("1.0.1", DAY, [])
    text = render_changelog("2.0.0", DAY, [], bases=("sha256:a", "sha256:b"))
    assert "- `sha256:a` → `sha256:b`" in text and "No patch was" not in text


@pytest.mark.parametrize(
    "title",
    ["a\n## [9.9.9]", "a\r- \\#2 other", "[x](http://e)", "![x](y)", "<b>", "`x", "a\u2028b", "&#35;", "a\u202eb",
     "http://e.org www.e.org", "~~x~~", "a\ud800"],
)  # fmt: skip
def test_strangers_words_stay_words_on_their_line(title):
    text = render_changelog("1.0.0", DAY, changes_between([], [entry(1, "1", title, title)]))
    assert len(text.splitlines()) == 5 and text.splitlines()[4].endswith(": scale 0 → 1")
    text.encode("utf-8")
    shown = text.splitlines()[4].removeprefix("- \\#1")
    for sign in "`<[!#&~":
        assert shown.count(sign) == shown.count("\\" + sign)
    assert "://" not in shown and "www." not in shown and "\u202e" not in shown
