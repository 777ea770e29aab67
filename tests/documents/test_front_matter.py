"""Front matter of strangers' cards: JSON or nothing, and never much work."""

import json
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from registry.documents import front_matter
from registry.documents.front_matter import MOST_CHARACTERS, MOST_EVENTS, MOST_NESTED, read_front_matter, words

PIECES = (
    *"-:?[]{},&*!|>%@`#'\"\\\n\t 0aé\u2028\ufeff\ud800",
    "---\n",
    "...\n",
    "<<: ",
    "a: ",
    "- ",
    "? ",
    "&a ",
    "*a",
    "!!",
    "!!int ",
    "!!bool ",
    "!!float ",
    "!!timestamp ",
    "!!binary ",
    "!!set ",
    "!!omap ",
    "!!python/object/apply:os.system ",
    "2001-01-01",
    "99:59:59.5",
    "0x" + "f" * 40,
    ".inf",
    ".nan",
    "~",
    "yes",
    '"\\ud800"',
    '"\\0"',
    "%YAML 9.9\n",
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.datetimes()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def read(text: str) -> dict[str, Any]:
    return read_front_matter(f"---\n{text}\n---\n# Card\n")


def check_plain(value: Any) -> None:
    """Check that a value is JSON, and that a response can encode it."""
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    json.dumps(value, ensure_ascii=False).encode("utf-8")


@given(text=TEXTS)
@example("a: !!bool no bool")
@example('a: !!int ""')
@example('a: !!float ""')
@example("a: !!timestamp then")
@example("a: 2001-99-99")
@example("a: 0x" + "f" * 5000)
@example("a: 1" + ":1" * 3000)
@example("a: 1" + ":1" * 400 + ".5")
@example("a: " + "9" * 5000)
@example("? [a]\n: b")
@example("a: !!set {x, 1}\nb: !!omap [x: 1]\nc: !!pairs [x: 1]\nd: !!binary YQ==")
def test_any_text_is_json_in_the_end(text: str) -> None:
    found = read(text)
    assert isinstance(found, dict)
    check_plain(found)


@given(text=TEXTS)
def test_any_card_is_read_without_an_error(text: str) -> None:
    check_plain(read_front_matter(text))


@given(value=st.dictionaries(st.text("abc_", min_size=1, max_size=5), VALUES, min_size=1, max_size=4))
def test_what_yaml_can_say_is_read_or_refused_whole(value: dict[str, Any]) -> None:
    found = read(yaml.safe_dump(value))
    check_plain(found)
    assert set(found) in (set(), {str(yaml.safe_load(name)) if name in ("~", "") else name for name in value})


def test_a_card_is_read_as_its_author_meant_it() -> None:
    found = read(
        "license: mit\ntags: [a, b]\nnumber: 3\nhalf: 0.5\nyes: no\nnone: ~\nday: 2026-11-27\nnested: {a: [1]}"
    )
    assert found == {
        "license": "mit",
        "tags": ["a", "b"],
        "number": 3,
        "half": 0.5,
        "True": False,
        "none": None,
        "day": "2026-11-27",
        "nested": {"a": [1]},
    }
    assert read("at: 2026-11-27T01:02:03Z")["at"].startswith("2026-11-27T01:02:03")
    assert read_front_matter("---\r\na: b\r\n---\r\ntext") == read_front_matter("--- \na: b\n---") == {"a": "b"}


@pytest.mark.parametrize(
    "card", ["", "a: b", "# Card\n---\na: b\n---\n", "---\na: b\n", "---\n- a\n---\n", "---\n---\n", "---\nx\n---\n"]
)
def test_a_card_without_front_matter_has_none(card: str) -> None:
    assert read_front_matter(card) == {}


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x", "a: &x {b: 1}\n<<: *x", "&a a: *a"])
def test_aliases_are_refused(text: str) -> None:
    assert read(text) == {}


def test_of_a_name_that_is_there_twice_the_last_counts() -> None:
    assert read("a: 1\na: 2") == {"a": 2}


@pytest.mark.parametrize("number", [str(2**64), f"-0x{2**70:x}", "0b" + "1" * 20000, "1_" * 3000])
def test_a_number_that_json_cannot_hold_is_refused(number: str) -> None:
    assert read(f"a: {number}") == {} or isinstance(read(f"a: {number}")["a"], str)
    assert read(f"a: {2**63}") == {"a": 2**63}


def test_invalid_numbers_are_words() -> None:
    assert read("a: .inf\nb: -.inf\nc: .nan\nd: 1e999") == {"a": "inf", "b": "-inf", "c": "nan", "d": "1e999"}


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert read('"\\ud83d": "a\\ude00"') == {"?": "a?"}


def test_what_is_too_long_is_not_read() -> None:
    assert len(read("a: " + "b" * (MOST_CHARACTERS - 20))["a"]) == MOST_CHARACTERS - 20
    assert read("a: " + "b" * MOST_CHARACTERS) == {}
    assert len(read("a: [" + "b," * 4000 + "]")["a"]) == 4000
    assert read("a: [" + "b," * MOST_EVENTS + "]") == {}


def test_nests_are_read_to_a_depth() -> None:
    deepest = "[" * (MOST_NESTED - 1) + "]" * (MOST_NESTED - 1)
    assert read(f"a: {deepest}") != {}
    assert read(f"a: [{deepest}]") == {}


BOMBS = {
    "lists": "a: " + "[" * 30000,
    "objects": "a: " + "{a: " * 7000,
    "dashes": "- " * 15000,
    "questions": "? " * 15000,
    "commas": "a: [" + "a," * 15000 + "]",
    "names": "?\n" * 15000,
    "aliases": "a: &a [x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20)),
    "merges": "<<: [" + "{a: 1}," * 4000 + "]",
    "tags": "%TAG ! tag:x\n" * 2000,
    "spaces": 'a: "' + " " * 30000 + '"',
    "colons": ":" * 30000,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_hostile_card_is_little_work(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in steps of the scanner, which a list of open brackets makes quadratic."""
    calls: Counter[str] = Counter()

    def counted(name: str, cls: type) -> None:
        before = getattr(cls, name)

        def call(self: Any, *rest: Any) -> Any:
            calls[name] += max(1, len(getattr(self, "possible_simple_keys", ())))
            return before(self, *rest)

        monkeypatch.setattr(cls, name, call)

    counted("stale_possible_simple_keys", yaml.scanner.Scanner)
    counted("construct_object", yaml.constructor.BaseConstructor)
    front_matter.read_front_matter.cache_clear()
    read(text)
    assert 0 < calls.total() < 2e6, calls


def test_words_are_one_or_a_list_of_them() -> None:
    assert words("a") == words(["a", "", 3, None, ["b"]]) == ["a"]
    assert words(None) == words({"a": "b"}) == words("") == words(3) == []
