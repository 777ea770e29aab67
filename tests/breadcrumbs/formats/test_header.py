import io
import json
import re

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.formats import header_reader
from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, Flaw, Limits, format_header
from registry.breadcrumbs.formats.header_reader import read_header
from registry.errors import InvalidCheckpoint
from tests.support.science_makers import build, frame

SMALL = Limits(header_bytes=2000, entries=5, metadata_bytes=300, metadata_keys=10)
GOOD = '{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'


class Counted(io.BytesIO):
    taken = 0

    def read(self, size=-1):
        got = super().read(size)
        self.taken += len(got)
        return got


def parse(content: bytes, limits: Limits = SMALL):
    return read_header(io.BytesIO(content), len(content), "It", limits, InvalidCheckpoint)


def test_a_header_is_read_as_the_library_reads_it():
    content = build(
        {"format": "pt"}, [("b", "F32", [2, 1], b"8" * 8), ("a", "U8", [0], b""), ("ü.x", "BF16", [], b"22")]
    )
    header = parse(content)
    assert header.metadata == {"format": "pt"}
    assert [(e.name, e.dtype, e.shape) for e in header.entries.values()] == [
        ("b", "F32", (2, 1)), ("a", "U8", (0,)), ("ü.x", "BF16", ()),
    ]  # fmt: skip
    theirs = {name: bytes(entry["data"]) for name, entry in safetensors.deserialize(content)}
    assert {e.name: content[e.start : e.stop] for e in header.entries.values()} == theirs
    assert header.size == 8 + int.from_bytes(content[:8], "little")


def test_a_written_header_is_canonical_and_read_back():
    entries = [("z", "F64", (3,)), ('a"ü', "U8", (0, 2)), ("m", "BF16", ())]
    head = format_header(entries, {"b": "2", "a": "ü"})
    assert len(head) % 8 == 0
    assert head[8:].startswith(
        '{"__metadata__":{"a":"ü","b":"2"},"z":{"dtype":"F64","shape":[3],"data_offsets":[0,24]}'.encode()
    )
    header = parse(head + b"\0" * 26)
    assert [(e.name, e.dtype, e.shape) for e in header.entries.values()] == [entries[0], entries[1], entries[2]]
    assert safetensors.deserialize(head + b"\0" * 26)
    assert format_header([]) == frame(b"{}      ", b"")


