"""Front matter: the YAML at the head of a README.md, as JSON, which the Hub calls `cardData`.

Strangers write it, so its length is bounded before it is read, and it is parsed to plain values only. What would take
more work than its length suggests is refused: aliases, a few lines of which expand to gigabytes, and deep nesting,
which takes the scanner half a minute for thirty thousand brackets.
"""

import datetime
import math
import re
from functools import lru_cache
from typing import Any

FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
MOST_CHARACTERS = 32 * 2**10
MOST_NESTED = 12
MOST_EVENTS = 2**13
MOST_BITS = 64  # a number with thousands of digits cannot be written as JSON
BROKEN = (ValueError, LookupError, ArithmeticError, AttributeError, TypeError, RecursionError)  # `!!bool no bool`


@lru_cache(maxsize=512)
def read_front_matter(card: str) -> dict[str, Any]:
    """Return a card's front matter as JSON; empty if it has none that can be read.

    Args:
        card: The text of a README.md.

    Returns:
        Strings, numbers, lists and objects; shared by all callers, who must not change it.
    """
    import yaml  # a dependency of huggingface_hub; only this function reads YAML

    match = FRONT.match(card[: MOST_CHARACTERS + 8])
    if match is None:
        return {}
    try:
        nested = 0
        for count, event in enumerate(yaml.parse(match[1], yaml.SafeLoader)):  # stops at the first error
            nested += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or nested > MOST_NESTED or count > MOST_EVENTS:
                return {}
        plain = _plain(yaml.safe_load(match[1]))
    except (yaml.YAMLError, *BROKEN):
        return {}
    return plain if isinstance(plain, dict) else {}


def card_license(card: str) -> str | None:
    """Return the licence that a card's front matter names, if it names one."""
    front = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---", card, re.DOTALL)
    line = r"^license:[ \t]*[\"']?([a-z0-9][a-z0-9.+-]{0,63})[\"']?[ \t]*$"
    match = re.search(line, front[1], re.MULTILINE) if front else None
    return match[1] if match else None


def words(value: Any) -> list[str]:
    """Return the words of a front matter field, which may be one word or a list of them."""
    listed = value if isinstance(value, list) else [value]
    return [word for word in listed if isinstance(word, str) and word]


def _plain(value: Any) -> Any:
    """Return a value as JSON.

    Raises:
        ValueError: A number is too large.
    """
    if isinstance(value, dict):
        return {_text(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError("The number is too large.")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else _text(value)


def _text(value: Any) -> str:
    """Return a value as text that UTF-8 can encode: YAML can contain half of a surrogate pair."""
    return str(value).encode("utf-8", "replace").decode("utf-8")
