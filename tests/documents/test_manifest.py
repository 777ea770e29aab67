import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.breadcrumbs.formats.recipe import make_recipe
from registry.documents import manifest as manifests
from registry.documents.manifest import Approval, Builder, Evaluation, File, Patch, make_manifest, read_manifest
from registry.errors import BreadcrumbError, InvalidRequest, TooLarge
from tests.support.release_makers import BASE, MANIFEST, WEIGHTS, A, B, changed

RAW = make_manifest(MANIFEST)


def table(**fields):
    return json.loads(RAW) | fields


def written(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def test_a_manifest_is_canonical_json_and_reads_back():
    assert read_manifest(RAW) == MANIFEST
    assert written(json.loads(RAW)) == RAW and "Zoë".encode() in RAW
    assert json.loads(RAW)["schema"] == 1 and json.loads(RAW)["recipe"] == json.loads(MANIFEST.recipe.canonical())
    assert json.loads(RAW)["created_at"] == "2026-11-25T10:00:00.000005Z"


def test_the_digest_is_that_of_the_bytes():
    assert manifests.manifest_digest(RAW) == hashlib.sha256(RAW).hexdigest()


def test_order_of_files_and_patches_time_zone_and_whole_numbers_make_no_difference():
    there = datetime(2026, 11, 25, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    other = changed(files=MANIFEST.files[::-1], patches=MANIFEST.patches[::-1], created_at=there)
    assert make_manifest(other) == RAW
    whole = make_manifest(changed(evaluations=(Evaluation("t", "d", "m", 1, True, "bob"),)))
    assert read_manifest(whole).evaluations[0].value == 1.0


def test_a_first_release_has_none_before_it():
    first = changed(previous=None, evaluations=(), version="0.1.0")
    assert read_manifest(make_manifest(first)) == first


@given(
    st.lists(
        st.builds(
            File,
            st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True),
            st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
            st.integers(0, 2**63 - 1),
        ),
        min_size=1,
        unique_by=lambda file: file.path,
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20),
    st.datetimes(datetime(1970, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC)),
)
def test_whatever_is_written_reads_back_the_same(files, value, word, moment):
    made = changed(
        files=tuple(sorted(files, key=lambda file: file.path)),
        evaluations=(Evaluation(word, word, word, value, False, word),),
        created_at=moment,
    )
    assert read_manifest(make_manifest(made)) == made


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"{" * 100_000, b"[" * 100_000, RAW + b"\n", b" " + RAW, RAW[:-1],
        b"\xef\xbb\xbf" + RAW, RAW.decode().encode("utf-16"),
        RAW.replace(b'"schema":1', b'"schema":1,"schema":1'),
        RAW.replace(b'"serial":12', b'"serial":11,"serial":12'),
        RAW.replace(b'"value":0.1', b'"value":NaN'), RAW.replace(b'"value":0.1', b'"value":1e999'),
        RAW.replace(b'"value":0.1', b'"value":0.10'), RAW.replace(b'"value":0.1', b'"value":1'),
        RAW.replace("Zoë".encode(), b"Zo\\u00eb"), RAW.replace("Zoë".encode(), b"\\ud800"),
        RAW.replace(b'"serial":12', b'"serial":' + b"1" * 5000), RAW.replace(b'"serial":12', b'"serial":true'),
        RAW.replace(b'"serial":12', b'"serial":12.0'), RAW.replace(b".000005Z", b".5Z"),
        written(table(schema=2)), written(table(schema=True)), written(table(schema="1")), written(table(more=1)),
        written({name: value for name, value in table().items() if name != "card_sha256"}),
        written(table(files=[*reversed(table()["files"])])), written(table(files={})), written(table(files=[1])),
        written(table(recipe=None)), written(table(recipe=table()["recipe"] | {"method": "max"})),
        written(table(recipe=table()["recipe"] | {"version": True})), written(table(recipe={"base": BASE})),
        written(table(previous={})), written(table(created_at=5)), written(table(created_at="yesterday")),
        written(table(patches=[patch | {"extra": 1} for patch in table()["patches"]])),
        written(table(model=None)), written(table(base="sha256:")),
    ],
)  # fmt: skip
def test_what_was_not_written_here_is_refused(raw):
    assert raw != RAW
    with pytest.raises(InvalidRequest) as caught:
        read_manifest(raw)
    assert caught.value.message.endswith(".") and len(caught.value.message) < 700


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (RAW.replace(b'"serial":12', b'"serial":11,"serial":12'), "twice"),
        (written(table(more=1)), "exactly the fields"),
        (written(table(audit=table()["audit"] | {"more": 1})), "audit has not exactly the fields hash, serial"),
        (written(table(audit=table()["audit"] | {"serial": "12"})), "audit.serial is not of type int"),
        (written(table(schema=2)), "install the newest"),
        (b" " + RAW, "canonical"),
    ],
)
def test_a_refusal_says_why(raw, why):
    with pytest.raises(InvalidRequest, match=why):
        read_manifest(raw)