HOSTILE = {
    "empty file": (b"", "shorter than the 8 bytes"),
    "seven bytes": (b"\0" * 7, "shorter than the 8 bytes"),
    "length of zero": (b"\0" * 8, "claims 0 bytes"),
    "length beyond the file": ((2**63).to_bytes(8, "little") + b"{}", "claims"),
    "length over the limit": (frame(b'{"a":' + b" " * 2100 + b"{}}", b""), "more than the 2000 allowed"),
    "leading space": (frame(b" {}", b""), "start with '{'"),
    "byte order mark": (frame(b"\xef\xbb\xbf{}", b""), "start with '{'"),
    "a list": (frame(b"[]", b""), "start with '{'"),
    "not UTF-8": (frame(b'{"\xff":' + GOOD.encode() + b"}", b"xx"), "not UTF-8"),
    "trailing newline": (frame(b'{"a":' + GOOD.encode() + b"}\n", b"xx"), "other than spaces"),
    "trailing NUL": (frame(b'{"a":' + GOOD.encode() + b"}\0", b"xx"), "other than spaces"),
    "name twice": (frame(f'{{"a":{GOOD},"a":{GOOD}}}'.encode(), b"xx"), "'a': the name occurs twice"),
    "name twice by escape": (frame(f'{{"a":{GOOD},"\\u0061":{GOOD}}}'.encode(), b"xx"), "'a': the name occurs twice"),
    "field twice": (
        frame(b'{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}', b"xx"),
        "'a': field dtype occurs twice",
    ),
    "unknown field": (
        frame(b'{"a":{"dtype":"U8","x":"y","shape":[2],"data_offsets":[0,2]}}', b"xx"),
        "'a': field 'x' is unknown",
    ),
    "no dtype": (frame(b'{"a":{"shape":[2],"data_offsets":[0,2]}}', b"xx"), "'a': it has no dtype"),
    "no fields": (frame(b'{"a":{}}', b""), "'a': it has no dtype, shape, data_offsets"),
    "metadata twice": (frame(b'{"__metadata__":{},"__metadata__":{}}', b""), "twice"),
    "metadata key twice": (frame(b'{"__metadata__":{"a":"1","a":"2"}}', b""), "key 'a' occurs twice"),
    "metadata number": (frame(b'{"__metadata__":{"a":1}}', b""), "a string was expected"),
    "metadata null": (frame(b'{"__metadata__":null}', b""), "'{' was expected"),
    "metadata of many keys": (
        frame(b'{"__metadata__":{' + b",".join(b'"%x":""' % key for key in range(11)) + b"}}", b""),
        "more than the 10 keys allowed",
    ),
    "metadata too long": (frame(b'{"__metadata__":{"a":"' + b"x" * 400 + b'"}}', b""), "longer than the 300"),
    "unknown dtype": (build(None, [("a", "U9", [2], b"xx")]), "'a': dtype 'U9' is unknown"),
    "dtype in lower case": (build(None, [("a", "u8", [2], b"xx")]), "dtype 'u8' is unknown"),
    "negative length": (build(None, [("a", "U8", [-2], b"xx")]), "'a': a list of plain integers"),
    "fractional length": (build(None, [("a", "U8", [2.0], b"xx")]), "'a': a list of plain integers"),
    "exponent": (frame(GOOD.join(['{"a":', "}"]).replace("[2]", "[2e0]").encode(), b"xx"), "list of plain integers"),
    "bool length": (build(None, [("a", "U8", [True, 2], b"xx")]), "list of plain integers"),
    "leading zero": (
        frame(GOOD.join(['{"a":', "}"]).replace("[2]", "[02]").encode(), b"xx"),
        "'02' is not a plain integer",
    ),
    "trailing comma": (frame(GOOD.join(['{"a":', "}"]).replace("[2]", "[2,]").encode(), b"xx"), "not a plain integer"),
    "beyond 2^53": (build(None, [("a", "U8", [2**53 + 1], b"xx")]), "not a plain integer from 0 to 2\\^53"),
    "product overflow": (build(None, [("a", "U8", [2**32, 2**32], b"")]), "'a': its shape has too many"),
    "zero-size giant": (build(None, [("a", "U8", [2**53, 2**10, 0], b"")]), "'a': its shape has too many"),
    "rank 9": (build(None, [("a", "U8", [1] * 9, b"x")]), "'a': a list has more than 8"),
    "too many entries": (build(None, [(str(i), "U8", [1], b"x") for i in range(6)]), "more than the 5 entries"),
    "three offsets": (frame(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,2]}}', b"xx"), "two integers"),
    "offsets backwards": (frame(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}', b"xx"), "'a': -2 bytes"),
    "wrong length": (build(None, [("a", "F32", [2], b"xx")]), "'a': 2 bytes of data do not hold"),
    "gap": (
        frame(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xx"),
        "'a': its data starts at 1 and not at 0",
    ),
    "overlap": (frame(f'{{"a":{GOOD},"b":{GOOD}}}'.encode(), b"xx"), "'b': its data starts at 0 and not at 2"),
    "bytes after": (build(None, [("a", "U8", [2], b"xx")]) + b"PK", "take 2 bytes, and the file holds 4"),
    "truncated": (build(None, [("a", "U8", [2], b"xx")])[:-1], "take 2 bytes, and the file holds 1"),
    "lone surrogate": (frame(f'{{"\\ud800":{GOOD}}}'.encode(), b"xx"), "not sound JSON or Unicode"),
    "bad escape": (frame(f'{{"\\x41":{GOOD}}}'.encode(), b"xx"), "not sound JSON or Unicode"),
    "NUL in a name": (frame(f'{{"\\u0000":{GOOD}}}'.encode(), b"xx"), "NUL, TAB or LF"),
    "TAB in a name": (frame(f'{{"a\\tb":{GOOD}}}'.encode(), b"xx"), "NUL, TAB or LF"),
    "deep nesting": (frame(b"{" + b'"a":{' * 300 + b"}" * 301, b""), "'a': field 'a' is unknown"),
    "deep list": (frame(b'{"a":{"shape":' + b"[" * 1900, b""), "list of plain integers"),
    "comma missing": (frame(f'{{"a":{GOOD} "b":{GOOD}}}'.encode(), b"xx"), "',' was expected"),
    "unclosed": (frame(b'{"a":{"dtype":"U8"', b""), "',' was expected"),
    "constant": (frame(b'{"a":NaN}', b""), "'{' was expected"),
    "comment": (frame(b"{/**/}", b""), "a string was expected"),
    "single quotes": (frame(b"{'a':1}", b""), "a string was expected"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_breaks_a_rule_is_refused_by_name(case):
    content, rule = HOSTILE[case]
    with pytest.raises(InvalidCheckpoint, match=rule):
        parse(content)


def test_no_more_is_read_than_the_limit():
    content = frame(b'{"a":' + b" " * 10**6 + b"{}}", b"")
    file = Counted(content)
    with pytest.raises(InvalidCheckpoint):
        read_header(file, len(content), "It", SMALL, InvalidCheckpoint)
    assert file.taken == 8


def test_a_large_honest_header_is_read():
    entries = [(f"model.layers.{i}.weight", "U8", [1], b"x") for i in range(20_000)]
    assert len(parse(build(None, entries), CHECKPOINT_LIMITS).entries) == 20_000


def test_whitespace_and_escapes_are_json():
    text = json.dumps({"é\U0001f600/": json.loads(GOOD)}, indent=2).replace("/", "\\/") + "   "
    assert list(parse(frame(text.encode(), b"xx")).entries) == ["é\U0001f600/"]
    assert [name for name, _ in safetensors.deserialize(frame(text.encode(), b"xx"))] == ["é\U0001f600/"]


ENTRY = '"{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offsets}]}}'
WORDS = st.sampled_from(["a", "b", "__metadata__", "\\u0061", "é", "", "a\x7f", "a\t", '\\"', "a.b"])
NUMBERS = st.lists(st.sampled_from(["0", "1", "2", "007", "-1", "1e3", " 2", "9007199254740993", "٣"]), max_size=10)


@given(
    st.lists(
        st.tuples(WORDS, st.sampled_from(["F32", "BF16", "f32", "X"]), NUMBERS, NUMBERS, st.booleans()), max_size=4
    ),
    st.sampled_from([",", ", ", ",,"]),
)
@settings(max_examples=300, deadline=None)
def test_entries_read_at_once_are_those_read_word_by_word(parts, comma):
    texts = []
    for name, dtype, shape, offsets, spaced in parts:
        text = ENTRY.format(name=name, dtype=dtype, shape=",".join(shape), offsets=",".join(offsets))
        texts.append(text.replace(":", " : ", 2) if spaced else text)
    text = "{" + comma.join(texts) + "}"
    fields = ("dtype", "shape", "data_offsets")

    def parsed():
        try:
            return header_reader.parse_entries(text, fields, CHECKPOINT_LIMITS, lambda *parts: parts)
        except Flaw as flaw:
            return flaw.rule, flaw.entry

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(header_reader._USUAL, fields, re.compile("(?!)"))
        expected = parsed()
    assert parsed() == expected
