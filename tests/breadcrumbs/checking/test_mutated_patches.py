"""A patch with a few edits anywhere: refused in words, or read as the safetensors library reads it."""

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.checking.check import check_patch
from registry.breadcrumbs.formats.header import PATCH_LIMITS
from registry.breadcrumbs.formats.header_reader import read_header
from registry.errors import InvalidInput, InvalidPatch, TooLarge
from tests.support.science_makers import frame
from tests.support.sound_patch import SPECS, digest, make_sound

TOKENS = [
    b'"U8"',
    b'"I32"',
    b'"F64"',
    b"-1",
    b"0",
    b"9007199254740993",
    b"1e3",
    b"[]",
    b"{}",
    b"null",
    b"true",
    b'"\\u0061"',
    b"[0,0]",
    b'"a.values"',
    b'"b.indices"',
    b'"data_offsets"',
    b" ",
    b",",
    b":",
    b"\\",
    b'"',
    b"\xff",
    b"\0",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_sound(tmp_path_factory.mktemp("sound"))


@st.composite
def mutations(draw):
    """One to three edits: of bytes anywhere, or of the header's tokens with its length put right again."""
    edits = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["flip", "cut", "insert", "token", "number", "copy", "length"]))
        edits.append(
            (
                kind,
                draw(st.floats(0, 1)),
                draw(st.floats(0, 1)),
                draw(st.sampled_from(TOKENS)),
                draw(st.integers(0, 2**64 - 1)),
            )
        )
    return edits


def mutate(content, edits):
    for kind, place, other, token, number in edits:
        size = 8 + int.from_bytes(content[:8], "little")
        text, data = content[8:size], content[size:]
        at, to = int(place * max(len(text) - 1, 0)), int(other * max(len(text) - 1, 0))
        if kind == "flip":
            i = int(place * (len(content) - 1))
            content = content[:i] + bytes([content[i] ^ (1 << number % 8)]) + content[i + 1 :]
        elif kind == "cut":
            content = frame(text[:at] + text[at + 1 + number % 9 :], data)
        elif kind == "insert":
            content = frame(text[:at] + token + text[at:], data)
        elif kind == "copy":
            content = frame(text[:at] + text[min(at, to) : max(at, to)] + text[at:], data)
        elif kind == "length":
            content = number.to_bytes(8, "little") + content[8:]
        else:
            marks = [i for i, char in enumerate(text) if chr(char) in ('"' if kind == "token" else "0123456789")]
            if marks:
                i = marks[int(place * (len(marks) - 1))]
                content = frame(
                    text[:i] + (token if kind == "token" else str(number % 300).encode()) + text[i + 1 :], data
                )
        if len(content) < 8:
            break
    return content


@given(mutations())
@settings(max_examples=1500, deadline=None)
def test_a_mutated_patch_is_refused_in_words_or_read_as_the_library_reads_it(sound, tmp_path_factory, edits):
    content = mutate(sound, edits)
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    try:
        check_patch(path, digest(sound), SPECS)
    except (InvalidInput, TooLarge) as refusal:
        assert str(refusal).endswith(".")
        return
    with path.open("rb") as file:
        entries = read_header(file, len(content), "It", PATCH_LIMITS, InvalidPatch).entries.values()
    ours = {e.name: (e.dtype, list(e.shape), content[e.start : e.stop]) for e in entries}
    theirs = {name: (e["dtype"], e["shape"], bytes(e["data"])) for name, e in safetensors.deserialize(content)}
    assert ours == theirs