def test_no_flipped_byte_reads_as_the_same_release():
    for place in range(len(RAW)):
        try:
            found = read_manifest(RAW[:place] + bytes([RAW[place] ^ 1]) + RAW[place + 1 :])
        except BreadcrumbError:
            continue
        assert found != MANIFEST


def files(*paths):
    return tuple(File(path, "2" * 64, 1) for path in paths)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "model"}, {"model": "Org/model"}, {"version": "1.2"}, {"base": WEIGHTS}, {"base": "0" * 64},
        {"weights_digest": "1" * 64}, {"card_sha256": "5" * 63}, {"changelog_sha256": "G" * 64}, {"files": ()},
        {"files": files("../x")}, {"files": files("/etc/x")}, {"files": files("a/../b")}, {"files": files("a//b")},
        {"files": files(".git")}, {"files": files("a/./b")}, {"files": files("a", "a")}, {"files": files("a\n")},
        {"files": files("a/../b")}, {"files": files("a/b..")}, {"files": files("")}, {"files": files("a" * 256)},
        {"files": (File("a", "2" * 64, -1),)}, {"files": (File("a", "2" * 64, 2**63),)},
        {"recipe": make_recipe(BASE, "0.3", [(A, "1")])},
        {"recipe": make_recipe(WEIGHTS, "0.3", [(A, "1"), (B, "-0.5")])},
        {"patches": MANIFEST.patches[:1]}, {"patches": (*MANIFEST.patches, MANIFEST.patches[0])},
        {"patches": (replace(MANIFEST.patches[0], weight="2"), MANIFEST.patches[1])},
        {"patches": (replace(MANIFEST.patches[0], number=0), MANIFEST.patches[1])},
        {"patches": (replace(MANIFEST.patches[0], approvals=(Approval("bob", B),)), MANIFEST.patches[1])},
        {"builders": ()}, {"builders": (Builder("w", BASE, "cpu"),)},
        {"builders": (*MANIFEST.builders, Builder("w", BASE, "cpu"))}, {"builders": (Builder("", WEIGHTS, "cpu"),)},
        {"evaluations": (Evaluation("t", "d", "m", float("nan"), True, "b"),)},
        {"evaluations": (Evaluation("t", "d\x1b[2J", "m", 1.0, True, "b"),)},
        {"evaluations": (Evaluation("t" * 501, "d", "m", 1.0, True, "b"),)},
        {"evaluations": (Evaluation("\ud800", "d", "m", 1.0, True, "b"),)},
        {"previous": manifests.Previous("1.0", "6" * 64)}, {"previous": manifests.Previous("1.0.0", "6")},
        {"audit": manifests.Audit(-1, "7" * 64)}, {"audit": manifests.Audit(1, "")},
        {"created_at": datetime(2026, 11, 25)},
    ],
)  # fmt: skip
def test_what_no_release_can_be_is_neither_written_nor_read(fields):
    with pytest.raises(InvalidRequest) as caught:
        make_manifest(changed(**fields))
    assert caught.value.message.endswith(".")


def test_a_manifest_has_a_longest_size_both_ways():
    with pytest.raises(TooLarge):
        read_manifest(b" " * (manifests.MOST_BYTES + 1))
    many = tuple(Evaluation("t" * 500, "d" * 500, f"m{n}", 1.0, True, "b") for n in range(17_000))
    with pytest.raises(TooLarge):
        make_manifest(changed(evaluations=many))


def test_patches_are_told_with_their_approvals():
    assert json.loads(RAW)["patches"][0] == {
        "approvals": [{"sha256": A, "who": "bob"}, {"sha256": A, "who": "carol"}],
        "author": "alice", "number": 1, "revision": 2, "sha256": A, "weight": "1",
    }  # fmt: skip
    assert isinstance(read_manifest(RAW).patches[0], Patch)
