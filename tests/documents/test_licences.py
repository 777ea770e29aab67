import itertools

import pytest

from registry.documents.licences import _FAMILY, Incompatibility, judge

NONE = "no licence"


def conflict(first, second):
    """Return why two licences cannot be combined, or None."""
    found = judge([("the base", first), ("patch #1", second)]).incompatible
    return found[0].why if found else None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("apache-2.0", "mit"),
        ("apache-2.0", "gpl-3.0"),
        ("cc0-1.0", "cc-by-nc-4.0"),
        ("cc-by-4.0", "cc-by-sa-4.0"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
        ("cc-by-nc-4.0", "llama3.1"),
        ("cc-by-sa-4.0", "gpl-3.0"),
        ("cc-by-sa-4.0", "lgpl-3.0"),
        ("gpl-3.0", "agpl-3.0"),
        ("gpl-3.0", "lgpl-3.0"),
        ("gpl-2.0", "lgpl-2.1"),
        ("llama3.1", "llama3.3"),
        ("llama2", "llama2"),
        ("llama3", "apache-2.0"),
        ("gemma", "openrail"),
        ("mit", "gemma"),
    ],
)
def test_these_can_be_combined(first, second):
    assert conflict(first, second) is None and conflict(second, first) is None


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("cc-by-nc-4.0", "gpl-3.0", "commercial"),
        ("cc-by-nc-4.0", "agpl-3.0", "commercial"),
        ("cc-by-nc-4.0", "cc-by-sa-4.0", "commercial"),
        ("cc-by-nc-sa-4.0", "gpl-3.0", "commercial"),
        ("cc-by-nc-sa-4.0", "cc-by-sa-4.0", "commercial"),
        ("cc-by-nc-sa-4.0", "llama3.1", "rules of use"),
        ("apache-2.0", "gpl-2.0", "patent"),
        ("gpl-2.0", "gpl-3.0", "or later"),
        ("gpl-2.0", "agpl-3.0", "or later"),
        ("cc-by-sa-4.0", "gpl-2.0", "compatible"),
        ("cc-by-sa-4.0", "agpl-3.0", "compatible"),
        ("cc-by-sa-3.0", "gpl-3.0", "compatible"),
        ("openrail", "gpl-3.0", "rules of use"),
        ("bigscience-openrail-m", "cc-by-sa-4.0", "rules of use"),
        ("llama3.1", "gpl-3.0", "rules of use"),
        ("gemma", "lgpl-3.0", "rules of use"),
        ("gemma", "cc-by-sa-4.0", "rules of use"),
        ("llama2", "gemma", "improving other"),
        ("llama3", "llama3.1", "improving other"),
        ("cc-by-nd-4.0", "mit", "changed"),
        ("cc-by-nd-4.0", "cc-by-nd-4.0", "changed"),
        ("cc-by-nc-nd-4.0", None, "changed"),
        ("cc-by-nd-4.0", "somebodys-own", "changed"),
    ],
)
def test_these_cannot_be_combined_whichever_comes_first(first, second, word):
    assert word in conflict(first, second)
    assert conflict(first, second) == conflict(second, first)
    assert conflict(first, second).endswith(".")


def test_a_base_alone_is_changed_by_nobody():
    assert judge([("the base", "cc-by-nd-4.0")]).incompatible == []


def test_order_never_decides_whether_there_is_a_conflict():
    for first, second in itertools.combinations_with_replacement([*_FAMILY, None, "other"], 2):
        assert (conflict(first, second) is None) == (conflict(second, first) is None), (first, second)


def test_every_piece_at_fault_is_named_and_once_for_each_licence():
    pieces = [("the base", "cc-by-nc-4.0"), ("#1", "gpl-3.0"), ("#2", "mit"), ("#3", "gpl-3.0"), ("#4", "cc-by-sa-4.0")]
    found = judge(pieces).incompatible
    assert [(one.first, one.second) for one in found] == [("the base", "#1"), ("the base", "#3"), ("the base", "#4")]
    assert found[0] == Incompatibility("the base", "cc-by-nc-4.0", "#1", "gpl-3.0", found[0].why)
    kept = [piece for piece in pieces if piece[0] not in {one.second for one in found}]
    assert judge(kept).incompatible == []


def test_a_piece_is_told_against_the_first_under_a_licence():
    found = judge([("#1", "cc-by-nc-4.0"), ("#2", "cc-by-nc-4.0"), ("#3", "gpl-3.0")]).incompatible
    assert [(one.first, one.second) for one in found] == [("#1", "#3")]


def test_many_pieces_do_not_make_a_conflict_for_every_pair():
    pieces = [(f"#{n}", "cc-by-nc-4.0" if n % 2 else "gpl-3.0") for n in range(400)]
    assert len(judge(pieces).incompatible) == 399


@pytest.mark.parametrize("licence", [None, "", " ", "other", "unknown", "somebodys-own"])
def test_what_nobody_knows_is_a_warning_that_names_the_piece(licence):
    found = judge([("the base", "mit"), ("patch #7", licence)])
    assert found.incompatible == [] and len(found.warnings) == 1
    assert found.warnings[0].startswith("patch #7 ") and found.warnings[0].endswith(".")


def test_known_licences_warn_of_nothing_and_case_does_not_matter():
    found = judge([("the base", "Apache-2.0"), ("#1", "GPL-2.0")])
    assert found.warnings == [] and len(found.incompatible) == 1
